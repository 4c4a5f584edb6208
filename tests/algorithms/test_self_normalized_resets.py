"""Self-normalized resets are their paper's rule, step for step, and `reset_silent` resets units
silent for too long only.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from support.naive_resets import (
    LAYERS,
    MODEL,
    OPTIMISERS,
    WIDTHS,
    Resets,
    assert_drawn_and_unread,
    distance,
    side_by_side,
    steps,
)
from support.resetting import NETWORKS, cleared, every_network

from clfunc import (
    adam,
    carry,
    chain,
    finetuning,
    mlp,
    reset_silent,
    self_normalized_resets,
    sgd,
    til,
    tree,
)
from clfunc.random import key
from clfunc.testing.laws import identical
from clfunc.testing.strategies import optimizers, seeds, unit_masks
from clfunc.transforms.reset_silent import Silence, listen, refreshed, silent
from clfunc.units import resets

QUICK = {"rejection_percentile": 0.1, "first_threshold": 2, "max_threshold": 12}


class Naive(Resets):
    """Lists of silences in place of histograms; thresholds are refreshed between tasks, every
    `every` of them.
    """

    def __init__(self, *args, eta, first, longest, every=1):
        super().__init__(*args)
        self.eta, self.longest, self.every, self.tasks = eta, longest, every, 0
        sizes = dict(zip(LAYERS, WIDTHS, strict=True))
        self.age = {layer: [0] * n for layer, n in sizes.items()}
        self.threshold = {layer: [first] * n for layer, n in sizes.items()}
        self.seen = {layer: [[] for _ in range(n)] for layer, n in sizes.items()}
        self.contracted = self.doubled = 0

    def chosen(self, layer, h):
        age, gone = self.age[layer], []
        for i in range(h.shape[1]):
            if any(v > 0 for v in h[:, i].tolist()):
                self.seen[layer][i].append(age[i])
                age[i] = 0
                continue
            age[i] += 1
            if age[i] >= self.threshold[layer][i]:
                self.seen[layer][i].append(age[i])
                age[i] = 0
                gone.append(i)
        return gone

    def refresh(self):
        self.tasks += 1
        if self.tasks % self.every:
            return
        for layer in LAYERS:
            for i, seen in enumerate(self.seen[layer]):
                old = self.threshold[layer][i]
                self.threshold[layer][i] = self.refreshed([a for a in seen if a > 0], old)
                self.contracted += self.threshold[layer][i] < old
                self.doubled += self.threshold[layer][i] > old
            self.seen[layer] = [[] for _ in self.seen[layer]]

    def refreshed(self, seen, threshold):
        limit = 1
        while seen and sum(a >= limit for a in seen) / len(seen) > self.eta:
            limit += 1
        return limit if limit <= threshold else min(2 * threshold, self.longest)


RULES = [("sgd", 0.1, 3, 12, 1), ("momentum", 0.3, 2, 5, 2), ("adam", 0.02, 4, 20, 1)]


@pytest.mark.parametrize("optimiser, eta, first, longest, every", RULES)
def test_it_is_its_transcription_with_loops(optimiser, eta, first, longest, every):
    tx, theirs = OPTIMISERS[optimiser]
    numbers = {
        "rejection_percentile": eta,
        "first_threshold": first,
        "max_threshold": longest,
        "refresh_period": every,
    }
    algorithm = self_normalized_resets(MODEL, tx, **numbers)
    rule = {"eta": eta, "first": first, "longest": longest, "every": every}
    for naive, params, state in side_by_side(
        algorithm, lambda p, own: Naive(p, theirs, own, **rule), 6, 60
    ):
        units = state.opt.units
        if naive.t % 10 == 0:
            assert distance(naive, params) < 1e-12, f"step {naive.t}"
        for layer in LAYERS:
            assert units[layer].age.tolist() == naive.age[layer]
            assert units[layer].threshold.tolist() == naive.threshold[layer]
            counts = [[seen.count(a) for a in range(longest + 1)] for seen in naive.seen[layer]]
            assert units[layer].silences.tolist() == counts and units[layer].replaced == len(
                naive.replaced[layer]
            )
    assert sum(map(len, naive.replaced.values())) >= 20 and naive.contracted and naive.doubled


@every_network
@given(tx=optimizers(), seed=seeds())
@given_settings(max_examples=5)
def test_at_percentile_zero_it_is_the_inner_optimiser_to_the_bit(network, tx, seed):
    model = NETWORKS[network]
    rule = {"rejection_percentile": 0.0, "first_threshold": 1, "max_threshold": 2}
    memory = tx.init(key(seed).flip(0), model.init(key(seed)))
    for _, params, gradient, updates, _, new, given_ in steps(
        reset_silent(model, tx, **rule), model, 5, seed
    ):
        plain, memory = tx.update(gradient, memory, params, given_)
        assert identical(updates, plain) and identical(new.inner, memory)


RELU = {"mlp": MODEL, "narrow": mlp(5, (4, 4, 3), til(2, 3), dtype=torch.float64)}


@pytest.mark.parametrize("network", RELU)
@given(tx=optimizers(), seed=seeds(), data=st.data())
@given_settings(max_examples=8)
def test_every_unit_silent_for_too_long_is_as_drawn_unheard_and_forgotten_and_no_other_moves(
    network, tx, seed, data
):
    model, used = RELU[network], data.draw(unit_masks(RELU[network].units))
    first = data.draw(st.integers(1, 2))
    for _, params, gradient, updates, state, new, given_ in steps(
        reset_silent(model, tx, **QUICK | {"first_threshold": first}), model, 8, seed, used
    ):
        plain, memory = tx.update(gradient, state.inner, params, given_)
        gone = {}
        for group, h in given_.features.items():
            quiet, old = (h <= 0).transpose(0, 1).flatten(1).all(1), state.units[group]
            gone[group] = quiet & (old.age + 1 >= first) & (used[group] == 0)
            assert torch.equal(
                new.units[group].age, torch.where(quiet & ~gone[group], old.age + 1, 0)
            )
            assert new.units[group].replaced - old.replaced == gone[group].sum()
        leaves = dict(tree.items(tree.add(params, updates)))
        for group in model.units:
            assert_drawn_and_unread(model, leaves, group, gone)
        touched = resets.touched(
            model, params, {g: resets.marked(mask) for g, mask in gone.items()}
        )
        for u, p, near in zip(*map(tree.leaves, (updates, plain, touched)), strict=True):
            assert torch.equal(u[~near.expand(u.shape)], p[~near.expand(u.shape)])
        assert identical(
            new.inner,
            cleared(memory, params, touched),
        )


def known(silences, threshold, age=0):
    n = len(silences)
    counts = torch.tensor(silences, dtype=torch.int32)
    return Silence(
        torch.full((n,), age),
        torch.full((n,), float(threshold), dtype=torch.float64),
        counts,
        torch.tensor(0),
    )


def threshold_after(silences, threshold, share):
    new = refreshed(known([silences], threshold), torch.tensor(share, dtype=torch.float64))
    assert (new.silences == 0).all()
    return float(new.threshold)


def test_a_limit_is_the_first_length_that_is_rare_enough():
    assert threshold_after([9, 6, 3, 1, 0, 0], 5, 0.5) == 2  # P(A >= 2) = 0.4
    assert threshold_after([9, 6, 3, 1, 0, 0], 5, 0.4) == 2  # at most, not less
    assert threshold_after([9, 6, 3, 1, 0, 0], 5, 0.39) == 3
    assert threshold_after([9, 6, 3, 1, 0, 0], 5, 0.01) == 4  # longer than all that were seen
    assert threshold_after([9, 0, 0, 0, 0, 0], 5, 0.01) == 1  # silences of no length do not count


def test_where_too_many_silences_were_cut_short_the_threshold_doubles_and_never_beyond_the_most():
    assert threshold_after([0, 0, 5, 0, 0, 0], 2, 0.5) == 4
    assert threshold_after([0, 0, 0, 5, 0, 0], 3, 0.5) == 5
    assert threshold_after([0, 0, 0, 0, 0, 5], 5, 0.5) == 5


def test_a_silence_longer_than_the_histogram_counts_as_its_longest():
    units = known([[0, 0, 0, 0]], 3, age=7)
    used, fires = torch.tensor([False]), torch.tensor([False])
    units, choice = listen(units, fires, used)
    assert units.silences.tolist() == [[0, 0, 0, 1]] and units.age == 0 and not choice.reset.any()


def test_a_map_or_a_pair_is_silent_only_where_all_of_it_is():
    feature = torch.tensor(
        [[[0.0, -1.0], [0.0, 0.5], [-2.0, -1.0]], [[0.0, 0.0], [-1.0, 0.0], [0.0, -3.0]]]
    )
    assert silent(feature).tolist() == [True, False, True]


def test_thresholds_are_refreshed_when_tasks_have_passed_and_never_inside_carry():
    tx = reset_silent(MODEL, adam(0.01), **QUICK | {"refresh_period": 2})
    params = MODEL.init(key(0))
    states = [tx.init(key(1), params)]
    for _ in range(5):
        states.append(tx.begin_task(states[-1], params))
    seen = [float(state.units["hidden1"].threshold[0]) for state in states]
    assert seen == [2, 2, 2, 1, 1, 1] and states[-1].tasks == 5
    wrapped = carry(tx)
    assert identical(wrapped.begin_task(states[2], params), states[2])


def test_it_is_finetuning_with_the_transform_and_names_all_its_settings():
    algorithm = self_normalized_resets(MODEL, sgd(0.1), **QUICK)
    same = finetuning(MODEL, reset_silent(MODEL, sgd(0.1), **QUICK))
    assert identical(algorithm.init(key(0)), same.init(key(0)))
    names = {
        "name",
        "place",
        "model",
        "inner",
        "rejection_percentile",
        "first_threshold",
        "refresh_period",
        "max_threshold",
    }
    assert (
        algorithm.settings["name"] == "self_normalized_resets"
        and set(algorithm.settings["tx"]) == names
    )


REFUSED = {
    "rejection_percentile": (1.0, r"rejection_percentile must be a number in \[0, 1\), given 1.0"),
    "first_threshold": (13, r"first_threshold must be a number in \[1, 12\], given 13"),
    "refresh_period": (0, r"refresh_period must be a number in \[1, inf\), given 0"),
    "max_threshold": (0, "max_threshold must be a whole number of at least 1, given 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_out_of_range_is_refused_in_one_line(name):
    value, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{message}$"):
        self_normalized_resets(MODEL, sgd(0.1), **QUICK | {name: value})


def test_it_must_come_last_in_a_chain():
    with pytest.raises(ValueError, match=r"^reset_silent must come last in a chain"):
        chain(reset_silent(MODEL, sgd(0.1)), sgd(0.1))
