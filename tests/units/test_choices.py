"""Which units `reinit` chooses: the least useful of those it may, by the rule that was asked for."""

from itertools import pairwise
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.resetting import (
    BRISK,
    CONV,
    MODEL,
    NETWORKS,
    TASK,
    context,
    every_network,
    gradient_like,
    reset_steps,
)

from clfunc import cbp, mlp, reinit, sgd, til, tree
from clfunc.random import fold_in, key, permutation
from clfunc.testing.laws import distance, identical
from clfunc.types import Batch, Task
from clfunc.units import resets
from clfunc.units.utility import utilities, utility_of


@given(
    st.lists(st.sampled_from([0.0, 0.5, 0.5, 1.0, torch.inf]), min_size=1, max_size=8),
    st.integers(1, 8),
    st.integers(0, 8),
)
def test_the_lowest_are_chosen_and_of_equals_the_first(values, slots, count):
    slots = min(slots, len(values))
    choice = resets.lowest(torch.tensor(values), slots, torch.tensor(count))
    expected = sorted(range(len(values)), key=lambda i: (values[i], i))[: min(slots, count)]
    assert set(choice.reset.nonzero().flatten().tolist()) == set(expected)
    assert choice.slot[expected].tolist() == list(range(len(expected)))


@every_network
def test_chosen_units_are_worth_no_more_than_those_that_might_have_been(network):
    model, seen = NETWORKS[network], 0
    tx = reinit(model, sgd(0.1), utility="contribution", **BRISK | {"maturity_threshold": 0})
    for t, ((params, old), (_, _), gone) in enumerate(reset_steps(tx, model, 12)):
        k = fold_in(key(0), t)
        moved = tree.map(lambda p, g: p - 0.1 * g, params, gradient_like(params, k))
        features = context(model, params, fold_in(k, 99)).features
        for group, mask in gone.items():
            h = (
                features[group].flatten(2)
                if features[group].ndim > 2
                else features[group][:, :, None]
            )
            now = utility_of("contribution", model, moved, group, h, h.mean((0, 2)))
            worth = (0.5 * old.units[group].utility + 0.5 * now) / (
                1 - 0.5 ** (old.units[group].age + 1).double()
            )
            seen += int(mask.any() and not mask.all())
            if mask.any() and not mask.all():
                assert worth[mask].max() <= worth[~mask].min()
    assert seen > 10


@pytest.mark.parametrize("name", utilities)
def test_the_utility_of_a_map_that_is_flattened_goes_position_by_position(name):
    params = CONV.init(key(0))
    features = context(CONV, params, key(1)).features
    for group, after in (("conv1", "conv2"), ("conv2", "hidden"), ("hidden", "head")):
        h = features[group].flatten(2) if features[group].ndim > 2 else features[group][:, :, None]
        centre = h.mean((0, 2)) / 2
        for i, found in enumerate(utility_of(name, CONV, params, group, h, centre).tolist()):
            w, positions = params[after]["weight"], range(h.shape[2])
            out, plain, centred, both, shifted = ([] for _ in range(5))
            for s in positions:
                into = w[:, i * 9 + s] if group == "conv2" else w[:, i]
                out.append(into.abs().mean().item())
                plain.append(h[:, i, s].abs().mean().item())
                centred.append((h[:, i, s] - centre[i]).abs().mean().item())
                both.append(out[-1] * plain[-1])
                shifted.append(out[-1] * centred[-1])
            mean = lambda values: sum(values) / len(values)  # noqa: E731
            into = params[group]["weight"][i].abs().mean().item()
            expected = {
                "weight": mean(out),
                "contribution": mean(both),
                "zero_contribution": mean(shifted),
                "adaptation": 1 / into,
                "adaptable_contribution": mean(shifted) / into,
                "feature_by_input": mean(centred) / into,
            }[name]
            assert abs(found - expected) <= 1e-12 * max(1, expected)


def test_several_consumers_are_heard_in_proportion_to_their_weights():
    model = NETWORKS["residual"]
    params = model.init(key(0))
    h = context(model, params, key(1)).features["stream"][:, :, None]
    rows = torch.cat([params[name]["weight"] for name in ("own", "down", "head")])
    found = utility_of("contribution", model, params, "stream", h, h[0, :, 0])
    torch.testing.assert_close(
        found, rows.abs().mean(0) * h[:, :, 0].abs().mean(0), rtol=1e-12, atol=0
    )
    columns = torch.cat([params[name]["weight"] for name in ("in", "own", "up")], 1)
    found = utility_of("adaptation", model, params, "stream", h, h[0, :, 0])
    torch.testing.assert_close(found, 1 / columns.abs().mean(1), rtol=1e-12, atol=0)


def relabelled(params, order):
    """The mlp with its hidden units in another order."""
    new, before = {}, None
    for group, leaf in params.items():
        rows = order.get(group, torch.arange(len(leaf["bias"])))
        columns = torch.arange(leaf["weight"].shape[1]) if before is None else order[before]
        new[group] = {"weight": leaf["weight"][rows][:, columns], "bias": leaf["bias"][rows]}
        before = group
    return new


def relabelled_noise(order, noise=resets.noise):
    """The noise of `reinit` with its columns in the order of the units they belong to."""

    def drawn(*args):
        rows, units = noise(*args), list(MODEL.units)
        later = {f"{g}.weight": order[before] for before, g in pairwise(units)}
        return {name: row[:, later[name]] if name in later else row for name, row in rows.items()}

    return drawn


@given(st.integers(0, 1000))
@settings(max_examples=5)
def test_relabelling_the_units_and_their_noise_relabels_the_result(seed):
    order = {
        g: permutation(fold_in(key(seed), i), n) for i, (g, n) in enumerate(MODEL.units.items())
    }
    tx = reinit(MODEL, sgd(0.1, 0.9), slots=2, **BRISK)
    ours, theirs = MODEL.init(key(seed)), relabelled(MODEL.init(key(seed)), order)
    state, other = tx.init(key(1), ours), tx.init(key(1), theirs)
    for t in range(8):
        k = fold_in(key(seed), 50 + t)
        gradient = gradient_like(ours, k)
        updates, state = tx.update(gradient, state, ours, context(MODEL, ours, k))
        with mock.patch.object(resets, "noise", relabelled_noise(order)):
            moves, other = tx.update(
                relabelled(gradient, order), other, theirs, context(MODEL, theirs, k)
            )
        ours, theirs = tree.add(ours, updates), tree.add(theirs, moves)
        assert distance(relabelled(ours, order), theirs) < 1e-12
        for group, rows in order.items():
            assert torch.equal(state.units[group].age[rows], other.units[group].age)
    assert sum(int(units.replaced) for units in state.units.values()) > 5


@every_network
@given(data=st.data())
def test_units_that_earlier_tasks_use_are_never_reset(network, data):
    model = NETWORKS[network]
    used = {g: torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 0.01, 1.0]), min_size=n, max_size=n)))
            for g, n in model.units.items()}  # fmt: skip
    tx = reinit(model, sgd(0.1, 0.9), replacement_rate=1.0, maturity_threshold=1)
    for t, (_, (_, state), gone) in enumerate(reset_steps(tx, model, 4, used=used)):
        for group, mask in gone.items():
            assert torch.equal(mask, (used[group] == 0) & torch.tensor(t % 2 == 1))
            assert (state.units[group].budget == 0).all()


def test_a_parked_head_keeps_what_it_heard_and_the_working_one_does_not():
    model = mlp(5, (6,), til(2, 3), dtype=torch.float64)
    algorithm = cbp(model, sgd(0.1), replacement_rate=1.0, maturity_threshold=1)
    params, state = algorithm.init(key(0))
    parked = state.head.bank.rows["head"]
    params, state = algorithm.begin_task(params, state, Task(*(torch.tensor(n) for n in (0, 2, 1))))
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        batch = Batch(x, torch.tensor([0, 1, 2, 0]), TASK, torch.ones(4, dtype=torch.float64))
        params, state, _ = algorithm.step(params, state, batch)
    assert (params["head"]["weight"] == 0).all() and identical(state.head.bank.rows["head"], parked)
