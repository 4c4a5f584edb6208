"""Transforms are torch's optimisers step for step, and keep what they promise of order, memory and
freezing.
"""

import math
import re
from itertools import product

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from support.torch_optimisers import (
    CONTEXT,
    GRADIENTS,
    KEY,
    PARAMS,
    assert_follows_torch,
    like_params,
    steps,
)
from torch.func import vmap
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import SGD, Adam, AdamW
from torch.testing import assert_close

from clfunc import schedules, tree
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
from clfunc.types import Transform


def last(*args, **kwargs):
    return list(steps(*args, **kwargs))[-1]


def table(*axes):
    """All combinations of settings, given as dicts of one name and its values."""
    names = [next(iter(axis)) for axis in axes]
    return [
        dict(zip(names, values, strict=True))
        for values in product(*(next(iter(a.values())) for a in axes))
    ]


def named(settings):
    return ",".join(f"{name}={value}" for name, value in settings.items())


@pytest.mark.parametrize(
    "settings",
    table(
        {"lr": (0.1, 1e-3)},
        {"momentum": (0.5, 0.9, 1.0)},
        {"nesterov": (False, True)},
        {"weight_decay": (0.0, 0.1)},
    )
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


@pytest.mark.parametrize(
    ("clips", "bound"), [*product((NORM, VALUE), (0.1, 4.0, 1e3)), (VALUE, 0.0)]
)
def test_clipping_is_torchs_at_every_step(clips, bound):
    ours, theirs = clips
    tx = chain(ours(bound), sgd(0.1, 0.9))
    assert_follows_torch(
        tx, lambda p: SGD(p, 0.1, 0.9), clip=lambda parameters: theirs(parameters, bound)
    )


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_decayed_weights_before_sgd_are_its_own_weight_decay(momentum):
    tx = chain(add_decayed_weights(0.1), sgd(0.1, momentum))
    assert_follows_torch(tx, lambda p: SGD(p, 0.1, momentum or 0.0, weight_decay=0.1))


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
    tx, params, gradient = (
        FACTORIES[name](0.1),
        like_params(0, torch.float32),
        like_params(1, torch.float32),
    )
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
    return tree.map_items(
        lambda name, leaf: leaf / 2 if name.split(".")[-1] == "lr" else leaf, state
    )


REMEMBER = ("momentum", "adam", "adamw", "constant", "step", "cosine")


@pytest.mark.parametrize("name", FACTORIES)
def test_a_task_restarts_the_memory_and_keeps_the_numbers(name):
    tx = FACTORIES[name](0.1)
    params, state = last(tx)
    begun = tx.begin_task(slowed(state), params)
    assert_close(begun, slowed(tx.init(KEY, params)), rtol=0, atol=0)
    assert (name in REMEMBER) == any(
        not torch.equal(a, b)
        for a, b in zip(tree.leaves(begun), tree.leaves(slowed(state)), strict=True)
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
    keeps_key = Transform(
        lambda key, params: key, lambda updates, state, params, context: (updates, state)
    )
    keys = torch.stack(chain(*[keeps_key] * 5).init(KEY, PARAMS))
    assert len(torch.unique(keys, dim=0)) == 5


def test_a_chain_refuses_reinit_before_its_end():
    reinit = sgd()._replace(settings={"name": "reinit", "place": "last"})
    for before, after in (((), (scale(2.0),)), ((sgd(),), (scale(2.0), sgd()))):
        with pytest.raises(
            ValueError, match=r"^reinit must come last in a chain, given \[.*'scale'.*$"
        ):
            chain(*before, reinit, *after)
    for wrapped in (carry(reinit), chain(sgd(), carry(reinit))):
        with pytest.raises(ValueError, match=r"^reinit must come last in a chain, given \["):
            chain(wrapped, sgd())
    assert chain(sgd(), reinit).settings["of"] == [sgd().settings, reinit.settings]


PUSHY = {
    "adamw": adamw(0.1, weight_decay=0.1),
    "momentum": sgd(0.1, 0.9, nesterov=True, weight_decay=0.1),
    "momentum of adam": chain(adam(0.1), scale(2.0), add_decayed_weights(0.01)),
}
MASKS = {
    "float": tree.map(lambda leaf: (leaf > 0).to(leaf.dtype), PARAMS),
    "bool": tree.map(lambda leaf: leaf > 0, PARAMS),
    "rows": {
        "hidden1": {
            "weight": torch.tensor([[True], [False], [True]]),
            "bias": torch.tensor([1.0, 0.0, 1.0]),
        }
    },
    "plain": {"hidden1": {"weight": False, "bias": True}, "head": {"weight": False}},
    "some groups": {"head": {"weight": torch.zeros(2, 3)}},
    "some leaves": {"hidden1": {"bias": torch.tensor([False, True, False])}},
    "whole groups": {"hidden1": False},
}


def moving(mask):
    """The mask, entry by entry, as bools like the parameters."""
    full = {
        group: {name: torch.ones(leaf.shape) for name, leaf in leaves.items()}
        for group, leaves in PARAMS.items()
    }
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
    closed = none_move
    state = (closed, state[1]) if first else (state[0], closed)
    moved, _ = last(masked, GRADIENTS[:1], params, state)
    for new, old in zip(tree.leaves(moved), tree.leaves(params), strict=True):
        assert (new != old).all() if first else torch.equal(new, old)


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
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_number_out_of_its_documented_range_is_refused_in_one_line_that_gives_it(name):
    make, number = REFUSED[name]
    with pytest.raises(
        ValueError, match=rf"^\w+ must be a number in .*, given {re.escape(repr(number))}$"
    ):
        make(number)


@given(
    st.sampled_from([name for name, (_, number) in REFUSED.items() if number == number]),
    st.floats(-3, 3),
)
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
    with pytest.raises(
        ValueError, match=r"^nesterov needs momentum: give momentum=0\.9, or nesterov=False$"
    ):
        sgd(momentum=momentum, nesterov=True)
