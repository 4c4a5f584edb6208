"""ReDo is its paper's rule, step for step, and `reset_dormant` resets dormant units and nothing
else.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from support.naive_resets import (
    MODEL,
    OPTIMISERS,
    Resets,
    assert_drawn_and_unread,
    distance,
    side_by_side,
    steps,
)
from support.resetting import NETWORKS, cleared, context, every_network

from clfunc import adam, chain, finetuning, redo, reset_dormant, sgd, tree
from clfunc.random import key
from clfunc.testing.laws import identical
from clfunc.testing.strategies import optimizers, seeds, unit_masks
from clfunc.units import resets


class Naive(Resets):
    """Every `period` steps, all units whose score is at most `threshold`."""

    def __init__(self, *args, period, threshold):
        super().__init__(*args)
        self.period, self.threshold = period, threshold

    def refresh(self):
        """Tasks mean nothing to it."""

    def chosen(self, layer, h):
        if self.t == 0 or self.t % self.period:
            return []
        activity = [sum(abs(v) for v in h[:, i].tolist()) / len(h) for i in range(h.shape[1])]
        mean = sum(activity) / len(activity)
        return [i for i, a in enumerate(activity) if a / (mean + 1e-9) <= self.threshold]


RULES = [("sgd", 7, 0.2), ("momentum", 3, 0.025), ("adam", 1, 0.0), ("adam", 20, 0.5)]


@pytest.mark.parametrize("optimiser, period, threshold", RULES)
def test_it_is_its_transcription_with_loops(optimiser, period, threshold):
    tx, theirs = OPTIMISERS[optimiser]
    algorithm = redo(MODEL, tx, period=period, threshold=threshold)
    make = lambda params, own: Naive(params, theirs, own, period=period, threshold=threshold)  # noqa: E731
    for naive, params, state in side_by_side(algorithm, make, 3, 100):  # noqa: B007
        if naive.t % 10 == 0:
            assert distance(naive, params) < 1e-12, f"step {naive.t}"
    count = {layer: len(found) for layer, found in naive.replaced.items()}
    assert (
        count == {layer: int(n) for layer, n in state.opt.replaced.items()}
        and sum(count.values()) >= 20
    )


@every_network
@given(tx=optimizers(), seed=seeds())
@given_settings(max_examples=5)
def test_below_zero_it_is_the_inner_optimiser_to_the_bit(network, tx, seed):
    model = NETWORKS[network]
    memory = tx.init(key(seed).flip(0), model.init(key(seed)))
    for _, params, gradient, updates, _, new, given_ in steps(
        reset_dormant(model, tx, period=1, threshold=-1e-3), model, 5, seed
    ):
        plain, memory = tx.update(gradient, memory, params, given_)
        assert identical(updates, plain) and identical(new.inner, memory)


def scores(feature):
    mean = feature.abs().transpose(0, 1).flatten(1).mean(1)
    return mean / mean.mean()


@every_network
@given(tx=optimizers(), seed=seeds(), data=st.data())
@given_settings(max_examples=5)
def test_every_dormant_unit_that_is_free_is_as_drawn_unheard_and_forgotten_and_no_other_moves(
    network, tx, seed, data
):
    model, count = NETWORKS[network], 0
    used = data.draw(unit_masks(model.units))
    for t, params, gradient, updates, state, new, given_ in steps(
        reset_dormant(model, tx, period=2, threshold=0.9), model, 7, seed, used
    ):
        on = t in (2, 4, 6)
        gone = {g: (scores(h) <= 0.9) & (used[g] == 0) & on for g, h in given_.features.items()}
        plain, memory = tx.update(gradient, state.inner, params, given_)
        leaves = dict(tree.items(tree.add(params, updates)))
        for group, mask in gone.items():
            assert new.replaced[group] - state.replaced[group] == mask.sum()
            assert_drawn_and_unread(model, leaves, group, gone)
        choices = {g: resets.marked(mask) for g, mask in gone.items()}
        touched = resets.touched(model, params, choices)
        for u, p, near in zip(*map(tree.leaves, (updates, plain, touched)), strict=True):
            assert torch.equal(u[~near.expand(u.shape)], p[~near.expand(u.shape)])
        kept = cleared(memory, params, touched)
        assert identical(new.inner, kept)
        count += sum(int(mask.sum()) for mask in gone.values())
    assert count > 0 or any((m == 1).any() for m in used.values())


def test_adams_count_of_steps_is_kept():
    *_, last = steps(reset_dormant(MODEL, adam(0.01), period=1, threshold=1.0), MODEL, 6, 0)
    state = last[5]
    assert state.inner.step == 6 and all(n > 0 for n in state.replaced.values())


def test_a_dead_layer_is_reset_whole():
    params = tree.map(torch.zeros_like, MODEL.init(key(0)))
    tx = reset_dormant(MODEL, sgd(0.0), period=1, threshold=0.0)
    state = tx.init(key(1), params)._replace(step=torch.tensor(1))
    updates, _ = tx.update(params, state, params, context(MODEL, params, key(2)))
    assert (updates["hidden1"]["weight"] != 0).all() and (updates["hidden2"]["weight"] != 0).all()
    assert (updates["head"]["weight"] == 0).all() and (updates["hidden1"]["bias"] == 0).all()


def test_redo_is_finetuning_with_it_and_names_all_its_settings():
    algorithm = redo(MODEL, sgd(0.1), period=5, threshold=0.1)
    same = finetuning(MODEL, reset_dormant(MODEL, sgd(0.1), period=5, threshold=0.1))
    assert identical(algorithm.init(key(0)), same.init(key(0)))
    assert algorithm.settings["name"] == "redo" and set(algorithm.settings["tx"]) == {
        "name", "place", "model", "inner", "period", "threshold"
    }  # fmt: skip


def test_what_cannot_be_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^period must be a number in \[1, inf\), given 0$"):
        redo(MODEL, sgd(0.1), period=0)
    with pytest.raises(ValueError, match=r"^threshold must be a number in .*, given nan$"):
        redo(MODEL, sgd(0.1), threshold=float("nan"))
    with pytest.raises(
        ValueError,
        match=r"^reset_dormant needs wires into and out of every group of units, hidden1",
    ):
        redo(MODEL._replace(wires=()), sgd(0.1))
    with pytest.raises(ValueError, match=r"^reset_dormant must come last in a chain"):
        chain(reset_dormant(MODEL, sgd(0.1)), sgd(0.1))
