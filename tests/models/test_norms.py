"""Normalisation: its formula with loops, gates inside the statistics, and norms that each task has
for itself.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.nets import IMAGE, NETS, TASK, images

from clfunc import (
    adamw,
    algorithms,
    carry,
    cil,
    convnet,
    dil,
    finetuning,
    mlp,
    mtl,
    sgd,
    stl,
    til,
    tree,
)
from clfunc.models.heads import with_own
from clfunc.models.norms import group_count, normalised
from clfunc.random import key, normal, randint
from clfunc.testing.laws import identical
from clfunc.types import Batch, Task

HEADS = {"til": lambda: til(3, 2), "cil": lambda: cil(3, 2), "dil": lambda: dil(3, 2)}


@given(
    st.integers(1, 3),
    st.sampled_from([(6, 1), (16, 2), (4, 4)]),
    st.sampled_from([(), (2, 3)]),
    st.booleans(),
)
def test_it_is_the_formula_one_example_and_group_at_a_time(batch, sizes, image, gated):
    (units, groups), (gain, bias, gate) = (
        sizes,
        (normal(key(s), (sizes[0],), dtype=torch.float64) for s in (1, 2, 3)),
    )
    h = normal(key(4), (batch, units, *image), dtype=torch.float64)
    ours = normalised(
        {"norm": {"a": {"weight": gain, "bias": bias}}}, "a", h, gate if gated else None, groups
    )
    size = units // groups
    for b in range(batch):
        for start in range(0, units, size):
            seen = {
                u: (h[b, u].flatten() * (gate[u] if gated else 1)).tolist()
                for u in range(start, start + size)
            }
            values = [value for unit in seen.values() for value in unit]
            mean = math.fsum(values) / len(values)
            variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
            for unit, row in seen.items():
                expected = [
                    float(gain[unit]) * (v - mean) / math.sqrt(variance + 1e-5) + float(bias[unit])
                    for v in row
                ]
                expected = torch.tensor(expected, dtype=torch.float64)
                torch.testing.assert_close(
                    ours[b, unit].flatten(), expected, rtol=1e-12, atol=1e-12
                )


def test_groups_hold_the_smallest_number_of_channels_from_8_up_that_divides_them():
    assert [group_count("group", n) for n in (1, 7, 8, 12, 16, 20, 22, 64)] == [
        1,
        1,
        1,
        1,
        2,
        2,
        2,
        8,
    ]
    assert group_count("layer", 64) == group_count(None, 64) == 1


@pytest.mark.parametrize("name", [name for name in NETS if " " in name])
def test_a_network_under_its_norm_does_not_see_the_scale_of_what_a_layer_makes(name):
    model = NETS[name](dtype=torch.float64)
    params = model.init(key(0))
    grown = {
        g: tree.scale(layer, 50.0) if g not in ("head", "norm") else layer
        for g, layer in params.items()
    }
    small = model.apply(params, 1e3 * images(1), TASK).logits
    torch.testing.assert_close(
        small, model.apply(grown, 1e3 * images(1), TASK).logits, rtol=1e-2, atol=1e-2
    )


def begin(task):
    return Task(*torch.tensor([task, 1, 1]))


def batch_of(seed, task, paradigm, image=IMAGE):
    y = randint(key(seed), (6,), 0, 2, at=1) + (2 * task if paradigm == "cil" else 0)
    return Batch(
        images(seed, 6, torch.float32).reshape(6, *image), y, torch.tensor(task), torch.ones(6)
    )


def trained(algorithm, params, state, task, paradigm, steps=3):
    params, state = algorithm.begin_task(params, state, begin(task))
    for seed in range(steps):
        params, state, _ = algorithm.step(params, state, batch_of(seed + 10 * task, task, paradigm))
    return params, state


@pytest.mark.parametrize("name", [name for name in NETS if " " in name])
@pytest.mark.parametrize("paradigm", HEADS)
def test_no_other_tasks_norm_moves_and_a_revisited_task_finds_its_own(paradigm, name):
    model = NETS[name](HEADS[paradigm](), per_task_norm=True)
    algorithm = finetuning(model, carry(adamw(0.05, weight_decay=0.5)))
    assert set(model.head.owns) >= {"norm"}
    params, state = algorithm.init(key(0))
    current = dict.fromkeys(range(3), params["norm"])
    for task in (1, 0, 1, 2):
        started, _ = algorithm.begin_task(params, state, begin(task))
        assert identical(started["norm"], current[task])
        params, state = trained(algorithm, params, state, task, paradigm)
        assert not identical(params["norm"], current[task])
        current[task] = params["norm"]
        for _ in range(2):  # while it trains, and after its end
            for other in range(3):
                looked_up = model.head.bank.lookup(params, state.head, torch.tensor(other))
                assert identical(looked_up["norm"], current[other])
                x, told = images(7, dtype=torch.float32), torch.tensor(other)
                own = model.head.mask(state.head, model.apply(looked_up, x, told).logits, told)
                assert identical(algorithm.predict(params, state, x, told), own)
            params, state = algorithm.end_task(params, state)
    rows = state.head.own.rows
    assert tree.map(lambda leaf: leaf.shape[0] == 3, rows) == tree.map(lambda _: True, rows)


def test_without_per_task_norm_all_tasks_share_it():
    model = mlp(IMAGE, (4,), til(3, 2), norm="layer")
    algorithm = finetuning(model, sgd(0.1))
    params, state = trained(algorithm, *algorithm.init(key(0)), 0, "til")
    params, state = algorithm.end_task(params, state)
    assert model.head.owns == ("head",)
    assert identical(algorithm.begin_task(params, state, begin(1))[0]["norm"], params["norm"])


def test_carried_momentum_of_one_tasks_norm_does_not_move_the_next_tasks():
    algorithm = finetuning(
        mlp(IMAGE, (4,), dil(3, 2), norm="layer", per_task_norm=True), carry(sgd(0.1, 0.9))
    )
    params, state = trained(algorithm, *algorithm.init(key(0)), 0, "dil")
    params, state = algorithm.end_task(params, state)
    assert state.opt.trace["norm"]["hidden1"]["weight"].abs().sum() > 0
    params, state = algorithm.begin_task(params, state, begin(1))
    assert all(leaf.abs().sum() == 0 for leaf in tree.leaves(state.opt.trace["norm"]))
    assert state.opt.trace["hidden1"]["weight"].abs().sum() > 0


def test_what_a_task_owns_still_trains_where_fix_holds_the_backbone():
    algorithm = algorithms.fix(
        convnet(IMAGE, (4,), dil(3, 2), norm="layer", per_task_norm=True), sgd(0.1)
    )
    params, state = trained(algorithm, *algorithm.init(key(0)), 0, "dil")
    params, state = algorithm.end_task(params, state)
    fresh, _ = algorithm.begin_task(params, state, begin(1))
    moved, _ = trained(algorithm, params, state, 1, "dil")
    for group in params:
        assert identical(moved[group], fresh[group]) == (group not in ("head", "norm"))


def test_l2_init_leaves_a_tasks_own_norm_free():
    model = mlp(IMAGE, (4,), dil(3, 2), norm="layer", per_task_norm=True)
    _, state = algorithms.l2_init(model, sgd(0.1), strength=0.1).init(key(0))
    assert set(state.parts.terms["l2_init"].initial) == {"hidden1", "head"}


def test_any_group_can_be_a_tasks_own():
    head = with_own(dil(2, 2), ("hidden1",))
    algorithm = finetuning(mlp(IMAGE, (4, 3), head), sgd(0.1))
    drawn, state = algorithm.init(key(0))
    params, state = algorithm.end_task(*trained(algorithm, drawn, state, 0, "dil"))
    other, state = algorithm.begin_task(params, state, begin(1))
    assert identical(other["hidden1"], drawn["hidden1"]) and not identical(
        params["hidden1"], drawn["hidden1"]
    )
    assert identical(other["hidden2"], params["hidden2"]) and head.settings["own"] == ["hidden1"]


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: mlp(5, (3,), dil(1, 2), norm="group"),
            "norm must be layer or none, given 'group'",
        ),
        (
            lambda: mlp(5, (3,), dil(1, 2), per_task_norm=True),
            "per_task_norm needs a norm: give norm=layer",
        ),
        (lambda: with_own(mtl(2, 2), ("hidden1",)), "keeps only norm by task, given hidden1"),
        (
            lambda: mlp(5, (3,), stl(2), norm="layer", per_task_norm=True),
            "only a til, cil, dil or mtl head .*, given stl",
        ),
        (lambda: with_own(til(2, 2), ("head",)), "head is a task's own already"),
        (lambda: with_own(with_own(dil(2, 2)), ("norm",)), "norm is a task's own already"),
    ],
)
def test_impossible_norms_are_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
