"""Seeds until an interval is narrow: the interval itself, who stops when, and what is refused."""

import functools
import json

import pytest
import torch

from clfunc import ForgetSet, amnesiac, finetuning, mlp, run, scenarios, sgd, sweep, tree
from clfunc.cli import main
from clfunc.experiments.until import interval, run_until
from clfunc.random import key, split
from clfunc.testing.play import toy_data

QUIET = {"engine": "eager", "progress": False, "batch_size": 8}
KEYS = split(key(1), 12)


@functools.lru_cache
def job():
    """Two learning rates with six seeds each, that have tasks of their own; the first learns
    nothing.
    """
    scenario = scenarios.permuted(toy_data(), 2, split(key(2), 12))

    def build(lr):
        return finetuning(
            mlp(scenario.inputs, (8, 6), scenario.head(), dtype=torch.float64), sgd(lr, 0.9)
        )

    return sweep([build(lr) for lr in (1e-9, 0.1) for _ in range(6)]), scenario


@functools.lru_cache
def everything():
    algorithm, scenario = job()
    return run(algorithm, scenario, KEYS, **QUIET)


def test_the_interval_is_students():
    # mean 3, s = 1.5811, t(0.975, 4) = 2.7764: 3 +- 1.9632
    assert interval(torch.tensor([1.0, 2, 3, 4, 5])) == pytest.approx(
        2 * 2.776445 * 1.581139 / 5**0.5, rel=1e-6
    )
    assert interval(torch.tensor([1.0, torch.nan, 2, 3])) == pytest.approx(
        2 * 4.302653 / 3**0.5, rel=1e-6
    )
    assert (
        interval(torch.tensor([1.0, 1.0]))
        == interval(torch.tensor([1.0, torch.nan, 1.0]))
        == torch.inf
    )


PAIRS = [
    (10.0, 2),
    (25.0, 4),
    (1e-9, 4),
    (1e9, 2),
    (1e9, 4),
    pytest.param(10.0, 4, marks=pytest.mark.long),
    pytest.param(25.0, 2, marks=pytest.mark.long),
    pytest.param(1e-9, 2, marks=pytest.mark.long),
]


@pytest.mark.parametrize(("width", "batch"), PAIRS)
def test_each_configuration_takes_batches_of_seeds_until_its_interval_is_narrow(width, batch):
    algorithm, scenario = job()
    result = run_until(algorithm, scenario, KEYS, width, batch=batch, **QUIET)
    whole = everything()
    taken = []
    for start in (0, 6):
        values, count = whole.average_accuracy[start : start + 6], 0
        while count < 6 and (count == 0 or 100 * interval(values[:count]) >= width):
            count = min(6, count + batch)
        taken.append(range(start, start + count))
    kept = torch.tensor([run for runs in taken for run in runs])
    torch.testing.assert_close(
        result.accuracy, whole.accuracy[..., kept], rtol=0, atol=1e-10, equal_nan=True
    )
    torch.testing.assert_close(result.params, tree.index(whole.params, kept), rtol=0, atol=1e-10)
    assert result.config["seeds"] == [whole.config["seeds"][i] for i in kept]
    assert result.coordinates == {"lr": [whole.coordinates["lr"][i] for i in kept]}
    told = result.config["until_ci"]["configurations"]
    assert [one["seeds"] for one in told] == [len(runs) for runs in taken]
    widths = [100 * interval(whole.average_accuracy[list(runs)]) for runs in taken]
    assert [one["interval"] for one in told] == pytest.approx(widths, rel=1e-9)
    if width == 1e-9:
        assert len(kept) == 12
    if width == 1e9:
        assert len(kept) == 2 * (batch if batch > 2 else 4)  # three seeds at least


def test_requests_and_skipped_tasks_of_each_run_stay_with_their_seeds():
    _, scenario = job()
    model = mlp(scenario.inputs, (8, 6), scenario.head(), dtype=torch.float64)
    algorithm = sweep([amnesiac(finetuning(model, sgd(0.1)), num_tasks=2)] * 12)
    options = {
        "requests": [{}, {}, {1: [ForgetSet(task=0)]}, {}] * 3,
        "skip": [set(), {0}, set(), {1}] * 3,
    }
    result = run_until(algorithm, scenario, KEYS, 1e9, batch=2, runs_at_once=1, **options, **QUIET)
    first_four = scenario.part(range(4))
    shorter = {name: entries[:4] for name, entries in options.items()}
    whole = run(
        sweep([amnesiac(finetuning(model, sgd(0.1)), num_tasks=2)] * 4),
        first_four,
        KEYS[:4],
        **shorter,
        **QUIET,
    )
    assert result.events == whole.events and result.config["skip"] == whole.config["skip"]
    torch.testing.assert_close(result.accuracy, whole.accuracy, rtol=0, atol=1e-10, equal_nan=True)
    torch.testing.assert_close(result.params, whole.params, rtol=0, atol=1e-10)


def test_an_algorithm_by_itself_takes_seeds_too_and_leaves_a_folder(tmp_path):
    _, scenario = job()
    algorithm = finetuning(mlp(scenario.inputs, (8, 6), scenario.head()), sgd(0.1))
    result = run_until(algorithm, scenario, KEYS, 1e9, batch=3, out=tmp_path, **QUIET)
    assert result.accuracy.shape[-1] == 3 and (tmp_path / "results.nc").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"width": 0.0}, "width must be a number of percentage points above 0, given 0.0"),
        ({"batch": 0}, "batch must be at least 1, given 0"),
        ({"evaluate": "none"}, "a confidence interval needs accuracies"),
        ({"key": KEYS[:3]}, "a sweep of 12 needs a key"),
        ({"key": KEYS[[0, 1, 2, 0, 4, 5, 6, 7, 8, 9, 10, 11]]}, "given one key for runs 0 and 3"),
    ],
)
def test_what_has_no_interval_is_refused_in_one_line(change, message):
    algorithm, scenario = job()
    arguments = (
        {"algorithm": algorithm, "scenario": scenario, "key": KEYS, "width": 1.0} | QUIET | change
    )
    with pytest.raises(ValueError, match=message) as error:
        run_until(**arguments)
    assert "\n" not in str(error.value)


def test_the_command_adds_seeds(tmp_path, capsys, no_figures):
    small = [
        "--hidden",
        "8",
        "--tasks",
        "1",
        "--engine",
        "eager",
        "--seeds",
        "2",
        "--max-seeds",
        "6",
    ]
    assert main(["sweep", *small, "--until-ci", "0.0001", "--out", str(tmp_path)]) == 0
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["until_ci"]["configurations"][0]["seeds"] == 6 and about["seeds"] == list(range(6))
    said, widest = capsys.readouterr(), about["until_ci"]["configurations"][0]["interval"]
    assert "6 runs: 1 of 1 intervals are not yet narrower than 0.0001" in said.err
    assert f"95% interval narrower than 0.0001 points: 0 of 1; widest {widest:.2f}\n" in said.out
