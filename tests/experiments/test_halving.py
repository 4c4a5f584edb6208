"""Successive halving: who stops when, that survivors never notice, and what is refused."""

import json
import math
from functools import cache

import pytest
import torch

from clfunc import ForgetSet, finetuning, l2_init, mlp, run, scenarios, sgd, sweep, tree
from clfunc.cli import main
from clfunc.engine.sweep import configurations
from clfunc.experiments.halving import halve, rungs
from clfunc.random import key, split
from clfunc.testing import toy_stream
from clfunc.testing.play import toy_data

QUIET = {"engine": "eager", "progress": False, "batch_size": 8}
RATES = (1e-4, 0.1, 1e300, 0.03)
KEYS = split(key(1), 8)


def build(scenario, lr):
    return finetuning(
        mlp(scenario.inputs, (8, 6), scenario.head(), dtype=torch.float64), sgd(lr, 0.9)
    )


@cache
def job(valid=0.25, tasks=4):
    """Four learning rates, one of which diverges, with two seeds each that have tasks of their own."""
    scenario = scenarios.permuted(toy_data(), tasks, split(key(2), 8), valid=valid)
    return sweep([build(scenario, lr) for lr in RATES for _ in range(2)]), scenario


def expected(algorithm, scenario, stops, eta, part, **options):
    """The same, the long way round: everything is trained from the start up to each rung, and the
    best of it kept.
    """
    alive = [list(range(2 * i, 2 * i + 2)) for i in range(4)]
    for stop in stops:
        short = scenario._replace(phases=scenario.phases[:stop])
        result, means = run(algorithm, short, KEYS, **options), []
        for runs in alive:
            values = []
            for r in runs:
                params, state = tree.index(result.params, r), tree.index(result.state, r)
                for task in range(stop):
                    stream = tree.index(scenario.test(task), r)
                    batch = scenario.batch(scenario.data, stream, getattr(stream, part))
                    logits = algorithm_of(scenario).predict(params, state, batch.x, batch.task)
                    right = (logits.argmax(-1) == batch.y).double().mean().item()
                    values.append(-math.inf if result.diverged[r] >= 0 else right)
            means.append(sum(values) / len(values))
        keep = max(1, len(alive) // eta)
        best = sorted(range(len(alive)), key=lambda i: -means[i])[:keep]
        alive = [alive[i] for i in sorted(best)]
    return [r for runs in alive for r in runs]


def algorithm_of(scenario):
    return build(scenario, 0.1)


@pytest.mark.parametrize(
    "configurations, eta, tasks, stops",
    [
        (27, 3, 27, [1, 3, 9]),
        (9, 3, 5, [1, 2]),
        (4, 2, 4, [1, 2]),
        (4, 3, 10, [3]),
        (8, 2, 3, [1, 2]),
        (100, 3, 2, [1]),
    ],
)
def test_rungs_are_geometric_and_never_after_the_last_task(configurations, eta, tasks, stops):
    assert rungs(configurations, eta, tasks) == stops
    halvings = int(math.log(configurations, eta) + 1e-9)
    naive = [max(1, round(tasks / eta ** (halvings - i))) for i in range(halvings)]
    assert stops == sorted({stop for stop in naive if stop < tasks})


@pytest.mark.parametrize("valid, part", [(0.25, "valid"), (0.0, "test")])
def test_the_best_half_goes_on_and_its_runs_are_what_they_would_have_been(valid, part):
    algorithm, scenario = job(valid)
    options = {"epochs": 2, **QUIET}
    result = halve(algorithm, scenario, KEYS, eta=2, **options)
    left = expected(algorithm, scenario, [1, 2], 2, part, **options)
    whole = run(algorithm, scenario, KEYS, **options)
    assert len(left) == 2 and result.config["seeds"] == [whole.config["seeds"][r] for r in left]
    kept = torch.tensor(left)
    torch.testing.assert_close(result.params, tree.index(whole.params, kept), rtol=0, atol=1e-10)
    torch.testing.assert_close(result.state, tree.index(whole.state, kept), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        result.accuracy, whole.accuracy[..., kept], rtol=0, atol=1e-10, equal_nan=True
    )
    for name in ("training", "validation"):
        ours, theirs = getattr(result, name), getattr(whole, name)
        assert torch.equal(ours.step, theirs.step) and torch.equal(ours.task, theirs.task)
        values = tree.map(lambda v: v[:, kept], theirs.values)
        torch.testing.assert_close(ours.values, values, rtol=0, atol=1e-10)
    assert result.steps == whole.steps and result.config["settings"]["members"] == [
        whole.config["settings"]["members"][r] for r in left
    ]


def test_where_eta_does_not_divide_the_configurations_the_number_that_goes_on_is_rounded_down():
    algorithm, scenario = job(tasks=2)
    result = halve(algorithm, scenario, KEYS, eta=3, **QUIET)
    (rung,) = result.config["halving"]["rungs"]
    assert sum(one["kept"] for one in rung["configurations"]) == 1 and len(result.diverged) == 2


def test_the_configuration_tells_what_each_rung_found():
    algorithm, scenario = job()
    about = halve(algorithm, scenario, KEYS, eta=2, **QUIET).config["halving"]
    assert about["eta"] == 2 and about["by"] == "valid"
    first, second = about["rungs"]
    assert (first["tasks"], second["tasks"]) == (1, 2)
    assert [one["settings"]["lr"] for one in first["configurations"]] == list(RATES)
    assert first["configurations"][2] == {"settings": {"lr": 1e300}, "score": None, "kept": False}
    assert [sum(one["kept"] for one in rung["configurations"]) for rung in (first, second)] == [
        2,
        1,
    ]
    scores = sorted((one["score"] or -1, one["kept"]) for one in first["configurations"])
    assert [kept for _, kept in scores] == [False, False, True, True]


def test_a_run_that_diverges_beside_a_good_one_stays_as_it_was():
    scenario = scenarios.permuted(toy_data(), 3, key(2))
    algorithm = sweep([build(scenario, lr) for lr in (0.1, 1e300, 1e301)])
    result = halve(algorithm, scenario, KEYS[:3], eta=3, **QUIET)
    assert result.coordinates == {} and result.config["settings"]["members"][0]["tx"]["lr"] == 0.1
    both = halve(
        sweep([build(scenario, lr) for lr in (1e300, 1e301)]), scenario, KEYS[:2], eta=2, **QUIET
    )
    whole = run(build(scenario, 1e300), scenario, KEYS[:1], **QUIET)
    assert both.diverged.tolist() == whole.diverged.tolist() and both.diverged[0] >= 0
    torch.testing.assert_close(both.accuracy, whole.accuracy, equal_nan=True)
    torch.testing.assert_close(both.params, whole.params)


def test_a_configuration_with_a_diverged_run_comes_last_however_good_its_others():
    scenario = scenarios.permuted(toy_data(), 2, key(2))

    def spoilt(lr):
        algorithm = build(scenario, lr)

        def init(start):
            params, state = algorithm.init(start)
            return tree.map(
                lambda p: torch.where((start == split(KEYS[0])[0]).all(), torch.nan, p), params
            ), state

        return algorithm._replace(init=init)

    algorithm = sweep([spoilt(lr) for lr in (0.1, 0.1, 1e-9, 1e-9)])
    result = halve(algorithm, scenario, KEYS[:4], eta=2, **QUIET)
    first, second = result.config["halving"]["rungs"][0]["configurations"]
    assert first == {"settings": {"lr": 0.1}, "score": None, "kept": False} and second["kept"]


def test_a_survivor_that_diverges_later_says_at_which_step_of_the_whole_run():
    scenario = scenarios.permuted(toy_data(), 3, key(2))

    def doomed(lr):
        algorithm = build(scenario, lr)

        def begin_task(params, state, task):
            params = tree.map(lambda p: torch.where(task.id == 2, torch.nan, p), params)
            return algorithm.begin_task(params, state, task)

        return algorithm._replace(begin_task=begin_task)

    algorithm = sweep([doomed(lr) for lr in (0.1, 1e-9)])
    result, whole = (
        f(algorithm, scenario, KEYS[:2], **QUIET, **how)
        for f, how in ((halve, {"eta": 2}), (run, {}))
    )
    assert (
        result.diverged.tolist() == whole.diverged[:1].tolist()
        and whole.diverged[0] >= 2 * whole.steps // 3
    )


def test_runs_that_differ_in_their_seeds_only_are_one_configuration():
    algorithm, scenario = job()
    assert configurations(algorithm, 8) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert configurations(build(scenario, 0.1), 3) == [[0, 1, 2]]


def test_configurations_differ_where_any_of_their_numbers_does():
    scenario = toy_stream()
    model = mlp(scenario.inputs, (4,), scenario.head())
    grid = [(lr, strength) for lr in (0.1, 0.2) for strength in (0.01, 0.02)]
    algorithm = sweep(
        [l2_init(model, sgd(lr), strength=strength) for lr, strength in grid + grid[::-1]]
    )
    assert configurations(algorithm, 8) == [[0, 7], [1, 6], [2, 5], [3, 4]]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"eta": 1}, "eta must be at least 2, given 1"),
        ({"eta": 5}, "halving with eta=5 needs a sweep of 5 configurations or more, given 4"),
        ({"algorithm": build(job()[1], 0.1)}, "needs a sweep of 3 configurations or more, given 1"),
        ({"scenario": toy_stream(split(key(2), 8), 1)}, "needs two tasks or more"),
        ({"key": KEYS[:3]}, "a sweep of 8 needs a key"),
        ({"skip": [1]}, "halve takes no skip"),
        ({"requests": {0: [ForgetSet(task=0)]}}, "halve takes no requests"),
    ],
)
def test_what_cannot_be_halved_is_refused_in_one_line(change, message):
    algorithm, scenario = job()
    arguments = {"algorithm": algorithm, "scenario": scenario, "key": KEYS} | QUIET | change
    with pytest.raises(ValueError, match=message) as error:
        halve(**arguments)
    assert "\n" not in str(error.value)


def test_the_command_halves_a_grid(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("clfunc.results.plots.save", lambda *_: [])
    grid = [
        "--grid",
        "lr=0.0001,0.003,0.03",
        "--hidden",
        "8",
        "--tasks",
        "3",
        "--engine",
        "eager",
        "--valid",
        "0.1",
    ]
    assert main(["sweep", *grid, "--seeds", "2", "--halving", "--out", str(tmp_path)]) == 0
    about = json.loads((tmp_path / "config.json").read_text())
    assert [rung["tasks"] for rung in about["halving"]["rungs"]] == [1] and about["seeds"] == [0, 1]
    said = capsys.readouterr()
    assert "after task 1: 1 of 3 configurations go on; best lr=0.03 (valid 0." in said.err
    assert "left of 3 configurations, by valid examples: lr=0.03\n" in said.out


def test_in_regression_the_configuration_of_the_lowest_error_goes_on():
    scenario = scenarios.slowly_changing_regression(
        3, key(3), inputs=7, slow=4, period=60, features=9
    )
    algorithm = sweep([build(scenario, lr) for lr in (1e-9, 0.01)])
    result = halve(algorithm, scenario, KEYS[:2], eta=2, **QUIET)
    first, second = result.config["halving"]["rungs"][0]["configurations"]
    assert first["score"] < second["score"] < 0 and (first["kept"], second["kept"]) == (False, True)
    assert result.config["halving"]["rungs"][0]["tasks"] == 2
    for lr, start, found in ((1e-9, KEYS[0], first), (0.01, KEYS[1], second)):
        member, errors = build(scenario, lr), []
        at = run(member, scenario._replace(phases=(1, 2)), start, **QUIET)
        for stream in map(scenario.test, range(2)):
            batch = scenario.batch(scenario.data, stream, stream.test)
            wrong = (member.predict(at.params, at.state, batch.x, batch.task) - batch.y).square()
            errors.append(wrong.mean().item())
        assert found["score"] == pytest.approx(-sum(errors) / 2, rel=1e-5)


def test_a_run_that_diverged_before_a_rung_has_no_accuracy_after_it():
    scenario = scenarios.permuted(toy_data(), 4, key(2))

    def doomed(lr):
        algorithm = build(scenario, lr)

        def step(params, state, batch):
            params, state, metrics = algorithm.step(params, state, batch)
            return (
                params,
                state,
                metrics | {"loss": torch.where(batch.task == 1, torch.nan, metrics["loss"])},
            )

        return algorithm._replace(step=step)

    algorithm = sweep([doomed(lr) for lr in (0.1, 0.1001, 0.09, 0.08)])
    result, whole = (
        f(algorithm, scenario, KEYS[:4], **QUIET, **how)
        for f, how in ((halve, {"eta": 2}), (run, {}))
    )
    left = [whole.config["seeds"].index(seed) for seed in result.config["seeds"]]
    torch.testing.assert_close(result.accuracy, whole.accuracy[..., left], equal_nan=True)
    assert (
        result.diverged.tolist() == whole.diverged[left].tolist()
        and result.accuracy[1:].isnan().all()
    )
    assert all(leaf.isfinite().all() for leaf in tree.leaves(result.params))
