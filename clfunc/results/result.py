"""What a run leaves: `Result`, its labelled form (xarray), its summary, and the files of its
folder.

Arrays and files count tasks, events and epochs from 0. Figures and printed tables, which a person
reads, count from 1.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from clfunc import metrics
from clfunc.results import store
from clfunc.results.events import Event, over_events
from clfunc.results.files import write_text
from clfunc.results.tables import accuracy_csv, metrics_csv
from clfunc.types import Params, State
from clfunc.unlearning.forget_sets import compact

if TYPE_CHECKING:
    import xarray

summary_metrics = ("average_accuracy", "backward_transfer", "forgetting")
_DESCRIPTION = ("algorithm", "scenario", "dataset", "paradigm")


class Curve(NamedTuple):
    """Quantities over training.

    `values[name]` is `[points, *runs]`; a probe's may have one more axis, of units.
    """

    # training steps done at each point, over all tasks
    step: Tensor
    # the phase that is trained there, from 0
    task: Tensor
    values: dict[str, Tensor]


class Result(NamedTuple):
    """All that `run` returns. Everything but params, state and snapshots is on the CPU.

    >>> import clfunc as cl
    >>> scenario = cl.scenarios.permuted(cl.datasets.load("digits"), 2, cl.random.key(0))
    >>> algorithm = cl.finetuning(cl.mlp(scenario.inputs, (4,), scenario.head()), cl.sgd(0.1))
    >>> quiet = {"batch_size": 512, "engine": "eager", "progress": False}
    >>> result = cl.run(algorithm, scenario, cl.random.split(cl.random.key(1), 3), **quiet)
    >>> result.accuracy.shape, result.average_accuracy.shape
    (torch.Size([2, 2, 3]), torch.Size([3]))
    """

    # float64 [events, tested, *runs] in [0, 1]; NaN where not evaluated
    accuracy: Tensor
    # the step's metrics, each point the mean of a few steps
    training: Curve
    # loss and accuracy after every epoch; no points without a validation split
    validation: Curve
    params: Params
    state: State
    # everything that decides the result, with the versions of libraries
    config: dict[str, Any]
    # each setting in which runs differ
    coordinates: Mapping[str, Sequence[float | str]]
    # training steps of one run
    steps: int
    train_seconds: float
    wall_seconds: float
    engine: str
    # the algorithm's probe after each task, and every `probe_every` steps
    probes: Curve
    # `[*runs, rows, columns]`, of the last probe
    pictures: dict[str, Tensor]
    # tasks trained, and unlearnings
    events: tuple[Event, ...]
    # of all runs, right after each unlearning
    snapshots: tuple[tuple[Params, State], ...]
    # `[*runs]`: the step by which a run has diverged, or -1. Its params and state are those before
    # this step.
    diverged: Tensor

    @property
    def average_accuracy(self) -> Tensor:
        """The mean over all tasks after the last event, `[*runs]`."""
        return over_events(metrics.average_accuracy, self.accuracy, self.events)[-1]

    @property
    def backward_transfer(self) -> Tensor:
        """The backward transfer after the last event, `[*runs]`."""
        return over_events(metrics.backward_transfer, self.accuracy, self.events)[-1]

    @property
    def forgetting(self) -> Tensor:
        """The forgetting after the last event, `[*runs]`."""
        return over_events(metrics.forgetting, self.accuracy, self.events)[-1]

    @property
    def online(self) -> dict[str, Tensor]:
        """Loss and accuracy of each batch before the step on it: their means over each phase,
        `[phases, *runs]`.

        They are NaN for a run that skips the task.
        """
        means: dict[str, Tensor] = {}
        for name in ("loss", "accuracy"):
            if name in self.training.values:
                phases = range(len(self.config["phases"]))
                rows = [_mean_over_phase(self.training, name, phase) for phase in phases]
                means[name] = torch.stack(rows)
        return means


def _mean_over_phase(curve: Curve, name: str, phase: int) -> Tensor:
    """The mean of a quantity over the steps of a phase, `[*runs]`; NaN if no step is of this phase."""
    values = curve.values[name].to(torch.float64)
    is_inside = curve.task == phase
    if not is_inside.any():
        return torch.full(values.shape[1:], torch.nan, dtype=torch.float64)
    # A point is the mean of the steps since the point before it, so it weighs as many steps.
    before_first = torch.zeros(1, dtype=curve.step.dtype)
    steps = torch.diff(curve.step, prepend=before_first).to(torch.float64)[is_inside]
    return torch.tensordot(steps / steps.sum(), values[is_inside], 1)


def versions() -> dict[str, str]:
    """The versions that decide the bits of a result."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def to_xarray(result: Result) -> "xarray.Dataset":
    """The labelled form: a Dataset over `run, event, tested, step, epoch, probe`.

    The seed and every swept setting are coordinates of `run`. A result without an axis of runs
    becomes a run of one.
    """
    import xarray

    variables: dict[str, Any] = {}
    variables |= _accuracy_variables(result)
    variables |= _online_variables(result)
    variables |= _curve_variables(result, result.training, "training", "step")
    variables |= _curve_variables(result, result.validation, "validation", "epoch")
    variables |= _probe_variables(result)
    if any(event.kind == "unlearned" for event in result.events):
        variables |= _unlearning_variables(result)
    variables["diverged"] = "run", result.diverged.reshape(-1).numpy()
    description = {name: result.config[name] for name in _DESCRIPTION}
    return xarray.Dataset(variables, _coordinates(result), description)


def _runs_first(
    result: Result,
    values: Tensor,
    axis: int = -1,
) -> np.ndarray:
    """`values` with the runs as its first axis."""
    is_alone = result.accuracy.ndim == 2
    return (values[None] if is_alone else values.movedim(axis, 0)).numpy()


def _accuracy_variables(result: Result) -> dict[str, Any]:
    """The accuracies and, after each event, the metrics of them."""
    accuracy = _runs_first(result, result.accuracy)
    variables: dict[str, Any] = {"accuracy": (("run", "event", "tested"), accuracy)}
    for name in summary_metrics:
        values = over_events(getattr(metrics, name), result.accuracy, result.events)
        variables[name] = ("run", "event"), _runs_first(result, values)
    return variables


def _online_variables(result: Result) -> dict[str, Any]:
    """`Result.online`, each phase at the event that ends it; NaN at the other events."""
    variables = {}
    trained_rows = [row for row, event in enumerate(result.events) if event.kind == "trained"]
    rows = torch.tensor(trained_rows)[torch.tensor(result.config["phases"]) - 1]
    online = result.online if len(result.training.step) else {}
    for name, means in online.items():
        shape = (len(result.accuracy), *means.shape[1:])
        values = torch.full(shape, torch.nan, dtype=torch.float64)
        values[rows] = means
        variables[f"online_{name}"] = ("run", "event"), _runs_first(result, values)
    return variables


def _curve_variables(
    result: Result,
    curve: Curve,
    kind: str,
    axis: str,
) -> dict[str, Any]:
    """A curve's quantities over steps or epochs, and the phase at each point."""
    if not len(curve.step):
        return {}
    variables: dict[str, Any] = {}
    for name, values in curve.values.items():
        variables[f"{kind}_{name}"] = ("run", axis), _runs_first(result, values)
    variables[f"{kind}_task"] = axis, curve.task.numpy()
    return variables


def _probe_variables(result: Result) -> dict[str, Any]:
    """The probes, of which some have an axis of units, and the pictures."""
    variables: dict[str, Any] = {}
    for name, values in result.probes.values.items():
        shown = _runs_first(result, values, axis=1)
        axes = ("run", "probe", f"{name}_unit")[: shown.ndim]
        variables[f"probe_{name}"] = axes, shown
    for name, image in result.pictures.items():
        axes = "run", f"{name}_row", f"{name}_column"
        variables[f"picture_{name}"] = axes, _runs_first(result, image, axis=0)
    if result.probes.values:
        variables["probe_task"] = "probe", result.probes.task.numpy()
    return variables


def _coordinates(result: Result) -> dict[str, Any]:
    seeds = np.asarray(result.config["seeds"], dtype=np.uint64)
    coordinates: dict[str, Any] = {
        "run": np.arange(len(seeds)),
        "seed": ("run", seeds),
        "event": np.arange(len(result.accuracy)),
        "kind": ("event", [event.kind for event in result.events]),
        "task": ("event", [event.task for event in result.events]),
        "tested": np.arange(result.accuracy.shape[1]),
    }
    for name, values in result.coordinates.items():
        coordinates[name] = "run", np.asarray(values)
    if len(result.training.step):
        coordinates["step"] = result.training.step.numpy()
    if len(result.validation.step):
        coordinates["epoch"] = np.arange(len(result.validation.step))
        coordinates["epoch_step"] = "epoch", result.validation.step.numpy()
    if result.probes.values:
        coordinates["probe"] = np.arange(len(result.probes.step))
        coordinates["probe_step"] = "probe", result.probes.step.numpy()
    return coordinates


def _unlearning_variables(result: Result) -> dict[str, Any]:
    """What each run forgets at each event.

    `unlearned` marks the tasks that are forgotten as a whole, `[runs, events, tasks]`. `forgets`
    lists all forget sets as `clfunc.unlearning.forget_sets.compact` writes them, `[runs, events]`.
    """
    shape = (len(result.config["seeds"]), *result.accuracy.shape[:2])
    is_forgotten = np.zeros(shape, dtype=bool)
    listed = np.full(shape[:2], "", dtype=object)
    for row, event in enumerate(result.events):
        for run, forget_sets in enumerate(event.forgets):
            listed[run, row] = ", ".join(compact(forget_set) for forget_set in forget_sets)
            for forget_set in forget_sets:
                if forget_set.is_whole_task:
                    is_forgotten[run, row, forget_set.task] = True
    return {
        "unlearned": (("run", "event", "tested"), is_forgotten),
        "forgets": (("run", "event"), listed),
    }


def summary(result: Result) -> dict[str, Any]:
    """The numbers of a table: means, standard deviations and values over runs, after the last
    event.
    """
    found: dict[str, Any] = {name: result.config[name] for name in (*_DESCRIPTION, "tasks")}
    found["runs"] = len(result.config["seeds"])
    for name in summary_metrics:
        found[name] = statistics(getattr(result, name))
    found["diverged"] = result.diverged.reshape(-1).tolist()
    found["wall_seconds"] = result.wall_seconds
    found["steps_per_second"] = result.steps / max(result.train_seconds, 1e-9)
    found["engine"] = result.engine
    return found


def statistics(values: Tensor) -> dict[str, Any]:
    """Mean, standard deviation (n - 1; null for one run) and values.

    JSON has no NaN: it is null.
    """
    flat = values.reshape(-1).to(torch.float64)
    spread = flat.std() if len(flat) > 1 else torch.tensor(torch.nan)
    return {
        "mean": _number(flat.mean()),
        "std": _number(spread),
        "values": [_number(value) for value in flat],
    }


def _number(value: Tensor) -> float | None:
    return float(value) if torch.isfinite(value) else None


def check_config(config: dict[str, Any]) -> None:
    """Raise ValueError unless `config` can be written as JSON."""
    try:
        json.dumps(config)
    except TypeError as error:
        raise ValueError(f"config must hold what JSON can: {error}") from error


def save(
    result: Result,
    out: Path,
    data: "xarray.Dataset | None" = None,
) -> "xarray.Dataset":
    """Write `config.json`, `summary.json`, `results.nc`, `accuracy.csv` and `metrics.csv` into a
    folder.

    Args:
        result: The result.
        out: The folder; it is made if it is not there.
        data: The labelled form, if it holds more than `to_xarray` gives.

    Returns:
        The labelled form.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "config.json", json.dumps(result.config, indent=2) + "\n")
    write_text(out / "summary.json", json.dumps(summary(result), indent=2) + "\n")
    data = to_xarray(result) if data is None else data
    store.write(data, out)
    swept = list(result.coordinates)
    write_text(out / "accuracy.csv", accuracy_csv(data, swept))
    write_text(out / "metrics.csv", metrics_csv(data, swept))
    return data
