"""Heads: whose head trains, whose stays, and which classes count."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clfunc import adam, adamw, carry, cil, dil, finetuning, joint, mlp, mtl, sgd, stl, til, tree
from clfunc.losses import cross_entropy
from clfunc.random import key, normal, randint
from clfunc.testing.laws import identical
from clfunc.types import Batch, Task

pytestmark = pytest.mark.typed
INPUTS, BATCH = 5, 12
counts = st.lists(st.integers(1, 4), min_size=1, max_size=4)
optimizers = st.sampled_from(
    [sgd(0.1, 0.9, weight_decay=0.1), adam(0.01, weight_decay=0.1), adamw(0.01), carry(adamw(0.01))]
)


def begin(task):
    return Task(*torch.tensor([task, 1, 1]))


def batch_of(seed, task, low, high, tasks=None):
    y = randint(key(seed), (BATCH,), 0, high - low, at=1) + low
    task = (
        torch.tensor(task)
        if tasks is None
        else torch.tensor(tasks)[torch.arange(BATCH) % len(tasks)]
    )
    return Batch(normal(key(seed), (BATCH, INPUTS)), y, task, torch.ones(BATCH))


def head_of(params, state, task):
    return tree.where(
        torch.tensor(task) == state.bank.current,
        params["head"],
        tree.index(state.bank.rows["head"], task),
    )


@given(counts, optimizers, st.data())
def test_no_other_tasks_head_moves_under_any_optimizer_and_task_order(classes, tx, data):
    order = data.draw(st.lists(st.integers(0, len(classes) - 1), min_size=1, max_size=4))
    algorithm = finetuning(mlp(INPUTS, (4,), til(len(classes), classes)), tx)
    params, state = algorithm.init(key(0))
    for task in order:
        params, state = algorithm.begin_task(params, state, begin(task))
        before = [head_of(params, state.head, t) for t in range(len(classes))]
        for step in range(3):
            params, state, _ = algorithm.step(params, state, batch_of(step, task, 0, classes[task]))
        params, state = algorithm.end_task(params, state)
        after = [head_of(params, state.head, t) for t in range(len(classes))]
        for t, (old, new) in enumerate(zip(before, after, strict=True)):
            assert identical(old, new) or t == task
            assert not identical(old, new) or t != task or classes[t] == 1


def test_a_revisited_task_finds_its_own_head_again():
    algorithm = finetuning(mlp(INPUTS, (4,), til(3, 2)), sgd(0.1))
    params, state = algorithm.init(key(0))
    trained = {}
    for task in (2, 0, 1):
        params, state = algorithm.begin_task(params, state, begin(task))
        params, state, _ = algorithm.step(params, state, batch_of(task, task, 0, 2))
        params, state = algorithm.end_task(params, state)
        trained[task] = params["head"]
    for task, head in trained.items():
        again, _ = algorithm.begin_task(params, state, begin(task))
        assert identical(again["head"], head)


@given(counts, st.data())
def test_til_logits_are_masked_past_the_tasks_own_classes(classes, data):
    task = data.draw(st.integers(0, len(classes) - 1))
    algorithm = finetuning(mlp(INPUTS, (4,), til(len(classes), classes)), sgd(0.1))
    params, state = algorithm.init(key(0))
    logits = algorithm.predict(params, state, normal(key(1), (BATCH, INPUTS)), torch.tensor(task))
    assert logits.shape == (BATCH, max(classes))
    assert (
        logits[:, : classes[task]].isfinite().all()
        and (logits[:, classes[task] :] == -torch.inf).all()
    )


@given(counts, st.data())
def test_cil_logits_are_finite_for_exactly_the_classes_of_the_tasks_begun_in_any_order(
    classes, data
):
    order = data.draw(st.permutations(range(len(classes))))
    algorithm = finetuning(mlp(INPUTS, (4,), cil(len(classes), classes)), sgd(0.1))
    params, state = algorithm.init(key(0))
    starts = [sum(classes[:t]) for t in range(len(classes))]
    seen = set()
    for task in order:
        params, state = algorithm.begin_task(params, state, begin(task))
        seen |= set(range(starts[task], starts[task] + classes[task]))
        logits = algorithm.predict(params, state, normal(key(1), (BATCH, INPUTS)), torch.tensor(0))
        assert {c for c in range(sum(classes)) if logits[:, c].isfinite().all()} == seen
        batch = batch_of(task, task, starts[task], starts[task] + classes[task])
        params, state, metrics = algorithm.step(params, state, batch)
        assert metrics["loss"].isfinite() and all(
            leaf.isfinite().all() for leaf in tree.leaves(params)
        )
    again, revisited = algorithm.begin_task(params, state, begin(order[0]))
    assert identical((again, revisited.head), (params, state.head))


@pytest.mark.parametrize("head", [dil(3, (2, 4, 3)), stl(4)], ids=["dil", "stl"])
def test_one_shared_head_is_as_wide_as_the_largest_task_and_ignores_the_task(head):
    model = mlp(INPUTS, (4,), head)
    params, x = model.init(key(0)), normal(key(1), (BATCH, INPUTS))
    logits = [model.apply(params, x, torch.tensor(t)).logits for t in range(3)]
    assert (
        logits[0].shape == (BATCH, 4)
        and identical(logits[0], logits[1])
        and identical(logits[0], logits[2])
    )


@given(counts, st.data())
def test_mtl_gives_each_example_its_own_tasks_head(classes, data):
    tasks = data.draw(st.lists(st.integers(0, len(classes) - 1), min_size=BATCH, max_size=BATCH))
    model = mlp(INPUTS, (4,), mtl(len(classes), classes))
    params, x = model.init(key(0)), normal(key(1), (BATCH, INPUTS))
    state = model.head.bank.init(key(2), params)
    output = model.apply(params, x, torch.tensor(tasks))
    logits = model.head.mask(state, output.logits, torch.tensor(tasks))
    for i, task in enumerate(tasks):
        head = tree.index(params["head"], task)
        own = head["weight"] @ output.features["hidden1"][i] + head["bias"]
        torch.testing.assert_close(logits[i, : classes[task]], own[: classes[task]])
        assert (logits[i, classes[task] :] == -torch.inf).all()
    alone = model.apply(params, x, torch.tensor(tasks[0])).logits
    torch.testing.assert_close(alone[0], output.logits[0])


@given(
    st.sets(st.integers(0, 3), min_size=1, max_size=3),
    optimizers,
    st.sampled_from(["tasks", "examples"]),
)
def test_a_joint_step_does_not_move_the_heads_of_absent_tasks(present, tx, average):
    algorithm = joint(mlp(INPUTS, (4,), mtl(4, 2)), tx, average=average)
    params, state = algorithm.init(key(0))
    moved = params
    for step in range(3):
        moved, state, _ = algorithm.step(
            moved, state, batch_of(step, 0, 0, 2, tasks=sorted(present))
        )
    for task in range(4):
        same = identical(tree.index(params["head"], task), tree.index(moved["head"], task))
        assert same == (task not in present)


def test_joint_averages_over_the_tasks_present_in_the_batch():
    model = mlp(INPUTS, (4,), mtl(4, 3))
    params, batch = model.init(key(0)), batch_of(1, 0, 0, 3, tasks=[2, 2, 2, 0])
    batch = batch._replace(weight=(torch.arange(BATCH) != 3).to(torch.float32))
    logits = model.apply(params, batch.x, batch.task).logits
    own = [(batch.task == t) & (batch.weight > 0) for t in (0, 2)]
    by_task = [
        cross_entropy(logits[rows], batch.y[rows], torch.ones(int(rows.sum()))) for rows in own
    ]
    for average, expected in (
        ("tasks", sum(by_task) / 2),
        ("examples", cross_entropy(logits, batch.y, batch.weight)),
    ):
        algorithm = joint(model, sgd(0.1), average=average)
        state = algorithm.init(key(0))[1]
        torch.testing.assert_close(algorithm.step(params, state, batch)[2]["loss"], expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: til(0, 2),
        lambda: til(3, (2, 2)),
        lambda: cil(2, (2, 0)),
        lambda: dil(2, 0),
        lambda: mtl(-1, 2),
    ],
)
def test_impossible_counts_are_refused_in_one_line(make):
    with pytest.raises(ValueError, match="given") as error:
        make()
    assert "\n" not in str(error.value)
