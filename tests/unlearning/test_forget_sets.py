"""Forgetting examples of a task: every update is in one record, whatever is forgotten, against a
list of every update.
"""

import pytest
import torch
from support.strict import without_type_checks

import clfunc
from clfunc import (
    ForgetSet,
    amnesiac,
    carry,
    cil,
    dil,
    finetuning,
    mlp,
    run,
    scenarios,
    sgd,
    sweep,
    til,
    tree,
)
from clfunc.models.heads import regression
from clfunc.random import fold_in, key, normal, split
from clfunc.testing.laws import distance, identical
from clfunc.testing.play import toy_data, toy_stream
from clfunc.types import Batch, Task
from clfunc.unlearning import forget_sets
from clfunc.unlearning.records import every

TASKS, STEPS = 2, 6
HEADS = {"til": til, "cil": cil, "dil": dil}
# labels of each step of a task, and rows: so that by step 0 is of class 0, 1 of classes 0 and 1,
# and so on
LABELS = ((0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 2))
DECLARED = {
    "zero": ForgetSet(0, classes=(0,)),
    "one": ForgetSet(0, classes=(1,)),
    "late": ForgetSet(1, rows=(104, 105, 99)),
    "by hand": ForgetSet(1, concerns=lambda batch: batch.rows == 102),
}
SETS = list(DECLARED.values())
TOUCHED = {
    "zero": {(0, 0), (0, 1)},
    "one": {(0, 1), (0, 2), (0, 3)},
    "late": {(1, 4), (1, 5)},
    "by hand": {(1, 2)},
}


def make(paradigm="til", **settings):
    model = mlp(5, (6, 4), HEADS[paradigm](TASKS, 3), dtype=torch.float64)
    inner = finetuning(model, carry(sgd(0.1, 0.9)))
    return inner, amnesiac(
        inner, num_tasks=TASKS, forget_sets=settings.pop("forget_sets", SETS), **settings
    )


def mask_of(tasks=(), names=()):
    """What `unlearn` takes for these tasks and these declared sets, by name."""
    wanted = [ForgetSet(task) for task in tasks] + [DECLARED[name] for name in names]
    return forget_sets.mask(TASKS, SETS, wanted)


def batch(task, step, paradigm="til"):
    y = torch.tensor(LABELS[step]) + (3 * task if paradigm == "cil" else 0)
    rows = 100 * task + step + torch.tensor([0, 50])
    x = normal(fold_in(key(1), task, step), (2, 5), dtype=torch.float64)
    return Batch(x, y, torch.tensor(task), torch.ones(2, dtype=torch.float64), rows)


def begin(algorithm, carry, task):
    return algorithm.begin_task(*carry, Task(*torch.tensor([task, STEPS, 1])))


def whole(algorithm, carry):
    own = algorithm.bank.rows(*carry)
    return {group: part for group, part in carry[0].items() if group not in own} | own


def train(algorithm, paradigm="til", tasks=range(TASKS), start=None):
    """After training, and the change of all parameters at each step, by `(task, step)`."""
    carry, changes = start or algorithm.init(key(0)), {}
    for task in tasks:
        carry = begin(algorithm, carry, task)
        for step in range(STEPS):
            before = whole(algorithm, carry)
            *carry, _ = algorithm.step(*carry, batch(task, step, paradigm))
            changes[task, step] = tree.sub(whole(algorithm, carry), before)
        carry = algorithm.end_task(*carry)
    return carry, changes


def without(algorithm, carry, changes, steps):
    theta = whole(algorithm, carry)
    for step in steps:
        theta = tree.sub(theta, changes[step])
    return theta


def of_task(task):
    return {(task, step) for step in range(STEPS)}


@pytest.mark.parametrize("paradigm", HEADS)
@pytest.mark.parametrize(
    ("tasks", "names", "gone"),
    [
        ((), (), set()),
        ((), ("zero",), TOUCHED["zero"]),
        ((), ("zero", "one"), TOUCHED["zero"] | TOUCHED["one"]),
        ((), ("late",), TOUCHED["late"]),
        ((), ("by hand", "zero"), TOUCHED["by hand"] | TOUCHED["zero"]),
        ((0,), (), of_task(0)),
        ((0,), ("zero", "late"), of_task(0) | TOUCHED["late"]),
        ((0, 1), ("one",), of_task(0) | of_task(1)),
    ],
)
def test_a_set_takes_off_every_batch_that_touched_it_and_a_task_all_of_its_batches(
    paradigm, tasks, names, gone
):
    inner, algorithm = make(paradigm)
    carry, _ = train(algorithm, paradigm)
    wanted = mask_of(tasks, names)
    forget_sets.refuse_shared(SETS, carry[1].records.held, wanted)
    found = whole(algorithm, algorithm.unlearn(*carry, wanted))
    expected = without(algorithm, carry, train(inner, paradigm)[1], gone)
    assert distance(found, expected) < 1e-12
    assert gone == set() or distance(found, whole(algorithm, carry)) > 1e-3


@pytest.mark.parametrize("paradigm", HEADS)
def test_a_set_and_then_its_task_take_nothing_off_twice(paradigm):
    _, algorithm = make(paradigm)
    carry, changes = train(algorithm, paradigm)
    start = whole(algorithm, algorithm.init(key(0)))
    for first, then in (("zero", 0), ("late", 1)):
        one = algorithm.unlearn(*carry, mask_of((), (first,)))
        both = algorithm.unlearn(*one, mask_of((then,)))
        assert (
            distance(whole(algorithm, both), without(algorithm, carry, changes, of_task(then)))
            < 1e-12
        )
        again = algorithm.unlearn(*both, mask_of((then,), (first,)))
        assert identical(whole(algorithm, again), whole(algorithm, both))
    all_of_it = algorithm.unlearn(*carry, torch.ones(TASKS, dtype=torch.bool))
    assert distance(whole(algorithm, all_of_it), start) < 1e-12 and all_of_it[1].forgotten.all()


@pytest.mark.parametrize("paradigm", HEADS)
def test_training_is_the_same_and_every_update_is_in_one_record(paradigm):
    inner, algorithm = make(paradigm)
    (params, state), changes = train(algorithm, paradigm)
    assert identical(train(inner, paradigm)[0], (params, state.inner))
    start, records, own = (
        whole(algorithm, algorithm.init(key(0))),
        every(state.records),
        algorithm.bank.rows(params, state),
    )
    rows = [of_task(t) - set().union(*TOUCHED.values()) for t in range(TASKS)]
    rows += [TOUCHED["zero"], TOUCHED["one"] - TOUCHED["zero"], TOUCHED["late"], TOUCHED["by hand"]]
    for row, steps in enumerate(rows):
        total = tree.zeros_like(start)
        for step in steps:
            total = tree.add(total, changes[step])
        total = {
            g: part if g not in own else tree.map(lambda leaf: leaf.sum(0), part)
            for g, part in total.items()
        }
        assert distance(tree.index(records, row), total) < 1e-12
    assert state.records.held.tolist() == [[2, 0, 0, 0], [1, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]


def test_a_set_whose_batches_are_recorded_for_another_is_refused_alone_and_forgotten_with_it_or_after_it():
    _, algorithm = make()
    carry, _ = train(algorithm)
    wanted = mask_of((), ("one",))
    with pytest.raises(
        ValueError,
        match=r"^task 1 classes 1 shares 1 batch\(es\) with task 1 classes 0: forget both, or declare one set$",
    ):
        forget_sets.refuse_shared(SETS, carry[1].records.held, wanted)
    many = torch.stack([carry[1].records.held] * 2)
    with pytest.raises(ValueError, match=r"^task 1 classes 1 shares 1 batch"):
        forget_sets.refuse_shared(SETS, many, torch.stack([torch.zeros_like(wanted), wanted]))
    carry = algorithm.unlearn(*carry, mask_of((), ("zero",)))
    forget_sets.refuse_shared(SETS, carry[1].records.held, wanted)
    undone = algorithm.unlearn(*carry, wanted)
    assert undone[1].forgotten.tolist() == [False, False, True, True, False, False]


def test_a_set_touched_again_is_no_longer_forgotten_and_can_be_forgotten_again():
    _, algorithm = make()
    wanted = mask_of((), ("late",))
    carry = algorithm.unlearn(*train(algorithm)[0], wanted)
    again, changes = train(algorithm, tasks=(1,), start=carry)
    assert not again[1].forgotten.any()
    undone = whole(algorithm, algorithm.unlearn(*again, wanted))
    assert distance(undone, without(algorithm, again, changes, TOUCHED["late"])) < 1e-12


def test_an_example_of_weight_zero_touches_nothing():
    made = batch(0, 1)._replace(weight=torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert forget_sets.touched(SETS, made).tolist() == [False, True, False, False]
    assert forget_sets.touched(SETS, batch(1, 4)).tolist() == [False, False, True, False]


def test_each_run_of_a_sweep_forgets_its_own_sets():
    _, algorithm = make()
    many, keys = sweep([algorithm] * 2), split(key(0))
    alone = [algorithm.init(k) for k in keys]
    params, state = many.init(keys)
    params, state = many.begin_task(
        params, state, Task(*torch.tensor([0, STEPS, 1])[:, None].expand(3, 2))
    )
    alone = [begin(algorithm, c, 0) for c in alone]
    for step in range(STEPS):
        params, state, _ = many.step(params, state, tree.stack([batch(0, step)] * 2))
        alone = [algorithm.step(*c, batch(0, step))[:2] for c in alone]
    wanted = torch.stack([mask_of((), names) for names in (("zero",), ("zero", "one"))])
    together = many.unlearn(params, state, wanted)
    for i, c in enumerate(alone):
        assert distance(tree.index(together, i), algorithm.unlearn(*c, wanted[i])) < 1e-11


def test_a_class_is_forgotten_of_a_real_run():
    scenario = toy_stream(num_tasks=1, paradigm="dil")
    twos = ForgetSet(0, classes=(2,))
    inner = finetuning(mlp(scenario.inputs, (8,), scenario.head()), sgd(0.1))
    result = run(
        amnesiac(inner, num_tasks=1, forget_sets=[twos]),
        scenario,
        key(0),
        engine="eager",
        batch_size=2,
        epochs=3,
        progress=False,
    )
    params, state = result.params, result.state
    wanted = forget_sets.mask(1, [twos], [twos])
    less, _ = amnesiac(inner, num_tasks=1, forget_sets=[twos]).unlearn(params, state, wanted)
    test = scenario.test(0)
    made = scenario.batch(scenario.data, test, test.test)
    of_class = made.y == 2

    def right(params):
        return (inner.predict(params, state.inner, made.x, made.task).argmax(1) == made.y).to(
            torch.float64
        )

    assert right(params)[of_class].mean() > 0.8 and right(less)[of_class].mean() < 0.2


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ([ForgetSet(2, classes=(1,))], r"a forget set must be of a task in 0\.\.1, given task=2"),
        (
            [ForgetSet(0, classes=(99,))],
            r"a forget set must name classes of task 0, 0\.\.2, given 99",
        ),
        (
            [ForgetSet(1, classes=(2, 3))],
            r"a forget set must name classes of task 1, 0\.\.2, given 3",
        ),
        (
            [ForgetSet(0, classes=(-1,))],
            r"a forget set must name classes of task 0, 0\.\.2, given -1",
        ),
        (
            [ForgetSet(0, classes=3)],
            r"a forget set lists its classes or rows, such as classes=\(3,\), given .*",
        ),
        (
            [ForgetSet(0)],
            "a declared forget set must name either classes, rows or a function .*, given .*",
        ),
        (
            [ForgetSet(0, (1,), (2,))],
            "a declared forget set must name either classes, rows or a function .*, given .*",
        ),
        (
            [ForgetSet(0, (1, 2)), ForgetSet(0, (2, 0))],
            "two forget sets of task 0 both hold 2: declare one set",
        ),
        (
            [ForgetSet(0, rows=(7,)), ForgetSet(0, rows=(7, 8))],
            "two forget sets of task 0 both hold 7: declare one set",
        ),
        (
            [ForgetSet(0, concerns=torch.sign), ForgetSet(0, concerns=torch.sign)],
            "two forget sets of task 0 have one function: declare one",
        ),
        ({"a": 0}, r"forget_sets takes cl\.ForgetSet\(task=\.\.\., \.\.\.\), given 'a'"),
    ],
)
def test_sets_that_do_not_exist_are_refused_in_one_line(declared, message):
    with pytest.raises(ValueError, match=f"^{message}$"), without_type_checks():
        make(forget_sets=declared)


def test_under_one_head_over_all_classes_each_task_has_classes_of_its_own():
    make("cil", forget_sets=[ForgetSet(0, (0, 2)), ForgetSet(1, (3, 5))])
    for task, label, own in ((0, 3, "0..2"), (1, 2, "3..5"), (1, 6, "3..5")):
        with pytest.raises(
            ValueError,
            match=f"^a forget set must name classes of task {task}, {own}, given {label}$",
        ):
            make("cil", forget_sets=[ForgetSet(task, (label,))])


def test_numbers_have_no_classes_to_forget():
    inner = finetuning(mlp(5, (6, 4), regression(TASKS)), sgd(0.1))
    with pytest.raises(
        ValueError,
        match=r"^a forget set names classes, and a regression head has none: name rows$",
    ):
        amnesiac(inner, num_tasks=TASKS, forget_sets=[ForgetSet(0, classes=(0,))])
    amnesiac(inner, num_tasks=TASKS, forget_sets=[ForgetSet(0, rows=(0,))])


def test_a_mask_may_stop_short_and_not_go_on():
    _, algorithm = make()
    begun = algorithm.init(key(0))
    count = TASKS + len(DECLARED)
    for size in (0, 1, TASKS, count):
        algorithm.unlearn(*begun, torch.zeros(size, dtype=torch.bool))
    with pytest.raises(
        ValueError, match=r"^there are 6 tasks and declared sets to forget, given a mask of 7$"
    ):
        algorithm.unlearn(*begun, torch.zeros(count + 1, dtype=torch.bool))


def test_the_same_class_of_two_tasks_makes_two_sets():
    make(forget_sets=[ForgetSet(0, (1,)), ForgetSet(1, (1,))])


def test_a_set_that_is_not_declared_cannot_be_forgotten():
    for wanted, label in ((ForgetSet(2), "task 3"), (ForgetSet(0, (2,)), "task 1 classes 2")):
        with pytest.raises(
            ValueError,
            match=rf"^{label} is not declared: give it to amnesiac\(\.\.\., forget_sets=\[\.\.\.\]\)$",
        ):
            forget_sets.mask(TASKS, SETS, [wanted])
    refused = r"^requests take forget sets, such as cl\.ForgetSet\(task=0\), given 'zero'$"
    with pytest.raises(ValueError, match=refused), without_type_checks():
        forget_sets.mask(TASKS, SETS, ["zero"])


def test_sets_of_different_functions_have_different_settings():
    def first(batch):
        return batch.rows == 0

    def second(batch):
        return batch.rows == 0

    one, other = ForgetSet(0, concerns=first), ForgetSet(0, concerns=second)
    assert one.settings() != other.settings() and one.settings() == one.settings()
    assert forget_sets.mask(1, [one, other], [other]).tolist() == [False, False, True]
    inner = make()[0]
    members = [amnesiac(inner, num_tasks=TASKS, forget_sets=[one]) for one in (one, other)]
    with pytest.raises(ValueError, match="concerns"):
        sweep(members)


def test_examples_need_batches_that_say_which_they_are():
    with pytest.raises(ValueError, match=r"^a forget set names rows, given a batch without `rows`"):
        forget_sets.touched(SETS, batch(1, 0)._replace(rows=()))


def test_rows_are_those_of_the_data_set_in_every_scenario():
    scenario = scenarios.joint(scenarios.permuted(toy_data(), 2, key(0)))
    stream = scenario.train(0)
    made = scenario.batch(scenario.data, stream, stream.train[:5])
    assert identical(made.rows, stream.train[:5] % len(scenario.data.y))


@pytest.mark.compiled
def test_a_compiled_step_records_sets_as_an_eager_one():
    _, algorithm = make()
    carry = begin(algorithm, algorithm.init(key(0)), 0)
    step = torch.compile(algorithm.step, fullgraph=True)
    for number in range(4):
        expected = algorithm.step(*carry, batch(0, number))
        torch.testing.assert_close(step(*carry, batch(0, number)), expected, rtol=1e-12, atol=1e-12)
        *carry, _ = expected


def test_the_old_name_says_the_new_one():
    with pytest.raises(TypeError, match=r"^cl\.Request is cl\.ForgetSet now"):
        clfunc.Request(task=0, classes=(3,))
