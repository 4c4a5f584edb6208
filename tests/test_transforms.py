"""Transforms are torch's optimisers step for step, and keep what they promise of order, memory and freezing."""

import math
import re
from itertools import product
from typing import NamedTuple

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.func import vmap
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, ReduceLROnPlateau, StepLR
from torch.testing import assert_close

import clfunc
from clfunc import schedules, tree
from clfunc.algorithms import reduce_on_plateau
from clfunc.transforms import (
    adam,
    adamw,
    add_decayed_weights,
    carry,
    chain,
    clip_by_global_norm,
    clip_by_value,
    mask_updates,
    scale,
    sgd,
)
from clfunc.types import Algorithm, Batch, Context, Task, Transform, scalar

STEPS = 50
KEY = clfunc.random.key(0)
CONTEXT = Context({}, torch.tensor(0), {})


def like_params(seed, dtype=torch.float64):
    keys = clfunc.random.split(clfunc.random.fold_in(KEY, seed), 3)
    shapes = {"hidden1": {"weight": (3, 4), "bias": (3,)}, "head": {"weight": (2, 3)}}
    drawn = iter(keys)
    return {
        group: {name: clfunc.random.normal(next(drawn), shape, dtype=dtype) for name, shape in leaves.items()}
        for group, leaves in shapes.items()
    }


PARAMS = like_params(0)
GRADIENTS = [tree.scale(like_params(1 + i), 1 + math.sin(i)) for i in range(STEPS)]


def steps(tx, gradients=GRADIENTS, params=PARAMS, state=None):
    """Parameters and state after each step."""
    state = tx.init(KEY, params) if state is None else state
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params, CONTEXT)
        params = tree.add(params, updates)
        yield params, state


def last(*args, **kwargs):
    return list(steps(*args, **kwargs))[-1]


def assert_follows_torch(tx, optimiser, clip=lambda parameters: None, scheduler=None):
    parameters, structure = tree.flatten(tree.clone(PARAMS))
    optimiser = optimiser(parameters)
    scheduler = scheduler and scheduler(optimiser)
    for gradient, (params, _) in zip(GRADIENTS, steps(tx), strict=True):
        for parameter, part in zip(parameters, tree.leaves(gradient), strict=True):
            parameter.grad = part.clone()
        clip(parameters)
        optimiser.step()
        if scheduler:
            scheduler.step()
        assert_close(params, tree.unflatten(parameters, structure), rtol=1e-12, atol=1e-12)


def table(*axes):
    """All combinations of settings, given as dicts of one name and its values."""
    names = [next(iter(axis)) for axis in axes]
    return [dict(zip(names, values, strict=True)) for values in product(*(next(iter(a.values())) for a in axes))]


def named(settings):
    return ",".join(f"{name}={value}" for name, value in settings.items())


@pytest.mark.parametrize(
    "settings",
    table({"lr": (0.1, 1e-3)}, {"momentum": (0.5, 0.9, 1.0)}, {"nesterov": (False, True)}, {"weight_decay": (0.0, 0.1)})
    + table({"lr": (0.1, 0.0)}, {"momentum": (None, 0.0)}, {"weight_decay": (0.0, 0.1)}),
    ids=named,
)
def test_sgd_is_torchs_at_every_step(settings):
    theirs = settings | {"momentum": settings["momentum"] or 0.0}
    assert_follows_torch(sgd(**settings), lambda parameters: SGD(parameters, **theirs))


@pytest.mark.parametrize(("ours", "theirs"), [(adam, Adam), (adamw, AdamW)], ids=["adam", "adamw"])
@pytest.mark.parametrize(
    "settings",
    table(
        {"lr": (0.1, 1e-3)},
        {"betas": ((0.9, 0.999), (0.5, 0.7), (0.0, 0.0))},
        {"eps": (1e-8, 1e-2)},
        {"weight_decay": (0.0, 0.1)},
    ),
    ids=named,
)
def test_adam_and_adamw_are_torchs_at_every_step(ours, theirs, settings):
    assert_follows_torch(ours(**settings), lambda parameters: theirs(parameters, **settings))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(sgd(), lambda p: SGD(p, 0.01)), (adam(), Adam), (adamw(), AdamW)],
    ids=["sgd", "adam", "adamw"],
)
def test_settings_not_given_are_torchs(ours, theirs):
    assert_follows_torch(ours, theirs)


NORM, VALUE = (clip_by_global_norm, clip_grad_norm_), (clip_by_value, clip_grad_value_)


@pytest.mark.parametrize(("clips", "bound"), [*product((NORM, VALUE), (0.1, 4.0, 1e3)), (VALUE, 0.0)])
def test_clipping_is_torchs_at_every_step(clips, bound):
    ours, theirs = clips
    tx = chain(ours(bound), sgd(0.1, 0.9))
    assert_follows_torch(tx, lambda p: SGD(p, 0.1, 0.9), clip=lambda parameters: theirs(parameters, bound))


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_decayed_weights_before_sgd_are_its_own_weight_decay(momentum):
    tx = chain(add_decayed_weights(0.1), sgd(0.1, momentum))
    assert_follows_torch(tx, lambda p: SGD(p, 0.1, momentum or 0.0, weight_decay=0.1))


SCHEDULES = {
    "constant": (schedules.constant(0.3, 7), lambda o: ConstantLR(o, 0.3, 7)),
    "constant for one": (schedules.constant(0.3, 1), lambda o: ConstantLR(o, 0.3, 1)),
    "step": (schedules.step(7), lambda o: StepLR(o, 7)),
    "step of one": (schedules.step(1, 0.9), lambda o: StepLR(o, 1, 0.9)),
    "cosine": (schedules.cosine(STEPS), lambda o: CosineAnnealingLR(o, STEPS)),
    "cosine to a floor": (schedules.cosine(STEPS, 0.25), lambda o: CosineAnnealingLR(o, STEPS, 0.25 * 0.1)),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (sgd(0.1, 0.9, nesterov=True, weight_decay=0.1), lambda p: SGD(p, 0.1, 0.9, nesterov=True, weight_decay=0.1)),
        (adamw(0.1), lambda p: AdamW(p, 0.1)),
    ],
    ids=["sgd", "adamw"],
)
def test_a_schedule_after_an_optimiser_is_torchs_scheduler_stepped_once_a_batch(name, ours, theirs):
    schedule, scheduler = SCHEDULES[name]
    assert_follows_torch(chain(ours, schedule), theirs, scheduler=scheduler)


@given(st.floats(0, 1), st.integers(1, 40), st.integers(1, 40), st.floats(0, 2))
def test_every_schedule_is_its_formula_at_every_count_also_after_its_end(floor, length, every, factor):
    formulas = [
        (schedules.constant(factor, length), lambda i: factor if i < length else 1.0),
        (schedules.step(every, factor), lambda i: factor ** (i // every)),
        (
            schedules.cosine(length, floor),
            lambda i: floor + (1 - floor) * (1 + math.cos(math.pi * i / length)) / 2 if i < length else floor,
        ),
    ]
    for tx, formula in formulas:
        state, one = tx.init(KEY, PARAMS), torch.ones(1, dtype=torch.float64)
        for i in range(STEPS):
            updates, state = tx.update({"w": one}, state, {"w": one}, CONTEXT)
            assert_close(updates["w"].item(), formula(i), rtol=1e-12, atol=1e-15)


FACTORIES = {
    "sgd": lambda x: sgd(x, weight_decay=x / 10),
    "momentum": lambda x: sgd(x, 1 - x, nesterov=True),
    "adam": lambda x: adam(x, (1 - x, 1 - x / 100), weight_decay=x),
    "adamw": lambda x: adamw(x, eps=x / 10, weight_decay=x),
    "clip_by_global_norm": lambda x: chain(clip_by_global_norm(10 * x), sgd(x)),
    "clip_by_value": lambda x: clip_by_value(x),
    "add_decayed_weights": lambda x: add_decayed_weights(x),
    "scale": lambda x: scale(-x),
    "mask_updates": lambda x: chain(sgd(x), mask_updates({"head": torch.eye(2, 3)})),
    "constant": lambda x: chain(sgd(x), schedules.constant(x, 100 * x)),
    "step": lambda x: chain(sgd(x), schedules.step(1 + 10 * x, x)),
    "cosine": lambda x: chain(adam(x), schedules.cosine(100 * x, x)),
}
RATES = (0.05, 0.2, 0.3)


@pytest.mark.parametrize("name", FACTORIES)
def test_states_of_different_numbers_under_vmap_are_each_alone(name):
    txs = [FACTORIES[name](rate) for rate in RATES]
    state = tree.stack([tx.init(KEY, PARAMS) for tx in txs])
    params = tree.stack([PARAMS] * len(RATES))
    alone = zip(*(list(steps(tx, GRADIENTS[:20])) for tx in txs), strict=True)
    for gradient, each in zip(GRADIENTS, alone, strict=False):
        updates, state = vmap(txs[0].update, (None, 0, 0, None))(gradient, state, params, CONTEXT)
        params = tree.add(params, updates)
        assert_close((params, state), tree.stack(each), rtol=1e-12, atol=1e-12)
    assert len({float(leaf) for leaf in tree.leaves(params)[0][:, 0, 0]}) == len(RATES)


@pytest.mark.parametrize("name", FACTORIES)
def test_no_transform_writes_to_what_it_is_given_or_widens_it(name):
    tx, params, gradient = FACTORIES[name](0.1), like_params(0, torch.float32), like_params(1, torch.float32)
    state = tx.init(KEY, params)
    before = tree.clone((gradient, state, params))
    updates, new = tx.update(gradient, state, params, CONTEXT)
    tx.begin_task(new, params)
    assert_close((gradient, state, params), before, rtol=0, atol=0)
    assert tree.structure((updates, new)) == tree.structure((params, state))
    for one, other in zip(tree.leaves((updates, new)), tree.leaves((params, state)), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)


def slowed(state):
    """The state with another number in it: a rate lowered by some wrapper during the task."""
    return tree.map_items(lambda name, leaf: leaf / 2 if name.split(".")[-1] == "lr" else leaf, state)


REMEMBER = ("momentum", "adam", "adamw", "constant", "step", "cosine")


@pytest.mark.parametrize("name", FACTORIES)
def test_a_task_restarts_the_memory_and_keeps_the_numbers(name):
    tx = FACTORIES[name](0.1)
    params, state = last(tx)
    begun = tx.begin_task(slowed(state), params)
    assert_close(begun, slowed(tx.init(KEY, params)), rtol=0, atol=0)
    assert (name in REMEMBER) == any(
        not torch.equal(a, b) for a, b in zip(tree.leaves(begun), tree.leaves(slowed(state)), strict=True)
    )


@pytest.mark.parametrize("name", FACTORIES)
def test_carry_goes_on_across_tasks_as_if_there_were_one(name):
    tx = carry(FACTORIES[name](0.1))
    params, state = last(tx, GRADIENTS[:20])
    resumed = last(tx, GRADIENTS[20:], params, tx.begin_task(state, params))
    assert_close(resumed, last(FACTORIES[name](0.1)), rtol=0, atol=0)


def test_a_chain_feeds_each_transform_what_the_one_before_made():
    names = ("clip_by_value", "scale", "momentum", "cosine", "adam")
    txs = [FACTORIES[name](0.1) for name in names]
    states = [tx.init(KEY, PARAMS) for tx in txs]
    whole = chain(*txs)
    together = whole.init(KEY, PARAMS)
    for gradient in GRADIENTS[:5]:
        updates, by_hand = gradient, []
        for tx, state in zip(txs, states, strict=True):
            updates, new = tx.update(updates, state, PARAMS, CONTEXT)
            by_hand.append(new)
        states = by_hand
        made, together = whole.update(gradient, together, PARAMS, CONTEXT)
        assert_close((made, together), (updates, tuple(states)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("txs", "expected"),
    [
        ((scale(2.0), clip_by_value(1.0)), [-1.0, 0.8, 1.0]),
        ((clip_by_value(1.0), scale(2.0)), [-2.0, 0.8, 1.8]),
        ((), [-3.0, 0.4, 0.9]),
    ],
    ids=["scale then clip", "clip then scale", "nothing"],
)
def test_the_order_of_a_chain_matters(txs, expected):
    tx, updates = chain(*txs), {"w": torch.tensor([-3.0, 0.4, 0.9])}
    made, _ = tx.update(updates, tx.init(KEY, updates), updates, CONTEXT)
    assert_close(made["w"], torch.tensor(expected))


def test_a_chain_gives_every_transform_a_key_of_its_own():
    keeps_key = Transform(lambda key, params: key, lambda updates, state, params, context: (updates, state))
    keys = torch.stack(chain(*[keeps_key] * 5).init(KEY, PARAMS))
    assert len(torch.unique(keys, dim=0)) == 5


def test_a_chain_refuses_reinit_before_its_end():
    reinit = sgd()._replace(settings={"name": "reinit"})
    for before, after in (((), (scale(2.0),)), ((sgd(),), (scale(2.0), sgd()))):
        with pytest.raises(ValueError, match=r"^reinit must come last in a chain, given \[.*'scale'.*$"):
            chain(*before, reinit, *after)
    assert chain(sgd(), reinit).settings["of"] == [sgd().settings, {"name": "reinit"}]


PUSHY = {
    "adamw": adamw(0.1, weight_decay=0.1),
    "momentum": sgd(0.1, 0.9, nesterov=True, weight_decay=0.1),
    "momentum of adam": chain(adam(0.1), scale(2.0), add_decayed_weights(0.01)),
}
MASKS = {
    "float": tree.map(lambda leaf: (leaf > 0).to(leaf.dtype), PARAMS),
    "bool": tree.map(lambda leaf: leaf > 0, PARAMS),
    "rows": {"hidden1": {"weight": torch.tensor([[True], [False], [True]]), "bias": torch.tensor([1.0, 0.0, 1.0])}},
    "plain": {"hidden1": {"weight": False, "bias": True}, "head": {"weight": False}},
    "some groups": {"head": {"weight": torch.zeros(2, 3)}},
    "some leaves": {"hidden1": {"bias": torch.tensor([False, True, False])}},
    "whole groups": {"hidden1": False},
}


def moving(mask):
    """The mask, entry by entry, as bools like the parameters."""
    full = {group: {name: torch.ones(leaf.shape) for name, leaf in leaves.items()} for group, leaves in PARAMS.items()}
    for group, own in mask.items():
        for name in full[group]:
            given = own.get(name, True) if isinstance(own, dict) else own
            full[group][name] = full[group][name] * torch.as_tensor(given)
    return tree.map(lambda leaf: leaf > 0, full)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", PUSHY)
def test_a_mask_after_the_optimiser_freezes_to_the_bit_and_leaves_the_rest_alone(name, mask):
    moves = moving(MASKS[mask])
    updates_alone, updates_masked = [], []
    tx, masked = PUSHY[name], chain(PUSHY[name], mask_updates(MASKS[mask]))
    state, state_masked = tx.init(KEY, PARAMS), masked.init(KEY, PARAMS)
    for gradient in GRADIENTS:
        alone, state = tx.update(gradient, state, PARAMS, CONTEXT)
        held, state_masked = masked.update(gradient, state_masked, PARAMS, CONTEXT)
        updates_alone.append(tree.map(lambda u, m: torch.where(m, u, 0.0), alone, moves))
        updates_masked.append(held)
    assert_close(updates_masked, updates_alone, rtol=0, atol=0)
    params, _ = last(masked)
    for new, old, m in zip(*map(tree.leaves, (params, PARAMS, moves)), strict=True):
        assert torch.equal(new == old, ~m)


PUSHES = {  # what moves a weight that has no gradient, and how many steps it takes to gather
    "weight decay of adamw": (adamw(0.1), 0),
    "weight decay of sgd": (sgd(0.1, weight_decay=0.1), 0),
    "momentum": (sgd(0.1, 0.9), 1),
    "moments of adam": (adam(0.1), 1),
}


@pytest.mark.parametrize("name", PUSHES)
@pytest.mark.parametrize("first", [True, False], ids=["mask first", "mask last"])
def test_a_mask_freezes_only_after_the_optimiser_for_before_it_the_weight_is_moved_by(name, first):
    tx, gathered = PUSHES[name]
    all_move, none_move = tree.map(torch.ones_like, PARAMS), tree.map(torch.zeros_like, PARAMS)
    masked = chain(mask_updates(all_move), tx) if first else chain(tx, mask_updates(all_move))
    params, state = [(PARAMS, masked.init(KEY, PARAMS)), *steps(masked, GRADIENTS[:gathered])][-1]
    state = (none_move, state[1]) if first else (state[0], none_move)
    moved, _ = last(masked, GRADIENTS[:1], params, state)
    for new, old in zip(tree.leaves(moved), tree.leaves(params), strict=True):
        assert (new != old).all() if first else torch.equal(new, old)


class ToyState(NamedTuple):
    opt: dict
    lrs: torch.Tensor  # ends like a rate's name, and is none


def toy(*rates):
    """An algorithm that descends a slope of one, at each of its rates in turn."""

    def init(key):
        opt = {f"group{i}": {"lr": scalar(rate)} for i, rate in enumerate(rates)}
        return {"w": torch.zeros((), dtype=torch.float64)}, ToyState(opt, scalar(7.0))

    def step(params, state, batch):
        lr = sum(tree.leaves(state.opt))
        return {"w": params["w"] - lr}, state, {"loss": params["w"]}

    return Algorithm(init, step, lambda params, state, x, task: x, settings={"name": "toy"})


def rates_after(algorithm, losses):
    """The inner rates after each epoch."""
    params, state = algorithm.init(KEY)
    for loss in losses:
        params, state = algorithm.end_epoch(params, state, {"loss": torch.tensor(loss, dtype=torch.float64)})
        assert state.inner.lrs == 7
        yield tree.map(float, tree.leaves(state.inner.opt))


LOSSES = st.lists(st.sampled_from([1.0, 0.9999, 0.99, 0.5, 0.4, 0.1, 0.0, -1.0, math.nan, math.inf]), max_size=30)


@given(LOSSES, st.floats(0.1, 0.9), st.integers(0, 4), st.floats(0, 0.5), st.sampled_from([0.0, 0.05, 9.0]))
@example([1.0] * 12, 0.5, 1, 1e-4, 0.0)
def test_every_sequence_of_losses_lowers_the_rates_as_torchs_reduce_on_plateau(losses, factor, wait, threshold, floor):
    rates = (0.1, 2.0)
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    optimiser = SGD(groups)
    scheduler = ReduceLROnPlateau(optimiser, factor=factor, patience=wait, threshold=threshold, min_lr=floor, eps=0)
    ours = reduce_on_plateau(toy(*rates), factor, wait, floor=floor, threshold=threshold)
    for loss, found in zip(losses, rates_after(ours, losses), strict=True):
        scheduler.step(loss)
        assert_close(found, [group["lr"] for group in optimiser.param_groups], rtol=1e-14, atol=0)


@given(LOSSES, st.floats(0.1, 1), st.integers(0, 4), st.floats(0, 0.5), st.sampled_from([0.0, 0.05]))
def test_every_sequence_of_losses_lowers_the_rate_as_the_three_lines_of_the_docstring_say(
    losses, factor, patience, threshold, floor
):
    lr, best, waited = 0.1, math.inf, 0
    ours = reduce_on_plateau(toy(lr), factor, patience, floor=floor, threshold=threshold)
    for loss, (found,) in zip(losses, rates_after(ours, losses), strict=True):
        best, waited = (loss, 0) if loss < best * (1 - threshold) else (best, waited + 1)
        if waited > patience:
            lr, waited = max(lr * factor, floor), 0
        assert_close(found, lr, rtol=1e-14, atol=0)


@pytest.mark.parametrize("waits", [(0, 2), (3, 1), (0, 1, 2, 3)])
def test_runs_of_a_sweep_drop_each_at_its_own_epoch(waits):
    members, epochs = [reduce_on_plateau(toy(0.1), 0.5, wait) for wait in waits], 8
    alone = [[rate for (rate,) in rates_after(member, [1.0] * epochs)] for member in members]
    many, task = clfunc.sweep(members), torch.zeros(len(waits), dtype=torch.int64)
    batch = Batch(task[:, None, None], task[:, None], task, torch.ones(len(waits), 1))
    params, state = many.init(KEY)
    for epoch in range(epochs):
        params, state = many.end_epoch(params, state, {"loss": torch.ones(len(waits))})
        assert state.inner.opt["group0"]["lr"].tolist() == [rates[epoch] for rates in alone]
        params, state, _ = many.step(params, state, batch)
    assert params["w"].tolist() == pytest.approx([-sum(rates) for rates in alone], rel=1e-14)
    assert [rates.index(0.05) for rates in alone] == [1 + wait for wait in waits]


def test_a_task_starts_again_from_the_first_rates_and_forgets_the_best_loss():
    ours = reduce_on_plateau(toy(0.1, 2.0), 0.5, 0)
    params, state = ours.init(KEY)
    for loss in (0.1, 0.2, 0.3):
        params, state = ours.end_epoch(params, state, {"loss": torch.tensor(loss)})
    assert tree.map(float, tree.leaves(state.inner.opt)) == [0.025, 0.5]
    params, state = ours.begin_task(params, state, Task(*(torch.tensor(1) for _ in Task._fields)))
    assert tree.map(float, tree.leaves(state.inner.opt)) == [0.1, 2.0]
    params, state = ours.end_epoch(params, state, {"loss": torch.tensor(9.0)})
    assert tree.map(float, tree.leaves(state.inner.opt)) == [0.1, 2.0]


REFUSED = {
    "sgd lr": (lambda x: sgd(lr=x), -0.5),
    "sgd lr nan": (lambda x: sgd(lr=x), math.nan),
    "sgd lr bool": (lambda x: sgd(lr=x), True),
    "sgd momentum": (lambda x: sgd(momentum=x), 1.5),
    "sgd weight_decay": (lambda x: sgd(weight_decay=x), -0.5),
    "adam lr": (lambda x: adam(lr=x), -0.5),
    "adam beta1": (lambda x: adam(betas=(x, 0.9)), -0.5),
    "adam beta1 of one": (lambda x: adam(betas=(x, 0.9)), 1.0),
    "adamw beta2 of one": (lambda x: adamw(betas=(0.9, x)), 1.0),
    "adamw eps": (lambda x: adamw(eps=x), -0.5),
    "adamw weight_decay": (lambda x: adamw(weight_decay=x), -0.5),
    "clip_by_global_norm": (clip_by_global_norm, -0.5),
    "clip_by_value": (clip_by_value, -0.5),
    "scale": (scale, math.nan),
    "add_decayed_weights": (add_decayed_weights, -0.5),
    "constant factor": (lambda x: schedules.constant(x, 5), -0.5),
    "constant steps": (lambda x: schedules.constant(0.5, x), -5),
    "step every": (schedules.step, 0.5),
    "step factor": (lambda x: schedules.step(5, x), -0.5),
    "cosine steps": (schedules.cosine, 0.5),
    "cosine floor": (lambda x: schedules.cosine(5, x), 1.5),
    "plateau factor": (lambda x: reduce_on_plateau(toy(0.1), x), 1.5),
    "plateau factor of none": (lambda x: reduce_on_plateau(toy(0.1), x), 0.0),
    "plateau patience": (lambda x: reduce_on_plateau(toy(0.1), patience=x), -1),
    "plateau floor": (lambda x: reduce_on_plateau(toy(0.1), floor=x), -0.5),
    "plateau threshold": (lambda x: reduce_on_plateau(toy(0.1), threshold=x), -0.5),
    "plateau threshold of one": (lambda x: reduce_on_plateau(toy(0.1), threshold=x), 1.0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_number_out_of_its_documented_range_is_refused_in_one_line_that_gives_it(name):
    make, number = REFUSED[name]
    with pytest.raises(ValueError, match=rf"^\w+ must be a number in .*, given {re.escape(repr(number))}$"):
        make(number)


@given(st.sampled_from([name for name, (_, number) in REFUSED.items() if number == number]), st.floats(-3, 3))
@example("adam beta1 of one", 1.0)
def test_every_refusal_states_a_range_that_the_number_is_not_in(name, number):
    try:
        REFUSED[name][0](number)
    except ValueError as error:
        left, low, high, right = re.search(r"in ([\[(])(.*), (.*)([\])])", str(error)).groups()
        above = float(low) <= number if left == "[" else float(low) < number
        below = number <= float(high) if right == "]" else number < float(high)
        assert not (above and below)


@pytest.mark.parametrize("momentum", [None, 0.0])
def test_nesterov_without_momentum_is_refused(momentum):
    with pytest.raises(ValueError, match=r"^nesterov needs momentum: give momentum=0\.9, or nesterov=False$"):
        sgd(momentum=momentum, nesterov=True)
