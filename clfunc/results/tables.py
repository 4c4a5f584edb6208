"""A run's labelled results (an xarray Dataset) as tidy CSV. Tasks and events count from 0."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray

_STEPS = {"training": "step", "validation": "epoch_step", "probe": "probe_step"}


def accuracy_csv(data: "xarray.Dataset", swept: Sequence[str]) -> str:
    """The columns `run, seed, trained, tested, accuracy`, and one for each swept setting.

    If the run unlearns, there is a column `event` too: `trained` or `unlearned`. Then `trained` is
    the last task that was trained before the event.
    """
    accuracy = data["accuracy"].values
    kinds = data["kind"].values
    trained = data["task"].values
    seeds = data["seed"].values
    unlearns = "unlearned" in kinds
    columns = ["run", "seed", "trained", "tested", "accuracy", *swept]
    if unlearns:
        columns.insert(2, "event")
    rows = []
    for run, event, tested in np.argwhere(~np.isnan(accuracy)).tolist():
        row = [run, seeds[run], trained[event], tested, accuracy[run, event, tested]]
        if unlearns:
            row.insert(2, kinds[event])
        rows.append(row + _settings(data, swept, run))
    return _csv(columns, rows)


def metrics_csv(data: "xarray.Dataset", swept: Sequence[str]) -> str:
    """The columns `run, seed, step, task, metric, value`, and one for each swept setting."""
    columns = ["run", "seed", "step", "task", "metric", "value", *swept]
    return _csv(columns, _metric_rows(data, swept))


def _metric_rows(
    data: "xarray.Dataset",
    swept: Sequence[str],
) -> Iterator[list[Any]]:
    seeds = data["seed"].values
    settings = [_settings(data, swept, run) for run in range(len(seeds))]
    for kind, step_name in _STEPS.items():
        for name in map(str, data):
            if not name.startswith(kind + "_") or data[name].ndim != 2:
                continue
            values = data[name].values
            steps = data[step_name].values
            tasks = data[kind + "_task"].values
            for run, point in np.ndindex(values.shape):
                row = [run, seeds[run], steps[point], tasks[point], name, values[run, point]]
                yield row + settings[run]


def _settings(
    data: "xarray.Dataset",
    swept: Sequence[str],
    run: int,
) -> list[Any]:
    """The swept settings of a run."""
    return [data[name].values[run] for name in swept]


def _csv(columns: list[str], rows: Iterable[list[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()
