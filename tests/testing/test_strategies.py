"""The public strategies give what they promise, and the laws can fail."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clfunc import finetuning, mlp, tree
from clfunc.random import key
from clfunc.testing import Case, laws, play, strategies
from clfunc.testing.laws import identical
from clfunc.types import Context


@given(strategies.streams(), strategies.chains(), strategies.keys())
def test_every_chain_trains_finetuning_on_every_stream(scenario, tx, k):
    params, _ = play(
        finetuning(mlp(scenario.inputs, (4,), scenario.head()), tx), scenario, k, epochs=1
    )
    assert all(leaf.isfinite().all() for leaf in tree.leaves(params))


@given(st.data())
def test_every_chain_makes_updates_shaped_like_the_parameters(data):
    params, tx = data.draw(strategies.parameter_trees()), data.draw(strategies.chains())
    gradient = data.draw(strategies.gradients_like(params))
    updates, _ = tx.update(
        gradient, tx.init(key(0), params), params, Context({}, torch.tensor(0), {})
    )
    assert tree.structure(updates) == tree.structure(params)
    shapes = [[(leaf.shape, leaf.dtype) for leaf in tree.leaves(t)] for t in (updates, params)]
    assert shapes[0] == shapes[1] and not identical(updates, tree.zeros_like(updates))


@given(st.data())
def test_unit_masks_are_zeros_and_ones_of_each_groups_width(data):
    units = {"hidden1": 3, "hidden2": 2}
    masks = data.draw(strategies.unit_masks(units))
    assert {g: len(m) for g, m in masks.items()} == units
    assert all(set(m.tolist()) <= {0.0, 1.0} for m in masks.values())


def leaky(model, tx):
    """Finetuning with one fault, by which each law must fail."""
    return finetuning(model, tx)


def holds_a_number(model, tx):
    algorithm = leaky(model, tx)
    return algorithm._replace(init=lambda k: (algorithm.init(k)[0], (algorithm.init(k)[1], 3)))


def writes_in_place(model, tx):
    algorithm = leaky(model, tx)

    def step(params, state, batch):
        params["hidden1"]["bias"].add_(1.0)
        return algorithm.step(params, state, batch)

    return algorithm._replace(step=step)


def draws_globally(model, tx):
    algorithm = leaky(model, tx)

    def end_task(params, state):
        return tree.map(lambda p: p + 0 * torch.rand(p.shape), params), state

    return algorithm._replace(end_task=end_task)


def mixes_runs(model, tx):
    algorithm = leaky(model, tx)
    calls = []

    def end_epoch(params, state, metrics):
        calls.append(1)
        return tree.scale(params, 1.0 + 0.01 * len(calls)), state

    return algorithm._replace(end_epoch=end_epoch)


def closes_over_a_number(model, tx):
    algorithm, lr = leaky(model, tx), float(tx.settings["lr"])

    def end_task(params, state):
        return tree.scale(params, 1 - lr), state

    return algorithm._replace(end_task=end_task)


def learns_nothing(model, tx):
    algorithm = leaky(model, tx)
    return algorithm._replace(step=lambda p, s, b: (p, *algorithm.step(p, s, b)[1:]))


def counts_by_itself(model, tx):
    algorithm = leaky(model, tx)
    calls = []

    def step(params, state, batch):
        calls.append(1)
        params, state, metrics = algorithm.step(params, state, batch)
        return tree.scale(params, 1.0 + 0.01 * len(calls)), state, metrics

    return algorithm._replace(step=step)


FAULTS = {
    "leaves_are_tensors_of_constant_shape": holds_a_number,
    "calls_are_pure": writes_in_place,
    "members_of_a_sweep_equal_themselves_alone": mixes_runs,
    "members_share_one_program": closes_over_a_number,
    "neutral_is_finetuning": finetuning,
    "learns_two_real_tasks": learns_nothing,
    "tracing_changes_no_bit": counts_by_itself,
    "a_resumed_run_is_the_run_never_stopped": counts_by_itself,
}


@pytest.mark.parametrize("law", laws.algorithm_laws, ids=lambda law: law.__name__)
def test_every_law_fails_for_an_algorithm_that_breaks_it(law):
    with pytest.raises(AssertionError):
        law(Case("faulty", FAULTS[law.__name__]))


def tracks_gradients(model, tx):
    algorithm = leaky(model, tx)

    def end_task(params, state):
        return tree.map(lambda p: p.clone().requires_grad_(), params), state

    return algorithm._replace(end_task=end_task)


def keeps_metrics_attached(model, tx):
    algorithm = leaky(model, tx)

    def step(params, state, batch):
        params, state, metrics = algorithm.step(params, state, batch)
        return (
            params,
            state,
            {name: value.clone().requires_grad_() for name, value in metrics.items()},
        )

    return algorithm._replace(step=step)


@pytest.mark.parametrize("fault", [tracks_gradients, keeps_metrics_attached])
def test_leaves_that_require_a_gradient_break_the_first_law(fault):
    with pytest.raises(AssertionError, match="requires a gradient"):
        laws.algorithm_laws[0](Case("faulty", fault))


def test_purity_also_fails_for_draws_from_torchs_own_generator():
    law = next(law for law in laws.algorithm_laws if law.__name__ == "calls_are_pure")
    with pytest.raises(AssertionError, match="global random numbers"):
        law(Case("faulty", draws_globally))
