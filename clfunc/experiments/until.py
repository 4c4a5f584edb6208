"""`run_until`: more and more seeds, until a mean is known well enough.

The average accuracy of n seeds has mean m and standard deviation s (n - 1). Its 95% confidence
interval is Student's,

    m ± t(0.975, n - 1) s / sqrt(n)

and the width asked for is that of the whole interval, in percentage points. Each configuration
takes batches of seeds until its interval is narrower, or until it has all its seeds. Diverged seeds
do not count. (An interval that is looked at again and again covers a little less than 95%; the
first batch should not be too small.)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from clfunc.driver.options import RunKeywords, RunOptions
from clfunc.driver.progress import say
from clfunc.engine.sweep import configurations, part
from clfunc.experiments.chunks import run_chunks_with, to_cpu
from clfunc.experiments.cutting import options_of, refuse_impossible_runs
from clfunc.results import plots
from clfunc.results import result as results
from clfunc.results.files import check_writable
from clfunc.results.merge import merge, select
from clfunc.results.result import Result
from clfunc.scenarios import Scenario
from clfunc.types import Algorithm, Keys

_FEWEST = 3  # seeds: two may agree by chance


def interval(values: Tensor) -> float:
    """The width of the 95% confidence interval of the mean; infinite for fewer than three values.

    NaN does not count.

    >>> round(interval(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])), 4)
    3.9265
    """
    from scipy.stats import t

    kept = values[~values.isnan()].to(torch.float64)
    count = len(kept)
    if count < _FEWEST:
        return torch.inf
    return float(2 * t.ppf(0.975, count - 1) * kept.std() / count**0.5)


class _Seeds(NamedTuple):
    """The seeds of one configuration."""

    runs: list[int]  # of the whole sweep
    taken: int = 0  # how many are done
    width: float = torch.inf  # of their interval, in percentage points

    def is_open(self, width: float) -> bool:
        """Whether the configuration takes more seeds."""
        return self.width >= width and self.taken < len(self.runs)

    def next_runs(self, batch: int) -> list[int]:
        return self.runs[self.taken : self.taken + batch]

    def after(self, batch: int, accuracy: dict[int, float]) -> "_Seeds":
        """The same with one more batch, given the average accuracy of every run that is done."""
        taken = min(self.taken + batch, len(self.runs))
        values = [accuracy[run] for run in self.runs[:taken]]
        width = 100 * interval(torch.tensor(values, dtype=torch.float64))
        return self._replace(taken=taken, width=width)


def run_until(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    width: float,
    *,
    batch: int = 8,
    runs_at_once: int | str = "auto",
    out: str | Path | None = None,
    **keywords: Unpack[RunKeywords],
) -> Result:
    """`run`, for as many of the seeds as are needed.

    `config["until_ci"]` says how many each configuration took.

    >>> import clfunc as cl
    >>> scenario = cl.scenarios.permuted(cl.datasets.load("digits"), 2, cl.random.key(0))
    >>> algorithm = cl.finetuning(cl.mlp(scenario.inputs, (4,), scenario.head()), cl.sgd(0.1))
    >>> keys = cl.random.split(cl.random.key(1), 9)
    >>> quiet = {"batch_size": 512, "engine": "eager", "progress": False}
    >>> result = cl.run_until(algorithm, scenario, keys, 100.0, batch=3, **quiet)
    >>> result.config["until_ci"]["configurations"][0]["seeds"]
    3

    Args:
        algorithm: As for `run`: one algorithm, or a `sweep` in which each configuration has as many
            seeds as it may take.
        scenario: As for `run`.
        key: `[runs, 2]`, of all seeds that may be taken. The keys of a configuration differ.
        width: Of the interval of the average accuracy after the last task, in percentage points, >
            0.
        batch: Seeds of each configuration to add at a time, >= 1.
        runs_at_once: As for `run_chunks`.
        out: As for `run`.
        **keywords: The rest of what `run` takes. Requests and tasks to skip may have an entry for
            each of all runs.

    Raises:
        ValueError: `run` refuses the arguments; a number is out of range; a configuration has a key
            twice; the scenario is of regression, which has no accuracy.
    """
    options = RunOptions(**keywords)
    refuse_impossible_runs(algorithm, scenario, key, options)
    check_until(scenario, key, width, batch, options)
    groups = configurations(algorithm, len(key))
    _refuse_equal_keys(key, groups)
    if out is not None:
        check_writable(Path(out))
    seeds = [_Seeds(runs) for runs in groups]
    done: list[Result] = []
    order: list[list[int]] = []
    accuracy: dict[int, float] = {}
    while any(one.is_open(width) for one in seeds):
        runs = [run for one in seeds if one.is_open(width) for run in one.next_runs(batch)]
        result = run_chunks_with(
            part(algorithm, runs),
            scenario.part(runs),
            key[runs],
            options_of(options, runs),
            runs_at_once=runs_at_once,
        )
        result = to_cpu(result)
        options = options.changed(engine=result.engine)  # the first batch chooses it for all
        done.append(result)
        order.append(runs)
        accuracy |= dict(zip(runs, result.average_accuracy.tolist(), strict=True))
        seeds = [one.after(batch, accuracy) if one.is_open(width) else one for one in seeds]
        wide = sum(one.width >= width for one in seeds)
        line = f"{wide} of {len(seeds)} intervals are not yet narrower than {width:g}"
        say(f"{len(accuracy)} runs: {line}", options.progress)

    merged = _in_order(done, algorithm, order)
    until = {"width": width, "configurations": [_reported(one) for one in seeds]}
    merged = merged._replace(config=merged.config | {"until_ci": until})
    if out is not None:
        plots.save(results.save(merged, Path(out)), Path(out) / "figures")
    return merged


def check_until(
    scenario: Scenario,
    key: Keys,
    width: float,
    batch: int,
    options: RunOptions,
) -> None:
    """Raise ValueError for arguments of `run_until` that give no interval."""
    if key.ndim != 2:
        raise ValueError(
            f"seeds are added to a sweep: key must be [runs, 2], given {list(key.shape)}"
        )
    if not 0 < width < torch.inf:
        raise ValueError(f"width must be a number of percentage points above 0, given {width!r}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, given {batch}")
    if scenario.paradigm == "regression" or options.evaluate == "none":
        raise ValueError(
            "a confidence interval needs accuracies:"
            " not in regression, and with evaluate other than 'none'"
        )


def _refuse_equal_keys(key: Keys, groups: Sequence[Sequence[int]]) -> None:
    """Raise ValueError if a configuration has a key twice: these runs are equal, and no two seeds."""
    for runs in groups:
        first: dict[tuple[int, ...], int] = {}
        for run in runs:
            words = tuple(key[run].tolist())
            if words in first:
                raise ValueError(
                    "the seeds of a configuration must differ,"
                    f" given one key for runs {first[words]} and {run}"
                )
            first[words] = run


def _in_order(
    done: Sequence[Result],
    algorithm: Algorithm,
    order: Sequence[Sequence[int]],
) -> Result:
    """All runs that are done as one result, in the order of the whole sweep."""
    merged = merge(done, algorithm, order)
    runs = [run for some in order for run in some]
    positions = sorted(range(len(runs)), key=lambda position: runs[position])
    return select(merged, algorithm, runs, positions)


def _reported(seeds: _Seeds) -> dict[str, float | None]:
    """What config.json says of a configuration; JSON has no infinity, so an unknown width is null."""
    return {"seeds": seeds.taken, "interval": seeds.width if seeds.width < torch.inf else None}
