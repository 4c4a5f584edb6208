"""Successive halving [1], the inner loop of Hyperband [2]: many configurations begin, and the best go on.

With n configurations, eta and T tasks there are s = floor(log_eta n) rungs. Rung i = 0..s-1 is when

    max(1, round(T eta^(i - s)))

tasks are trained; there the best floor(n_i / eta) configurations of the n_i that are left (one at least) go on from where
they are, and the others stop. Rungs that fall on one task are one. A configuration is as good as the mean over its seeds of
the average accuracy over the tasks seen: on the examples held out for validation, or where there are none on the test
examples, and then the survivors' test accuracy is flattered by the choice. (In regression: as the mean squared error is low.)
A configuration with a diverged run comes last.

Departs from [1] in that a unit of budget is a task rather than a step, so whoever goes on has finished what it began.

[1] Jamieson & Talwalkar 2016, arXiv:1502.07943   [2] Li et al. 2018, arXiv:1603.06560
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.driver.evaluate import score, with_runs
from clfunc.driver.progress import say
from clfunc.driver.run import check, run
from clfunc.driver.run_state import extended
from clfunc.engine.sweep import configurations, coordinates, members, part
from clfunc.results import plots
from clfunc.results import result as results
from clfunc.results.files import check_writable
from clfunc.results.merge import select
from clfunc.results.result import Curve, Result
from clfunc.scenarios import Scenario
from clfunc.types import Algorithm, Keys


class _Race(NamedTuple):
    """The configurations that are left, as runs of the whole sweep, and what their runs have come to."""

    alive: list[list[int]]
    result: Result | None = None
    trained: int = 0  # how many tasks are trained

    @property
    def runs(self) -> list[int]:
        return [run for runs in self.alive for run in runs]


def halve(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    *,
    eta: int = 3,
    out: "str | Path | None" = None,
    progress: bool = True,
    config: "dict[str, Any] | None" = None,
    **how: Any,
) -> Result:
    """The survivors' runs, whole; `config["halving"]` tells what each rung found.

    A survivor's run is what `run` would make of it; only where in time probes fall may differ.

    Args:
        algorithm: A `sweep` of two configurations or more, each with one seed or several.
        scenario: As for `run`; of two tasks or more, trained one after the other.
        key: `[runs, 2]`.
        eta: At each rung one configuration in so many goes on, >= 2; 3 as in [2].
        out: As for `run`.
        progress: As for `run`; also what each rung finds.
        config: As for `run`.
        **how: The rest of what `run` takes, but for `requests` and `skip`.

    Raises:
        ValueError: As `run` does; fewer than two configurations or tasks; `eta` out of range.
    """
    check(algorithm, scenario, key, how.get("epochs", 1), how.get("batch_size", 64))
    race = _Race(check_halving(algorithm, scenario, key, eta))
    if out is not None:
        check_writable(Path(out))
    told, by = [], "valid" if scenario.test(0).valid.shape[-1] else "test"
    for stop in (*rungs(len(race.alive), eta, scenario.num_tasks), scenario.num_tasks):
        race = _go_on(
            race, algorithm, scenario, key, stop, {"progress": progress, "config": config, **how}
        )
        if stop < scenario.num_tasks:
            scores = _scores(race, algorithm, scenario, by)
            race, found = _cut(race, algorithm, scores, max(1, len(race.alive) // eta))
            told.append({"task": stop, "configurations": found})
            say(_line(told[-1], by), progress)
    assert race.result is not None
    about = race.result.config | {"skip": [], "halving": {"eta": eta, "by": by, "rungs": told}}
    result = race.result._replace(config=about)
    if out is not None:
        plots.save(results.save(result, Path(out)), Path(out) / "figures")
    return result


def rungs(configurations: int, eta: int, tasks: int) -> list[int]:
    """The numbers of tasks after which some configurations stop."""
    halvings = 0
    while eta ** (halvings + 1) <= configurations:
        halvings += 1
    stops = {max(1, round(tasks * eta ** (i - halvings))) for i in range(halvings)}
    return sorted(stop for stop in stops if stop < tasks)


def check_halving(algorithm: Algorithm, scenario: Scenario, key: Keys, eta: int) -> list[list[int]]:
    """The configurations, as their runs; ValueError where they cannot be halved."""
    found = configurations(algorithm, len(key)) if members(algorithm) else []
    if eta < 2:
        raise ValueError(f"eta must be at least 2, given {eta}")
    if len(found) < eta:
        raise ValueError(
            f"halving with eta={eta} needs a sweep of {eta} configurations or more, given {len(found) or 1}"
        )
    if len(scenario.phases) < 2:
        raise ValueError(
            "halving needs two tasks or more, trained one after the other, given one phase of training"
        )
    return found


def _go_on(
    race: _Race, algorithm: Algorithm, scenario: Scenario, key: Keys, stop: int, how: dict[str, Any]
) -> _Race:
    """Train the tasks up to `stop` that are not trained yet, from where the runs are."""
    few, before = part(algorithm, race.runs), race.result
    if before is not None:
        start, how = (before.params, before.state), how | {"engine": before.engine}
        few = few._replace(init=lambda keys: start)
    tasks, gone = (
        range(scenario.num_tasks),
        before.diverged >= 0 if before is not None else [False] * len(race.runs),
    )
    skip = [[task for task in tasks if out or not race.trained <= task < stop] for out in gone]
    result = run(few, scenario.part(race.runs), key[race.runs], skip=skip, **how)
    return race._replace(
        result=_after(before, result, race.trained) if before is not None else result, trained=stop
    )


def _after(before: Result, result: Result, task: int) -> Result:
    """One result of what was done up to a task and what was done after it."""

    def later(curve: Curve) -> Curve:
        return curve._replace(step=curve.step + before.steps)

    gone = before.diverged >= 0
    diverged = torch.where(result.diverged >= 0, result.diverged + before.steps, -1)
    after = torch.where(gone, torch.nan, result.accuracy[task:])
    return result._replace(
        accuracy=torch.cat([before.accuracy[:task], after]),
        diverged=torch.where(gone, before.diverged, diverged),
        training=extended(before.training, later(result.training)),
        validation=extended(before.validation, later(result.validation)),
        probes=extended(before.probes, later(result.probes)),
        steps=before.steps + result.steps,
        train_seconds=before.train_seconds + result.train_seconds,
        wall_seconds=before.wall_seconds + result.wall_seconds,
    )


def _scores(race: _Race, algorithm: Algorithm, scenario: Scenario, by: Any) -> Tensor:
    """How good each run is at the tasks that it has seen."""
    assert race.result is not None
    few, params, state = part(algorithm, race.runs), race.result.params, race.result.state
    near, runs = scenario.to(tree.leaves(params)[0].device).part(race.runs), len(race.runs)
    name, sign = ("loss", -1) if scenario.paradigm == "regression" else ("accuracy", 1)
    found = []
    with torch.no_grad():
        for task in range(race.trained):
            stream = with_runs(near, near.test(task), runs)
            found.append(sign * score(few, near, params, state, stream, by, runs)[name].cpu())
    return torch.where(race.result.diverged >= 0, torch.nan, torch.stack(found).mean(0))


def _cut(
    race: _Race, algorithm: Algorithm, scores: Tensor, keep: int
) -> tuple[_Race, list[dict[str, Any]]]:
    """The best configurations, in their order, and how good each one was."""
    assert race.result is not None
    position = {run: i for i, run in enumerate(race.runs)}
    means = [
        float(scores[[position[run] for run in runs]].mean().nan_to_num(-torch.inf))
        for runs in race.alive
    ]
    best = sorted(sorted(range(len(means)), key=lambda i: -means[i])[:keep])
    swept = coordinates(algorithm)
    found = [
        {
            "settings": {name: values[runs[0]] for name, values in swept.items()},
            "score": mean if mean > -torch.inf else None,
            "kept": i in best,
        }
        for i, (runs, mean) in enumerate(zip(race.alive, means, strict=True))
    ]
    alive = [race.alive[i] for i in best]
    kept = [position[run] for runs in alive for run in runs]
    return race._replace(alive=alive, result=select(race.result, algorithm, race.runs, kept)), found


def _line(rung: dict[str, Any], by: str) -> str:
    found = [one for one in rung["configurations"] if one["score"] is not None]
    kept, all_ = sum(one["kept"] for one in rung["configurations"]), len(rung["configurations"])
    line = f"after task {rung['task']}: {kept} of {all_} configurations go on"
    if not found:
        return f"{line}; all diverged"
    best = max(found, key=lambda one: one["score"])
    words = ", ".join(f"{name}={value:g}" for name, value in best["settings"].items())
    return f"{line}; best {words} ({by} {best['score']:.4f})"
