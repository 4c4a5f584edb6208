"""Continual backpropagation is its papers' algorithm, step for step, and `cbp` is finetuning with
`reinit`.
"""

import math
from itertools import product

import pytest
import torch
from support.naive_cbp import Adam, Momentum, Naive

import clfunc
from clfunc import adam, carry, cbp, dil, finetuning, mlp, reinit, sgd, sweep
from clfunc.random import key, normal, randint, uniform
from clfunc.testing import play, toy_stream
from clfunc.testing.laws import identical
from clfunc.types import Batch
from clfunc.units.utility import utilities

INPUTS, WIDTHS, CLASSES, BATCH = 5, (8, 6), 3, 4
MODEL = mlp(INPUTS, WIDTHS, dil(1, CLASSES), activation="tanh", dtype=torch.float64)
LAYERS = tuple(MODEL.units)
OPTIMISERS = {
    "sgd": (sgd(0.05), lambda network: Momentum(network, 0.05)),
    "momentum": (sgd(0.02, 0.9), lambda network: Momentum(network, 0.02, 0.9)),
    "adam": (adam(0.003), lambda network: Adam(network, 0.003)),
}
NUMBERS = {"replacement_rate": 0.02, "maturity_threshold": 20, "utility_decay_rate": 0.9}


def batch_at(t):
    x = normal(key(7), (BATCH, INPUTS), at=t, dtype=torch.float64)
    return Batch(
        x,
        randint(key(8), (BATCH,), 0, CLASSES, at=t),
        torch.tensor(0),
        torch.ones(BATCH, dtype=torch.float64),
    )


class Draws:
    """The random numbers of `reinit`, cut from its one draw of each step as its documentation says."""

    def __init__(self, own, rate, extra=""):
        slots = [max(1, math.ceil(rate * n)) for n in WIDTHS]
        fans = (INPUTS, WIDTHS[0])
        self.own = own
        self.shapes = {
            ("rows", layer): (k, fan) for layer, k, fan in zip(LAYERS, slots, fans, strict=True)
        }
        if extra == "scores":
            self.shapes |= {(extra, layer): (n,) for layer, n in zip(LAYERS, WIDTHS, strict=True)}
        if extra == "chance":
            self.shapes |= {(extra, layer): () for layer in LAYERS}

    def take(self, kind, layer, t):
        sizes = {name: math.prod(shape) for name, shape in self.shapes.items()}
        flat = uniform(self.own, (sum(sizes.values()),), at=t, dtype=torch.float64)
        names = list(sizes)
        start = sum(sizes[name] for name in names[: names.index((kind, layer))])
        return flat[start : start + sizes[kind, layer]].reshape(self.shapes[kind, layer])

    def rows(self, layer, t):
        return 2 * self.take("rows", layer, t) - 1

    def chance(self, layer, t):
        return self.take("chance", layer, t).item()

    def scores(self, layer, t):
        return self.take("scores", layer, t).tolist()


def both(algorithm, optimiser, steps, extra="", **rule):
    """A naive life and the library's, side by side: yields (naive, params, state) after each step."""
    params, state = algorithm.init(key(3))
    draws = Draws(state.opt.key, rule["rate"], extra)
    naive = Naive(
        params, optimiser, rows=draws.rows, chance=draws.chance, scores=draws.scores, **rule
    )
    for t in range(steps):
        batch = batch_at(t)
        params, state, _ = algorithm.step(params, state, batch)
        naive.step(batch.x, batch.y)
        yield naive, params, state


def distance(naive, params, state):
    """The largest difference in anything that is kept, relative to numbers above 1."""
    pairs = [(naive.network.w[n], params[n]["weight"]) for n in params]
    pairs += [(naive.network.b[n], params[n]["bias"]) for n in params]
    for layer in LAYERS:
        ours = state.opt.units[layer]
        pairs += [
            (naive.u[layer], ours.utility),
            (naive.f[layer], ours.mean),
            (naive.age[layer], ours.age),
        ]
        pairs += [(naive.budget[layer], ours.budget), (len(naive.replaced[layer]), ours.replaced)]
    pairs = [(torch.as_tensor(a, dtype=torch.float64), b.double()) for a, b in pairs]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in pairs)


def assert_same_life(algorithm, optimiser, steps=600, at_least=40, **rule):
    for naive, params, state in both(algorithm, optimiser, steps, **rule):
        if naive.t % 20 == 0:
            assert distance(naive, params, state) < 1e-12, f"step {naive.t}"
    assert sum(map(len, naive.replaced.values())) >= at_least
    return naive


def rule_of(numbers, **more):
    names = {
        "replacement_rate": "rate",
        "maturity_threshold": "threshold",
        "utility_decay_rate": "decay",
    }
    return {names[name]: number for name, number in numbers.items()} | more


EVERY_UTILITY = (*utilities, "random")
PAIRS = [(utility, tuple(OPTIMISERS)[i % 3]) for i, utility in enumerate(EVERY_UTILITY)]


def assert_its_transcription(utility, optimiser, steps, at_least):
    tx, theirs = OPTIMISERS[optimiser]
    algorithm = cbp(MODEL, tx, utility=utility, **NUMBERS)
    extra = "scores" if utility == "random" else ""
    rule = rule_of(NUMBERS, utility=utility, extra=extra)
    assert_same_life(algorithm, theirs, steps, at_least, **rule)


@pytest.mark.parametrize("utility, optimiser", PAIRS)
def test_every_utility_is_its_transcription_with_loops(utility, optimiser):
    assert_its_transcription(utility, optimiser, steps=300, at_least=20)


@pytest.mark.long
@pytest.mark.parametrize("utility, optimiser", product(EVERY_UTILITY, OPTIMISERS))
def test_every_utility_under_every_optimiser_is_its_transcription(utility, optimiser):
    assert_its_transcription(utility, optimiser, steps=600, at_least=40)


def test_many_units_may_be_reset_at_once():
    numbers = {"replacement_rate": 0.6, "maturity_threshold": 2, "utility_decay_rate": 0.5}
    algorithm = cbp(MODEL, sgd(0.05), **numbers)
    naive = assert_same_life(
        algorithm,
        OPTIMISERS["sgd"][1],
        60,
        200,
        **rule_of(numbers, utility="adaptable_contribution"),
    )
    times = [t for t, _ in naive.replaced["hidden1"]]
    assert max(times.count(t) for t in times) >= 3


def test_without_accumulation_a_fraction_of_a_unit_is_a_chance():
    for rate in (0.02, 0.4):
        numbers = NUMBERS | {"replacement_rate": rate}
        algorithm = cbp(MODEL, sgd(0.05), accumulate=False, **numbers)
        rule = rule_of(numbers, utility="adaptable_contribution", accumulate=False, extra="chance")
        assert_same_life(algorithm, OPTIMISERS["sgd"][1], 200, 15, **rule)


PRESETS = {
    "cbp_nature2024": {"utility": "contribution", "estimate": "plain", "budget": "one"},
    "cbp_lop_mlp": {"utility": "adaptable_contribution"},
    "cbp_lop_conv": {"utility": "adaptable_contribution", "budget": "total"},
    "cbp_arxiv2023": {"utility": "adaptable_contribution", "estimate": "lagged", "transfer": True},
}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_its_papers_rule(name):
    algorithm = getattr(clfunc, name)(MODEL, sgd(0.05), **NUMBERS)
    assert algorithm.settings["name"] == name
    assert_same_life(algorithm, OPTIMISERS["sgd"][1], 300, 20, **rule_of(NUMBERS, **PRESETS[name]))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_carries_its_optimiser_over_the_tasks_and_cbp_does_not(name):
    scenario = toy_stream()
    model = mlp(scenario.inputs, (8, 6), scenario.head())
    rule = {n: v for n, v in PRESETS[name].items() if n != "transfer"} | {
        "bias_transfer": "transfer" in PRESETS[name]
    }
    numbers = {"replacement_rate": 0.1, "maturity_threshold": 3, "utility_decay_rate": 0.9}
    preset = play(getattr(clfunc, name)(model, sgd(0.1, 0.9), **numbers), scenario, key(1))
    assert identical(
        preset, play(cbp(model, carry(sgd(0.1, 0.9)), **rule, **numbers), scenario, key(1))
    )
    assert not identical(
        preset, play(cbp(model, sgd(0.1, 0.9), **rule, **numbers), scenario, key(1))
    )


def test_cbp_is_finetuning_with_reinit_bit_for_bit():
    scenario = toy_stream()
    model = mlp(scenario.inputs, (8, 6), scenario.head())
    for tx in (sgd(0.1, 0.9), adam(0.01), carry(adam(0.01))):
        numbers = {"replacement_rate": 0.1, "maturity_threshold": 3, "utility": "contribution"}
        ours = play(cbp(model, tx, **numbers), scenario, key(1))
        assert identical(
            ours, play(finetuning(model, reinit(model, tx, **numbers)), scenario, key(1))
        )
        assert all(units.replaced > 3 for units in ours[1].opt.units.values())


def test_ages_and_utilities_outlive_the_task():
    scenario = toy_stream()
    model = mlp(scenario.inputs, (8, 6), scenario.head())
    _, state = play(cbp(model, sgd(0.1), maturity_threshold=10**6), scenario, key(1))
    assert all(
        (units.age == 18).all() and (units.utility > 0).any() for units in state.opt.units.values()
    )


def test_members_of_a_sweep_share_the_most_resets_of_a_step():
    make = lambda rate, **more: cbp(MODEL, sgd(0.1), replacement_rate=rate, **more)  # noqa: E731
    with pytest.raises(
        ValueError,
        match=r"^members of a sweep .* given tx.slots.hidden1 = 1 and 3: run them apart$",
    ):
        sweep([make(0.1), make(0.3)])
    assert sweep([make(0.1, slots=3), make(0.3, slots=3)]).settings["name"] == "sweep"


REFUSED = {
    "replacement_rate": (1.5, r"replacement_rate must be a number in \[0, 1\], given 1.5"),
    "maturity_threshold": (-1, r"maturity_threshold must be a number in \[0, inf\), given -1"),
    "utility_decay_rate": (1.0, r"utility_decay_rate must be a number in \[0, 1\), given 1.0"),
    "utility": (
        "nonsense",
        "utility must be one of weight, contribution, .*, random, given 'nonsense'",
    ),
    "estimate": ("nonsense", "estimate must be one of debiased, plain, lagged, given 'nonsense'"),
    "budget": ("nonsense", "budget must be one of eligible, total, one, given 'nonsense'"),
    "slots": (0, "slots must be a whole number of at least 1, given 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_out_of_range_is_refused_in_one_line(name):
    value, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{message}$"):
        cbp(MODEL, sgd(0.1), **{name: value})


def test_a_tensor_for_a_rate_needs_slots_and_one_at_a_time_saves_up():
    with pytest.raises(
        ValueError, match=r"^slots must be given where replacement_rate is a tensor"
    ):
        reinit(MODEL, sgd(0.1), replacement_rate=torch.tensor(0.1))
    with pytest.raises(ValueError, match=r"^budget='one' saves up"):
        reinit(MODEL, sgd(0.1), budget="one", accumulate=False)
    numbers = {"maturity_threshold": 3}
    ours = [
        cbp(MODEL, sgd(0.1), replacement_rate=rate, slots=1, **numbers)
        for rate in (torch.tensor(0.1), 0.1)
    ]
    lives = []
    for algorithm in ours:
        params, state = algorithm.init(key(0))
        for t in range(20):
            params, state, _ = algorithm.step(params, state, batch_at(t))
        lives.append(params)
    torch.testing.assert_close(*lives)
