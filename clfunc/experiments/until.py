"""Seeds until a mean is known well enough: `run_until`.

The average accuracy of n seeds has mean m and standard deviation s (n - 1); its 95% confidence interval is Student's,

    m ± t(0.975, n - 1) s / sqrt(n)

and the width asked for is the whole interval's, in percentage points. Seeds are added in batches, for every configuration by
itself, until its interval is narrower or it has had all its seeds. Diverged seeds do not count. (Looking again and again makes
the interval cover a little less than 95%; the first batch should not be too small.)
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clfunc.driver.progress import say
from clfunc.driver.run import check
from clfunc.engine.sweep import configurations, part
from clfunc.experiments import chunks
from clfunc.results import plots
from clfunc.results import result as results
from clfunc.results.files import check_writable
from clfunc.results.merge import merge, select
from clfunc.results.result import Result
from clfunc.scenarios import Scenario
from clfunc.types import Algorithm, Keys


def interval(values: Tensor) -> float:
    """The width of the 95% confidence interval of the mean; infinite for fewer than three values, as two may agree
    by chance. NaN does not count."""
    from scipy.stats import t

    kept = values[~values.isnan()].to(torch.float64)
    if len(kept) < 3:
        return torch.inf
    return float(2 * t.ppf(0.975, len(kept) - 1) * kept.std() / len(kept) ** 0.5)


def run_until(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    width: float,
    *,
    batch: int = 8,
    runs_at_once: "int | str" = "auto",
    out: "str | Path | None" = None,
    progress: bool = True,
    config: "dict[str, Any] | None" = None,
    **how: Any,
) -> Result:
    """`run`, for as many of the seeds as are needed; `config["until_ci"]` tells how many each configuration took.

    Args:
        algorithm: As for `run`: one, or a `sweep` in which each configuration has as many seeds as it may take.
        scenario: As for `run`.
        key: `[runs, 2]`, of all seeds that may be taken.
        width: Of the interval of the average accuracy after the last task, in percentage points, > 0.
        batch: Seeds of each configuration to add at a time, >= 1.
        runs_at_once: As for `run_chunks`.
        out: As for `run`.
        progress: As for `run`; also how wide the intervals are after each batch.
        config: As for `run`.
        **how: The rest of what `run` takes.

    Raises:
        ValueError: As `run` does; a number out of range; a scenario of regression, which has no accuracy.
    """
    check(
        algorithm,
        scenario,
        key,
        how.get("epochs", 1),
        how.get("batch_size", 64),
        evaluate=how.get("evaluate", "seen"),
    )
    check_until(scenario, key, width, batch, how)
    if out is not None:
        check_writable(Path(out))
    groups = configurations(algorithm, len(key))
    widths, taken = [torch.inf] * len(groups), [0] * len(groups)
    done: list[Result] = []
    order: list[list[int]] = []
    found: dict[int, float] = {}
    while wide := [
        g for g, runs in enumerate(groups) if 100 * widths[g] >= width and taken[g] < len(runs)
    ]:
        runs = [run for g in wide for run in groups[g][taken[g] : taken[g] + batch]]
        told = {"runs_at_once": runs_at_once, "progress": progress, "config": config} | how
        told |= {"engine": done[0].engine} if done else {}
        result = chunks.run_chunks(part(algorithm, runs), scenario.part(runs), key[runs], **told)
        done, order = [*done, chunks.to_cpu(result)], [*order, runs]
        found |= dict(zip(runs, result.average_accuracy.tolist(), strict=True))
        for g in wide:
            taken[g] = min(taken[g] + batch, len(groups[g]))
            widths[g] = interval(
                torch.tensor([found[run] for run in groups[g][: taken[g]]], dtype=torch.float64)
            )
        left = sum(100 * w >= width for w in widths)
        say(
            f"{len(found)} runs: {left} of {len(groups)} intervals are not yet narrower than {width:g}",
            progress,
        )
    merged, flat = merge(done, algorithm, order), [run for runs in order for run in runs]
    merged = select(merged, algorithm, flat, sorted(range(len(flat)), key=lambda i: flat[i]))
    tells = [
        {"seeds": n, "interval": 100 * w if w < torch.inf else None}
        for n, w in zip(taken, widths, strict=True)
    ]
    result = merged._replace(
        config=merged.config | {"until_ci": {"width": width, "configurations": tells}}
    )
    if out is not None:
        plots.save(results.save(result, Path(out)), Path(out) / "figures")
    return result


def check_until(
    scenario: Scenario, key: Keys, width: float, batch: int, how: dict[str, Any]
) -> None:
    """Raise ValueError for what has no interval."""
    if key.ndim != 2:
        raise ValueError(
            f"seeds are added to a sweep: key must be [runs, 2], given {list(key.shape)}"
        )
    if not 0 < width < torch.inf:
        raise ValueError(f"width must be a number of percentage points above 0, given {width!r}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, given {batch}")
    if scenario.paradigm == "regression" or how.get("evaluate") == "none":
        raise ValueError(
            "a confidence interval needs accuracies: not in regression, and with evaluate other than 'none'"
        )
