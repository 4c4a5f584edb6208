"""`reinit`: what a reset is and is not, whatever the network and the optimiser."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from support.resetting import (
    BRISK,
    MODEL,
    NETWORKS,
    TASK,
    context,
    every_network,
    gradient_like,
    inputs,
    reset_steps,
)
from torch.nn.functional import linear

from clfunc import (
    adam,
    adamw,
    chain,
    clip_by_global_norm,
    mask_updates,
    reinit,
    sgd,
    tree,
)
from clfunc.random import fold_in, key
from clfunc.testing.laws import distance, identical
from clfunc.testing.strategies import optimizers
from clfunc.types import Context
from clfunc.units import resets

NOWHERE = Context({}, TASK, {})


def ablated(model, params, gone):
    """The network with the units' outgoing weights cut."""
    choices = {
        group: resets.Choice(mask, torch.zeros_like(mask, dtype=torch.int64))
        for group, mask in gone.items()
    }
    flat = dict(tree.items(params))
    for wire in model.wires:
        if wire.pre is not None:
            name = ".".join(wire.path)
            for unit in choices[wire.pre].reset.nonzero().flatten().tolist():
                flat[name] = flat[name].clone()
                flat[name].narrow(wire.pre_axis, unit * wire.spread, wire.spread).zero_()
    return tree.map_items(lambda name, _: flat[name], params)


@every_network
@given(tx=optimizers(), seed=st.integers(0, 100))
@given_settings(max_examples=5)
def test_at_rate_zero_it_is_the_inner_optimiser_to_the_bit(network, tx, seed):
    model, plain = NETWORKS[network], tx.per_element() if tx.per_element else tx
    params = model.init(key(seed))
    memory = plain.init(key(seed + 1), params)
    for t, (_, (moved, state), _) in enumerate(
        reset_steps(reinit(model, tx, replacement_rate=0), model, 5, seed)
    ):
        updates, memory = plain.update(
            gradient_like(params, fold_in(key(seed), t)), memory, params, NOWHERE
        )
        params = tree.add(params, updates)
        assert identical(moved, params) and identical(state.inner, memory)


@pytest.mark.parametrize("make", [adam, adamw])
def test_adam_counted_by_element_is_adam_until_something_is_cleared(make):
    params = MODEL.init(key(0))
    tx = chain(clip_by_global_norm(1.0), make(0.01, weight_decay=0.1))
    each = tx.per_element()
    states, at = [tx.init(key(1), params), each.init(key(1), params)], [params, params]
    for t in range(50):
        gradient = gradient_like(params, fold_in(key(2), t))
        for i, one in enumerate((tx, each)):
            updates, states[i] = one.update(gradient, states[i], at[i], NOWHERE)
            at[i] = tree.add(at[i], updates)
        assert distance(*at) < 1e-12


@every_network
def test_after_a_reset_adam_takes_its_first_step_there_and_goes_on_elsewhere(network):
    model, lr = NETWORKS[network], 0.01
    seen = 0
    lives = list(reset_steps(reinit(model, adam(lr), **BRISK), model, 12))
    for t in range(11):
        (_, _), (params, state), gone = lives[t]
        after = lives[t + 1]
        gradient = gradient_like(params, fold_in(key(0), t + 1))
        touched = resets.touched(
            model, params, {g: resets.Choice(m, m.long()) for g, m in gone.items()}
        )
        again = resets.touched(
            model, params, {g: resets.Choice(m, m.long()) for g, m in after[2].items()}
        )
        for p, new, g, born, reborn in zip(
            *map(tree.leaves, (params, after[1][0], gradient, touched, again)), strict=True
        ):
            young = born.expand(p.shape) & ~reborn.expand(p.shape)
            torch.testing.assert_close(
                new[young], (p - lr * g / (g.abs() + 1e-8))[young], rtol=0, atol=1e-12
            )
            seen += int(young.sum())
        for memory in (state.inner.exp_avg, state.inner.exp_avg_sq, *state.inner.step):
            for m, born in zip(tree.leaves(memory), tree.leaves(touched), strict=True):
                assert torch.equal(m == 0, born.expand(m.shape))
    assert seen > 50


@every_network
@given(tx=optimizers(), seed=st.integers(0, 100))
@given_settings(max_examples=5)
def test_a_unit_that_was_reset_is_as_drawn_and_unheard(network, tx, seed):
    model, order = NETWORKS[network], list(NETWORKS[network].units)
    count = 0
    for _, (params, state), gone in reset_steps(reinit(model, tx, **BRISK), model, 10, seed):
        leaves = dict(tree.items(params))
        for group, mask in gone.items():
            units = state.units[group]
            assert (units.utility[mask] == 0).all() and (units.mean[mask] == 0).all()
            for wire in model.wires:
                leaf, name = leaves[".".join(wire.path)], ".".join(wire.path)
                if wire.post == group and wire.reset == "zero":
                    assert (leaf[mask] == 0).all(), name
                if wire.post == group and wire.reset == "draw":
                    assert (leaf[mask].abs() <= wire.bound * (1 + 2**-52)).all(), name
                if wire.pre == group:
                    later = wire.post is not None and order.index(wire.post) > order.index(group)
                    heard = leaf.movedim(wire.pre_axis, 0).unflatten(0, (-1, wire.spread))[mask]
                    rest = heard[:, :, ~gone[wire.post]] if later else heard
                    assert (rest == 0).all(), name
            count += int(mask.sum())
        assert sum(int(units.replaced) for units in state.units.values()) == count
    assert count > 5


@every_network
def test_the_output_after_a_reset_is_the_network_without_the_unit_whatever_was_drawn(network):
    model, tx = NETWORKS[network], reinit(NETWORKS[network], sgd(0.1), **BRISK)
    differed = 0
    for t, ((params, state), (moved, _), gone) in enumerate(reset_steps(tx, model, 10)):
        k = fold_in(key(0), t)
        gradient, x = gradient_like(params, k), inputs(model, fold_in(k, 5))
        logits = model.apply(moved, x, TASK).logits
        before = tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        torch.testing.assert_close(
            logits, model.apply(ablated(model, before, gone), x, TASK).logits, rtol=0, atol=1e-12
        )
        other, _ = tx.update(
            gradient, state._replace(key=key(77)), params, context(model, params, fold_in(k, 99))
        )
        torch.testing.assert_close(
            model.apply(tree.add(params, other), x, TASK).logits, logits, rtol=0, atol=1e-12
        )
        differed += any(m.any() for m in gone.values()) and not identical(
            tree.add(params, other), moved
        )
    assert differed >= 3


def test_with_the_transfer_the_output_is_the_network_with_the_units_mean_in_its_place():
    tx, seen = reinit(MODEL, sgd(0.1), bias_transfer=True, **BRISK), 0
    for t, ((params, state), (moved, _), gone) in enumerate(reset_steps(tx, MODEL, 10)):
        k = fold_in(key(0), t)
        before = tree.map(lambda p, g: p - 0.1 * g, params, gradient_like(params, k))
        h = inputs(MODEL, fold_in(k, 5))
        known, features = state.units, context(MODEL, params, fold_in(k, 99)).features
        for group in MODEL.units:
            h = torch.sigmoid(linear(h, before[group]["weight"], before[group]["bias"]))
            mean = 0.5 * known[group].mean + 0.5 * features[group].mean(0)
            centre = mean / (1 - 0.5 ** (known[group].age + 1).double())
            h, seen = torch.where(gone[group], centre, h), seen + int(gone[group].sum())
        logits = linear(h, before["head"]["weight"], before["head"]["bias"])
        found = MODEL.apply(moved, inputs(MODEL, fold_in(k, 5)), TASK).logits
        torch.testing.assert_close(found, logits, rtol=0, atol=1e-12)
    assert seen > 5


@given(rate=st.floats(0, 1), threshold=st.integers(0, 6), seed=st.integers(0, 50))
def test_no_reset_is_lost_or_early_or_more_than_there_are(rate, threshold, seed):
    tx = reinit(MODEL, sgd(0.1), replacement_rate=rate, maturity_threshold=threshold)
    due = dict.fromkeys(MODEL.units, 0.0)
    for t, ((_, old), (_, state), gone) in enumerate(reset_steps(tx, MODEL, 12, seed)):
        for group, mask in gone.items():
            units, eligible = state.units[group], old.units[group].age + 1 > threshold
            due[group] += rate * int(eligible.sum())
            assert math.isclose(float(units.replaced + units.budget), due[group], abs_tol=1e-9)
            assert 0 <= units.budget < 1 and not (mask & ~eligible).any()
            assert torch.equal(units.age, torch.where(mask, 0, old.units[group].age + 1))
            assert t + 1 > threshold or not mask.any()


def test_a_mask_inside_is_no_memory_so_what_was_reset_still_moves():
    moves = tree.map(torch.ones_like, MODEL.init(key(0)))
    masked = reset_steps(
        reinit(MODEL, chain(sgd(0.1, 0.9), mask_updates(moves)), **BRISK), MODEL, 8
    )
    plain = reset_steps(reinit(MODEL, chain(sgd(0.1, 0.9)), **BRISK), MODEL, 8)
    ends = [
        (one, other, state)
        for (_, (one, state), _), (_, (other, _), _) in zip(masked, plain, strict=True)
    ]
    assert all(identical(one, other) for one, other, _ in ends)
    assert all(units.replaced > 1 for units in ends[-1][2].units.values())
