"""Successive halving [1], the inner loop of Hyperband [2]: many configurations begin, and the best
ones go on.

With n configurations, eta and T tasks there are s = floor(log_eta n) rungs. Rung i = 0..s-1 is
reached when

    max(1, round(T eta^(i - s)))

tasks are trained. There the best floor(n_i / eta) of the n_i configurations that are left (one at
least) go on from where they are, and the others stop. Rungs after the same task are one rung. The
score of a configuration is the mean over its seeds of the average accuracy over the tasks seen: on
the examples held out for validation, or if there are none on the test examples, and then the choice
flatters the survivors' test accuracy. (In regression the score is minus the mean squared error.) A
configuration with a diverged run comes last.

It departs from [1] in the unit of budget, which is a task rather than a step: a survivor has
finished every task it began.

[1] Jamieson & Talwalkar 2016, arXiv:1502.07943   [2] Li et al. 2018, arXiv:1603.06560
"""

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple, Unpack

import torch
from torch import Tensor

from clfunc import tree
from clfunc.driver.evaluate import score, with_runs
from clfunc.driver.options import RunKeywords, RunOptions
from clfunc.driver.progress import say
from clfunc.driver.run import refuse_impossible, run_with
from clfunc.driver.run_state import extended
from clfunc.engine.sweep import configurations, coordinates, members, part
from clfunc.results import plots
from clfunc.results import result as results
from clfunc.results.files import check_writable
from clfunc.results.merge import select
from clfunc.results.result import Curve, Result
from clfunc.scenarios import Scenario
from clfunc.types import Algorithm, Keys

Split = Literal["valid", "test"]


class _Survivors(NamedTuple):
    """The configurations that are left, each as its runs of the whole sweep, and the result of
    these runs so far.
    """

    configurations: list[list[int]]
    result: Result
    tasks: int  # how many are trained

    @property
    def runs(self) -> list[int]:
        return _flat(self.configurations)


def _flat(configurations: list[list[int]]) -> list[int]:
    return [run for runs in configurations for run in runs]


def halve(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    *,
    eta: int = 3,
    out: str | Path | None = None,
    **keywords: Unpack[RunKeywords],
) -> Result:
    """The result of the survivors. `config["halving"]` says what each rung found.

    The runs of a survivor are those of `run`; only the steps of its probes may differ.

    >>> import clfunc as cl
    >>> scenario = cl.scenarios.permuted(cl.datasets.load("digits"), 2, cl.random.key(0))
    >>> model = cl.mlp(scenario.inputs, (4,), scenario.head())
    >>> algorithm = cl.sweep([cl.finetuning(model, cl.sgd(lr)) for lr in (0.0, 0.1)])
    >>> keys = cl.random.split(cl.random.key(1), 2)
    >>> quiet = {"batch_size": 512, "engine": "eager", "progress": False}
    >>> result = cl.halve(algorithm, scenario, keys, eta=2, **quiet)
    >>> result.accuracy.shape, result.config["halving"]["rungs"][0]["tasks"]
    (torch.Size([2, 2, 1]), 1)

    Args:
        algorithm: A `sweep` of two configurations or more, each with one seed or several.
        scenario: As for `run`; two tasks or more, trained one after the other.
        key: `[runs, 2]`.
        eta: At each rung one configuration in `eta` goes on, >= 2; 3 as in [2].
        out: As for `run`.
        **keywords: The rest of what `run` takes, but for `requests` and `skip`.

    Raises:
        ValueError: `run` refuses the arguments; there are fewer than two configurations or tasks;
            `eta` is out of range; `requests` or `skip` is given.
    """
    options = RunOptions(**keywords)
    refuse_impossible(algorithm, scenario, key, options)
    _refuse_requests(options)
    configurations_left = check_halving(algorithm, scenario, key, eta)
    if out is not None:
        check_writable(Path(out))

    by: Split = "valid" if scenario.test(0).valid.shape[-1] else "test"
    stops = rungs(len(configurations_left), eta, scenario.num_tasks)
    survivors = _begin(algorithm, scenario, key, options, configurations_left, stops[0])
    reports = []
    for stop in (*stops[1:], scenario.num_tasks):
        scores = _scores(survivors, algorithm, scenario, by)
        kept = max(1, len(survivors.configurations) // eta)
        report, best = _ranked(survivors, algorithm, scores, kept)
        say(_line(report, by), options.progress)
        reports.append(report)
        survivors = _kept(survivors, algorithm, best)
        survivors = _go_on(survivors, algorithm, scenario, key, options, stop)

    halving = {"eta": eta, "by": by, "rungs": reports}
    config = survivors.result.config | {"skip": [], "halving": halving}
    result = survivors.result._replace(config=config)
    if out is not None:
        plots.save(results.save(result, Path(out)), Path(out) / "figures")
    return result


def rungs(configurations: int, eta: int, tasks: int) -> list[int]:
    """The numbers of trained tasks after which some configurations stop.

    >>> rungs(27, 3, 27)
    [1, 3, 9]
    """
    halvings = 0
    while eta ** (halvings + 1) <= configurations:
        halvings += 1
    stops = set()
    for rung in range(halvings):
        stops.add(max(1, round(tasks * eta ** (rung - halvings))))
    return sorted(stop for stop in stops if stop < tasks)


def check_halving(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    eta: int,
) -> list[list[int]]:
    """The configurations, each as its runs.

    Raises:
        ValueError: They cannot be halved.
    """
    found = configurations(algorithm, len(key)) if members(algorithm) else []
    if eta < 2:
        raise ValueError(f"eta must be at least 2, given {eta}")
    if len(found) < eta:
        raise ValueError(
            f"halving with eta={eta} needs a sweep of {eta} configurations or more,"
            f" given {len(found) or 1}"
        )
    if len(scenario.phases) < 2:
        raise ValueError(
            "halving needs two tasks or more, trained one after the other,"
            " given one phase of training"
        )
    return found


def _refuse_requests(options: RunOptions) -> None:
    for name, value in (("requests", options.requests), ("skip", options.skip)):
        if len(value):
            raise ValueError(f"halve takes no {name}: a configuration is scored on every task")


def _skip(scenario: Scenario, first: int, stop: int) -> list[int]:
    """The tasks to skip, so that only the tasks from `first` to `stop` - 1 are trained."""
    return [task for task in range(scenario.num_tasks) if not first <= task < stop]


def _begin(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    options: RunOptions,
    configurations: list[list[int]],
    stop: int,
) -> _Survivors:
    """Train the tasks before `stop`."""
    options = options.changed(skip=_skip(scenario, 0, stop))
    runs = _flat(configurations)
    result = run_with(part(algorithm, runs), scenario.part(runs), key[runs], options)
    return _Survivors(configurations, result, stop)


def _go_on(
    survivors: _Survivors,
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    options: RunOptions,
    stop: int,
) -> _Survivors:
    """Train the tasks before `stop` that are not trained yet, from where the runs are."""
    runs = survivors.runs
    before = survivors.result
    start = before.params, before.state
    few = part(algorithm, runs)._replace(init=lambda keys: start)
    # A diverged run must not go on from its last finite params.
    every_task = list(range(scenario.num_tasks))
    trained_next = _skip(scenario, survivors.tasks, stop)
    has_diverged = (before.diverged >= 0).tolist()
    skip = [every_task if diverged else trained_next for diverged in has_diverged]
    options = options.changed(skip=skip, engine=before.engine)
    after = run_with(few, scenario.part(runs), key[runs], options)
    return survivors._replace(result=_joined(before, after, survivors.tasks), tasks=stop)


def _joined(before: Result, after: Result, task: int) -> Result:
    """The result of the tasks before `task`, and of the others."""

    def later(curve: Curve) -> Curve:
        return curve._replace(step=curve.step + before.steps)

    had_diverged = before.diverged >= 0
    later_diverged = torch.where(after.diverged >= 0, after.diverged + before.steps, -1)
    later_accuracy = torch.where(had_diverged, torch.nan, after.accuracy[task:])
    return after._replace(
        accuracy=torch.cat([before.accuracy[:task], later_accuracy]),
        diverged=torch.where(had_diverged, before.diverged, later_diverged),
        training=extended(before.training, later(after.training)),
        validation=extended(before.validation, later(after.validation)),
        probes=extended(before.probes, later(after.probes)),
        steps=before.steps + after.steps,
        train_seconds=before.train_seconds + after.train_seconds,
        wall_seconds=before.wall_seconds + after.wall_seconds,
    )


def _scores(
    survivors: _Survivors,
    algorithm: Algorithm,
    scenario: Scenario,
    by: Split,
) -> Tensor:
    """The score of each run over the tasks that are trained, `[runs]`; NaN if it has diverged."""
    runs = survivors.runs
    result = survivors.result
    few = part(algorithm, runs)
    device = tree.leaves(result.params)[0].device
    near = scenario.to(device).part(runs)
    is_regression = scenario.paradigm == "regression"
    scores: list[Tensor] = []
    with torch.no_grad():
        for task in range(survivors.tasks):
            stream = with_runs(near, near.test(task), len(runs))
            found = score(few, near, result.params, result.state, stream, by, len(runs))
            scores.append(-found["loss"].cpu() if is_regression else found["accuracy"].cpu())
    return torch.where(result.diverged >= 0, torch.nan, torch.stack(scores).mean(0))


def _ranked(
    survivors: _Survivors,
    algorithm: Algorithm,
    scores: Tensor,
    keep: int,
) -> tuple[dict[str, Any], list[int]]:
    """What a rung reports, and the positions of the `keep` best configurations, in order."""
    means = []
    first = 0
    for runs in survivors.configurations:
        mean = scores[first : first + len(runs)].mean()
        means.append(float(mean.nan_to_num(-torch.inf)))
        first += len(runs)
    by_score = sorted(range(len(means)), key=lambda position: -means[position])
    best = sorted(by_score[:keep])

    swept = coordinates(algorithm)
    found = []
    for position, runs in enumerate(survivors.configurations):
        found.append(
            {
                "settings": {name: values[runs[0]] for name, values in swept.items()},
                "score": None if math.isinf(means[position]) else means[position],
                "kept": position in best,
            }
        )
    return {"tasks": survivors.tasks, "configurations": found}, best


def _kept(
    survivors: _Survivors,
    algorithm: Algorithm,
    best: list[int],
) -> _Survivors:
    """The configurations at these positions."""
    runs = survivors.runs
    kept = [survivors.configurations[position] for position in best]
    positions = [runs.index(run) for run in _flat(kept)]
    result = select(survivors.result, algorithm, runs, positions)
    return survivors._replace(configurations=kept, result=result)


def _line(report: dict[str, Any], by: Split) -> str:
    """What a rung found, for a person: tasks count from 1."""
    found = report["configurations"]
    kept = sum(one["kept"] for one in found)
    line = f"after task {report['tasks']}: {kept} of {len(found)} configurations go on"
    scored = [one for one in found if one["score"] is not None]
    if not scored:
        return f"{line}; all diverged"
    best = max(scored, key=lambda one: one["score"])
    words = ", ".join(f"{name}={value:g}" for name, value in best["settings"].items())
    return f"{line}; best {words} ({by} {best['score']:.4f})"
