"""What a run leaves: `Result`, its labelled form (xarray), its summary, and the files of its folder.

Arrays and files count tasks, events and epochs from 0. Tables and figures, which a person reads, count from 1.
"""

import csv
import io
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from clfunc import metrics
from clfunc.results import store as archive
from clfunc.results.events import Event, over_events
from clfunc.results.files import write_text
from clfunc.types import Params, State

if TYPE_CHECKING:
    import xarray


class Curve(NamedTuple):
    """Quantities over training: `values[name]` is `[points, *runs]`; a probe's may have one more axis, of units."""

    step: Tensor  # training steps done at each point, over all tasks
    task: Tensor  # task being trained, from 0
    values: dict[str, Tensor]


class Result(NamedTuple):
    """All that `run` returns; everything but params and state is on the CPU."""

    accuracy: Tensor  # float64 [events, tested, *runs] in [0, 1]; NaN where not evaluated
    training: Curve  # the step's metrics, each point the mean of a few steps
    validation: Curve  # loss and accuracy after every epoch; no points without a validation split
    params: Params
    state: State
    config: dict[str, Any]  # what was run, and with which versions
    coordinates: Mapping[
        str, Sequence[float | str]
    ]  # the settings in which runs differ, one value a run
    steps: int  # training steps of one run
    train_seconds: float
    wall_seconds: float
    engine: str
    probes: (
        Curve  # what the algorithm tells of itself after each task, and every `probe_every` steps
    )
    pictures: dict[str, Tensor]  # `[*runs, rows, columns]`, as of the last probe
    events: tuple[Event, ...]  # tasks trained, and unlearnings
    snapshots: tuple[tuple[Params, State], ...]  # of all runs, right after each unlearning
    diverged: Tensor  # `[*runs]`: the step by which a run had diverged, -1 if it has not; then it is as before that step

    @property
    def average_accuracy(self) -> Tensor:
        """Over all tasks after the last event, `[*runs]`."""
        return over_events(metrics.average_accuracy, self.accuracy, self.events)[-1]

    @property
    def backward_transfer(self) -> Tensor:
        """After the last event, `[*runs]`."""
        return over_events(metrics.backward_transfer, self.accuracy, self.events)[-1]

    @property
    def forgetting(self) -> Tensor:
        """After the last event, `[*runs]`."""
        return over_events(metrics.forgetting, self.accuracy, self.events)[-1]

    @property
    def online(self) -> dict[str, Tensor]:
        """What was measured while learning, before each step: its mean over each training phase, `[phases, *runs]`.

        NaN for a run that skipped the task.
        """
        curve, phases = self.training, range(len(self.config["phases"]))
        steps = torch.diff(curve.step, prepend=torch.zeros(1, dtype=curve.step.dtype)).to(
            torch.float64
        )

        def mean(values: Tensor, phase: int) -> Tensor:
            own = curve.task == phase
            if not own.any():
                return torch.full(values.shape[1:], torch.nan, dtype=torch.float64)
            return torch.tensordot(steps[own] / steps[own].sum(), values[own].to(torch.float64), 1)

        told = {
            name: values for name, values in curve.values.items() if name in ("loss", "accuracy")
        }
        return {
            name: torch.stack([mean(values, phase) for phase in phases])
            for name, values in told.items()
        }


def versions() -> dict[str, str]:
    """Of what decides a result's bits."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def to_xarray(result: Result) -> "xarray.Dataset":
    """A labelled Dataset over `run, event, tested, step, epoch`, with the seed and every swept setting as coordinates."""
    import xarray

    def runs_first(values: Tensor) -> np.ndarray:
        return (values[None] if alone else values.movedim(-1, 0)).numpy()

    def probed(values: Tensor) -> np.ndarray:
        return (values[None] if alone else values.movedim(1, 0)).numpy()

    alone = result.accuracy.ndim == 2
    by_task = {
        name: over_events(getattr(metrics, name), result.accuracy, result.events)
        for name in summary_metrics
    }
    variables: dict[str, Any] = {
        "accuracy": (("run", "event", "tested"), runs_first(result.accuracy))
    }
    variables |= {name: (("run", "event"), runs_first(values)) for name, values in by_task.items()}
    for name, values in result.online.items() if len(result.training.step) else ():
        trained = [row for row, event in enumerate(result.events) if event.kind == "trained"]
        at = torch.tensor(trained)[torch.tensor(result.config["phases"]) - 1]
        whole = torch.full(
            (len(result.accuracy), *values.shape[1:]), torch.nan, dtype=torch.float64
        )
        variables |= {
            f"online_{name}": (("run", "event"), runs_first(whole.index_put((at,), values)))
        }
    for curve, axis, word in (
        (result.training, "step", "training"),
        (result.validation, "epoch", "validation"),
    ):
        if len(curve.step):
            variables |= {
                f"{word}_{name}": (("run", axis), runs_first(v)) for name, v in curve.values.items()
            }
            variables |= {f"{word}_task": (axis, curve.task.numpy())}
    for name, values in result.probes.values.items():
        probe_axes = ("run", "probe", f"{name}_unit")[: values.ndim + alone]
        variables |= {f"probe_{name}": (probe_axes, probed(values))}
    for name, image in result.pictures.items():
        axes = ("run", f"{name}_row", f"{name}_column")
        variables |= {f"picture_{name}": (axes, (image[None] if alone else image).numpy())}
    if any(event.kind == "unlearned" for event in result.events):
        variables |= {"unlearned": (("run", "event", "tested"), _unlearned(result))}
    variables |= {"diverged": ("run", result.diverged.reshape(-1).numpy())}
    coordinates: dict[str, Any] = {
        "run": np.arange(len(variables["accuracy"][1])),
        "seed": ("run", np.asarray(result.config["seeds"], dtype=np.uint64)),
        "event": np.arange(len(result.accuracy)),
        "kind": ("event", [event.kind for event in result.events]),
        "task": ("event", [event.task for event in result.events]),
        "tested": np.arange(result.accuracy.shape[1]),
    } | {name: ("run", np.asarray(values)) for name, values in result.coordinates.items()}
    if len(result.training.step):
        coordinates["step"] = result.training.step.numpy()
    if len(result.validation.step):
        coordinates["epoch"] = np.arange(len(result.validation.step))
        coordinates["epoch_step"] = ("epoch", result.validation.step.numpy())
    if result.probes.values:
        coordinates |= {"probe": np.arange(len(result.probes.step))}
        coordinates |= {"probe_step": ("probe", result.probes.step.numpy())}
        variables |= {"probe_task": ("probe", result.probes.task.numpy())}
    described = {
        key: result.config[key] for key in ("algorithm", "scenario", "dataset", "paradigm")
    }
    return xarray.Dataset(variables, coordinates, described)


def _unlearned(result: Result) -> np.ndarray:
    """Which tasks each run was asked to forget at each event."""
    asked = np.zeros((len(result.config["seeds"]), *result.accuracy.shape[:2]), dtype=bool)
    for row, event in enumerate(result.events):
        for run, forget_sets in enumerate(event.forgets):
            for forget_set in forget_sets:
                asked[run, row, forget_set.task] = True
    return asked


summary_metrics = ("average_accuracy", "backward_transfer", "forgetting")


def summary(result: Result) -> dict[str, Any]:
    """The numbers a table needs: means, standard deviations and values over runs, after the last event."""
    runs = len(result.config["seeds"])
    described = {
        key: result.config[key] for key in ("algorithm", "scenario", "dataset", "paradigm", "tasks")
    }
    return (
        described
        | {"runs": runs}
        | {name: statistics(getattr(result, name)) for name in summary_metrics}
        | {
            "diverged": result.diverged.reshape(-1).tolist(),
            "wall_seconds": result.wall_seconds,
            "steps_per_second": result.steps / max(result.train_seconds, 1e-9),
            "engine": result.engine,
        }
    )


def statistics(values: Tensor) -> dict[str, Any]:
    """Mean, standard deviation (n - 1; null for one run) and values; null for NaN, which JSON does not have."""
    flat = values.reshape(-1).to(torch.float64)
    spread = flat.std() if len(flat) > 1 else torch.tensor(torch.nan)
    return {
        "mean": _number(flat.mean()),
        "std": _number(spread),
        "values": [_number(v) for v in flat],
    }


def _number(value: Tensor) -> float | None:
    return float(value) if torch.isfinite(value) else None


def check_config(config: dict[str, Any]) -> None:
    """Raise ValueError unless `config` can be written as JSON."""
    try:
        json.dumps(config)
    except TypeError as error:
        raise ValueError(f"config must hold what JSON can: {error}") from error


def save(result: Result, out: Path, data: "xarray.Dataset | None" = None) -> "xarray.Dataset":
    """Write `config.json`, `summary.json`, `results.nc`, `accuracy.csv` and `metrics.csv` into the folder `out`.

    `data` is the labelled Dataset where it holds more than the result's own; it is returned.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "config.json", json.dumps(result.config, indent=2) + "\n")
    write_text(out / "summary.json", json.dumps(summary(result), indent=2) + "\n")
    data = to_xarray(result) if data is None else data
    archive.write(data, out)
    write_text(out / "accuracy.csv", accuracy_csv(data, list(result.coordinates)))
    write_text(out / "metrics.csv", metrics_csv(data, list(result.coordinates)))
    return data


def accuracy_csv(data: "xarray.Dataset", swept: Sequence[str]) -> str:
    """Tidy: `run, seed, trained, tested, accuracy` and a column for each swept setting.

    Where tasks were unlearned also `event`, `trained` or `unlearned`; `trained` is then the last task trained.
    """
    accuracy, kind, task = data["accuracy"].values, data["kind"].values, data["task"].values
    runs, told = _runs(data, swept), "unlearned" in kind
    rows = (
        [
            *runs[run][0],
            *([kind[event]] if told else []),
            task[event],
            tested,
            accuracy[run, event, tested],
        ]
        + runs[run][1]
        for run, event, tested in np.argwhere(~np.isnan(accuracy)).tolist()
    )
    return _csv(
        ["run", "seed", *(["event"] if told else []), "trained", "tested", "accuracy", *swept], rows
    )


def metrics_csv(data: "xarray.Dataset", swept: Sequence[str]) -> str:
    """Tidy: `run, seed, step, task, metric, value` and a column for each swept setting."""

    runs = _runs(data, swept)

    def rows() -> Iterable[list[Any]]:
        for word, steps in (
            ("training", "step"),
            ("validation", "epoch_step"),
            ("probe", "probe_step"),
        ):
            for name in (n for n in data if str(n).startswith(word + "_") and data[n].ndim == 2):
                values, step, task = (data[n].values for n in (name, steps, word + "_task"))
                for run, point in np.ndindex(values.shape):
                    yield [
                        *runs[run][0],
                        step[point],
                        task[point],
                        name,
                        values[run, point],
                        *runs[run][1],
                    ]

    return _csv(["run", "seed", "step", "task", "metric", "value", *swept], rows())


def _runs(data: "xarray.Dataset", swept: Sequence[str]) -> list[tuple[list[Any], list[Any]]]:
    """What each row of a run begins and ends with: its number and seed, and its swept settings."""
    seeds, settings = data["seed"].values, [data[name].values for name in swept]
    return [([run, seeds[run]], [values[run] for values in settings]) for run in range(len(seeds))]


def _csv(header: list[str], rows: Iterable[list[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()
