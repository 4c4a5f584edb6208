"""What the command line prints of results: tables, and in what two runs differ."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from clfunc import metrics
from clfunc.results import plots, store

if TYPE_CHECKING:
    import xarray


class _Row(NamedTuple):
    """The runs of one result that share every swept setting: a row of the table."""

    name: str
    label: str  # the swept settings
    data: "xarray.Dataset"
    runs: np.ndarray


class _Reference(NamedTuple):
    """The accuracy on each task of another algorithm on the same tasks, the mean over its runs."""

    accuracy: torch.Tensor  # [trained, tested]
    diverged: int  # runs that the mean leaves out


Results = dict[str, "xarray.Dataset"]
_METRICS = {
    "average accuracy": "average_accuracy",
    "backward transfer": "backward_transfer",
    "forgetting": "forgetting",
}
# What must be equal where two results are on the same tasks.
_SAME_TASKS = ("scenario", "dataset", "paradigm", "scenario_settings", "scenario_seed")


def results_table(named: Results) -> Table:
    """Final metrics in percent, mean ± standard deviation over runs; a row for each result and each
    swept setting.

    Forward transfer needs an `independent` result of the same tasks among `named`, and the
    forgetting ratio needs a `joint` and a `random` one.
    """
    rows = []
    for name, data in named.items():
        for label, runs in plots.groups(data):
            rows.append(_Row(name, label, data, runs))
    columns = {"": [f"{row.name} {row.label}".strip() for row in rows]}
    columns["runs"] = [str(len(row.runs)) for row in rows]
    for title, metric in _METRICS.items():
        columns[title] = [_final(row, metric) for row in rows]
    compared: dict[str, Callable[[Results, _Row], str]] = {
        "forward transfer": _forward_transfer,
        "forgetting ratio": _forgetting_ratio,
        "online loss": _online_loss,
    }
    for title, cell in compared.items():
        cells = [cell(named, row) for row in rows]
        if any(cells):
            columns[title] = [text or "-" for text in cells]

    caption = "mean ± standard deviation over runs, %, after the last task"
    table = Table(header_style="bold", caption=caption)
    for title in columns:
        table.add_column(title, justify="right" if title else "left")
    for number in range(len(rows)):
        table.add_row(*(cells[number] for cells in columns.values()))
    return table


def _final(row: _Row, metric: str) -> str:
    """A metric after the last event."""
    values = row.data[metric].values[row.runs, -1]
    tests = row.data.attrs["paradigm"] != "regression"
    if metric == "average_accuracy" and tests and np.isnan(values).all():
        return "diverged"
    return _percent(values)


def _percent(values: np.ndarray) -> str:
    """Mean ± standard deviation of the runs that have a value, and how many have none."""
    kept = values[~np.isnan(values)]
    if not len(kept):
        return "-"
    spread = f" ± {100 * kept.std(ddof=1):.2f}" if len(kept) > 1 else ""
    return f"{100 * kept.mean():.2f}{spread}{_diverged(len(values) - len(kept))}"


def _diverged(count: int) -> str:
    return f" ({count} diverged)" if count else ""


def _online_loss(_: Results, row: _Row) -> str:
    """In regression, the mean squared error of predictions before learning, over all tasks; else
    nothing."""
    data = row.data
    if data.attrs["paradigm"] != "regression":
        return ""
    losses = data["online_loss"].values[row.runs].mean(1)
    if "diverged" in data:
        losses = losses[data["diverged"].values[row.runs] < 0]
    if not len(losses):
        return "diverged"
    spread = f" ± {losses.std(ddof=1):.4f}" if len(losses) > 1 else ""
    return f"{losses.mean():.4f}{spread}{_diverged(len(row.runs) - len(losses))}"


def _forward_transfer(named: Results, row: _Row) -> str:
    independent = _reference(named, "independent", row.data)
    if independent is None or row.data.attrs["algorithm"] in ("independent", "joint", "random"):
        return ""
    alone = _each_run(independent.accuracy.diagonal(), row.runs)
    values = metrics.forward_transfer(_accuracy(row.data, row.runs), alone)
    return _compared(values, independent)


def _forgetting_ratio(named: Results, row: _Row) -> str:
    joint = _reference(named, "joint", row.data)
    untrained = _reference(named, "random", row.data)
    if joint is None or untrained is None or row.data.attrs["algorithm"] in ("joint", "random"):
        return ""
    values = metrics.forgetting_ratio(
        _accuracy(row.data, row.runs),
        _each_run(joint.accuracy[-1], row.runs),
        _each_run(untrained.accuracy[-1], row.runs),
    )
    return _compared(values, joint, untrained)


def _compared(values: torch.Tensor, *references: _Reference) -> str:
    """A metric after the last task, and how many runs of its references have diverged."""
    cell = _percent(values[-1].numpy())
    lost = sum(reference.diverged for reference in references)
    return f"{cell} (reference: {lost} diverged)" if lost else cell


def _reference(named: Results, algorithm: str, like: "xarray.Dataset") -> _Reference | None:
    """The first result of this algorithm on the same tasks; None in regression, where there are no
    accuracies, and where there is no such result."""
    if like.attrs["paradigm"] == "regression":
        return None
    for data in named.values():
        same = all(data.attrs.get(name) == like.attrs.get(name) for name in _SAME_TASKS)
        same = same and data.sizes["tested"] == like.sizes["tested"]
        if same and data.attrs["algorithm"] == algorithm:
            every = np.arange(data.sizes["run"])
            lost = np.isnan(data["average_accuracy"].values[:, -1])
            # where all have diverged, the mean is NaN, and so is what is compared with it
            kept = every if lost.all() else every[~lost]
            return _Reference(_accuracy(data, kept).mean(-1), int(lost.sum()))
    return None


def _accuracy(data: "xarray.Dataset", runs: np.ndarray) -> torch.Tensor:
    """`[trained, tested, runs]`."""
    trained = data["kind"].values == "trained" if "kind" in data.coords else slice(None)
    return torch.from_numpy(data["accuracy"].values[runs][:, trained]).movedim(0, -1)


def _each_run(values: torch.Tensor, runs: np.ndarray) -> torch.Tensor:
    return values[:, None].expand(-1, len(runs))


def load_results(folders: tuple[Path, ...]) -> Results:
    """The results in these folders by the shortest names that differ; a folder named `report` that
    holds no results is passed over.

    Raises:
        ValueError: A folder holds no results, or results that are damaged.
    """
    found = []
    for folder in folders:
        if (folder / "results.nc").is_file():
            found.append(folder.absolute())
        elif folder.name != "report":
            raise ValueError(f"no results.nc in {folder}: give folders that --out named")
    if not found:
        raise ValueError("report takes the folders of finished runs, given none")
    shared = os.path.commonpath([str(path.parent) for path in found])
    skipped = len(Path(shared).parts)
    named = {}
    for path in found:
        data = store.load(path)
        named["/".join(path.parts[skipped:])] = data.assign_attrs(_tasks_of(path))
    return named


def _tasks_of(folder: Path) -> dict[str, str]:
    """What config.json says of a run's tasks beyond what results.nc says; nothing if there is no
    such file."""
    try:
        config = store.read_json(folder / "config.json")
    except ValueError:
        return {}
    arguments = config.get("arguments")
    seed = arguments.get("scenario_seed") if isinstance(arguments, dict) else None
    settings = config.get("scenario_settings")
    return {
        "scenario_settings": json.dumps(settings, sort_keys=True),
        "scenario_seed": json.dumps(seed),
    }


def report(named: Results, out: Path, console: Console) -> None:
    """Print the table of finished runs, and draw their average accuracy in one figure under
    `out`."""
    console.print(results_table(named))
    console.print(f"figure: {plots.compare(named, out)}", highlight=False)


def differences(settings: list[str], values: list[str]) -> int:
    """Print in which settings and values two runs differ.

    Returns:
        The exit code: 1 where values differ, and else 0.
    """
    for line in settings:
        print(f"setting {line}")
    for line in values:
        print(line)
    print("results differ" if values else "no difference in results")
    return 1 if values else 0
