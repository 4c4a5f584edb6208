"""Figures of a run's labelled results (an xarray Dataset). Their labels count tasks from 1."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clfunc.results.files import write
from clfunc.results.panels import (
    draw_band,
    draw_legend,
    groups,
    make_panels,
    mean_over_runs,
    set_task_ticks,
    styles,
    tasks_title,
    title,
)
from clfunc.unlearning.forget_sets import from_compact, order

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Results = dict[str, xarray.Dataset]

_ABSURD = 1e12  # a larger value is of a run that has diverged, and would hide every other one
_MOST_PANELS = 9
_MOST_NUMBERS = 400  # a matrix of more entries shows colours only
_STEPS = {"step": "step", "epoch": "epoch_step", "probe": "probe_step"}


def save(data: "xarray.Dataset", folder: Path) -> list[Path]:
    """Write every figure that the results have data for into `folder`; the paths of the figures."""
    figures: dict[str, Figure] = {}
    is_tested = bool(data["accuracy"].notnull().any())
    algorithm = data.attrs["algorithm"]
    if is_tested and (data.sizes["tested"] > 1 or data.sizes["event"] > 1):
        figures["accuracy_matrix"] = accuracy_matrix(data)
    if is_tested:
        figures["average_accuracy"] = average_accuracy({algorithm: data})
    for name in ("online_accuracy", "online_loss"):
        if name in data and data.sizes["event"] > 1:
            figures[name] = over_tasks({algorithm: data}, name)
    for kind in ("training", "validation", "probe"):
        for word, names in _by_word(data, kind, 2).items():
            figures[word] = curve(data, *names)
    for word, names in _by_word(data, "probe", 3).items():
        figures[word.removeprefix("probe_")] = units(data, names)
    for word, names in _by_word(data, "picture", 3).items():
        figures[word.removeprefix("picture_")] = pictures(data, names)
    return write_all(figures, folder)


def write_all(figures: "dict[str, Figure]", folder: Path) -> list[Path]:
    """Write figures by these names into `folder`; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        write(path, partial(figure.savefig, format="png", dpi=160))
        paths.append(path)
    return paths


def compare(results: "Results", folder: Path) -> Path:
    """Draw the average accuracy of several results in one figure in `folder`; its path."""
    return write_all({"average_accuracy": average_accuracy(results)}, folder)[0]


def accuracy_matrix(data: "xarray.Dataset") -> "Figure":
    """Accuracy on each task after each event, in percent, the mean over runs; a panel for each
    swept setting.
    """
    every_group = groups(data)
    shown_groups = every_group[:_MOST_PANELS]
    means = []
    for _, runs in shown_groups:
        means.append(100 * mean_over_runs(data["accuracy"].values[runs]))
    has_tests = np.any([~np.isnan(mean).all(1) for mean in means], 0)
    # if every run has diverged, all rows are shown, without numbers
    shown = has_tests if has_tests.any() else ~has_tests
    rows, columns = means[0][shown].shape
    width = max(4.2, 0.62 * columns + 2.2)
    height = max(2.0, 0.46 * rows + 1.5)
    figure, panels = make_panels(width, height, len(shown_groups))
    labels = _event_labels(data)[shown]
    for axes, group, mean in zip(panels, shown_groups, means, strict=False):
        image = _draw_matrix(axes, mean[shown], labels)
        axes.set(
            xlabel="tested on task",
            ylabel="after training task" if _only_trained(data) else "after",
        )
        axes.set_title(group[0], fontsize=10)
    some = ""
    if len(shown_groups) < len(every_group):
        some = f" ({len(shown_groups)} of {len(every_group)} settings)"
    figure.suptitle(title(data) + some, fontsize=10)
    figure.colorbar(image, ax=panels, fraction=0.046, pad=0.02, label="accuracy (%)")
    return figure


def _draw_matrix(
    axes: "Axes",
    percents: np.ndarray,
    labels: np.ndarray,
) -> Any:
    """Draw accuracies in percent as colours and, where there is room, as numbers."""
    rows, columns = percents.shape
    image = axes.imshow(
        np.ma.masked_invalid(percents), cmap="viridis", vmin=0, vmax=100, aspect="auto"
    )
    if rows * columns <= _MOST_NUMBERS:
        for row, column in np.argwhere(~np.isnan(percents)):
            value = percents[row, column]
            axes.text(
                column,
                row,
                f"{value:.1f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if value < 72 else "black",
            )
    set_task_ticks(axes.set_xticks, range(columns), range(1, columns + 1))
    set_task_ticks(axes.set_yticks, range(rows), labels)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


def average_accuracy(results: "Results") -> "Figure":
    """Mean accuracy over the tasks seen, after each event: the mean over runs, its standard
    deviation, and every run.
    """
    return over_tasks(results, "average_accuracy")


def over_tasks(results: "Results", variable: str) -> "Figure":
    """A quantity after each event, such as `online_accuracy`: the mean over runs, its standard
    deviation, and every run.
    """
    figure, (axes,) = make_panels(6.4, 3.6)
    style = styles()
    longest = max(results.values(), key=lambda data: data.sizes["event"])
    most = longest.sizes["event"]
    for name, data in results.items():
        for label, runs in groups(data):
            words = [label] if label else []
            if len(results) > 1 or not label:
                words.insert(0, name)
            x, values, marker = _over_events(data, variable, runs, most)
            draw_band(axes, x, values, ", ".join(words), next(style), marker)

    all_trained = all(_only_trained(data) for data in results.values())
    unit = " (%)" if _percent(variable) > 1 else ""
    axes.set(ylabel=variable.replace("_", " ") + unit, xlabel="event")
    if variable.startswith("online"):
        axes.set(xlabel="task")
    elif all_trained:
        axes.set(xlabel="tasks trained")
    figure.suptitle(_shared_title(results), fontsize=10, wrap=True)
    axes.set_xlim(0.6, most + 0.4)
    set_task_ticks(axes.set_xticks, range(1, most + 1), _event_labels(longest))
    draw_legend(axes)
    return figure


def _over_events(
    data: "xarray.Dataset",
    variable: str,
    runs: np.ndarray,
    most: int,
) -> tuple[np.ndarray, np.ndarray, str]:
    """The events at which a quantity is known, counted from 1; its values there; and the marker.

    A quantity that is known at one event of several is of a phase that trains all tasks. It is
    drawn as a level to compare with, over all `most` events of the figure.
    """
    values = _percent(variable) * data[variable].values[runs]
    is_known = ~np.isnan(values).all(0)
    known = values[:, is_known]
    if is_known.sum() == 1 and data.sizes["event"] > 1:
        return np.array([0.6, most + 0.4]), np.repeat(known, 2, axis=1), ""
    return data["event"].values[is_known] + 1, known, "o"


def _shared_title(results: "Results") -> str:
    if len(results) == 1:
        return title(*results.values())
    titles = list(dict.fromkeys(tasks_title(data) for data in results.values()))
    return "; ".join(titles[:2]) + (", ..." if len(titles) > 2 else "")


def _percent(variable: str) -> int:
    return 100 if variable.endswith("accuracy") else 1


def _only_trained(data: "xarray.Dataset") -> bool:
    return "kind" not in data.coords or not (data["kind"].values == "unlearned").any()


def _event_labels(data: "xarray.Dataset") -> np.ndarray:
    """The number of each task trained, from 1; for an unlearning the tasks that any run forgets."""
    if _only_trained(data):
        return data["event"].values + 1
    labels = []
    for row, kind in enumerate(data["kind"].values):
        if kind == "trained":
            labels.append(str(data["task"].values[row] + 1))
        else:
            labels.append("forget " + _forgotten_label(data["forgets"].values[:, row]))
    return np.array(labels)


def _forgotten_label(listed: np.ndarray) -> str:
    """What any run forgets at an event: the numbers of tasks, from 1, and the labels of other sets."""
    words = {word for text in listed for word in str(text).split(", ") if word}
    labels = []
    for forget_set in sorted(map(from_compact, words), key=order):
        number = str(forget_set.task + 1)
        labels.append(number if forget_set.is_whole_task else forget_set.label)
    return ", ".join(labels)


def curve(data: "xarray.Dataset", *names: str) -> "Figure":
    """Quantities over training steps, a panel each: the mean over runs with its standard deviation.

    A line shows where a task begins.
    """
    is_alone = len(names) == 1
    figure, panels = make_panels(7.2 if is_alone else 4.6, 3.4, len(names))
    for axes, name in zip(panels, names, strict=False):
        _draw_curve(axes, data, name)
        if not is_alone:
            axes.set_title(name.partition(".")[2], fontsize=9)
    figure.suptitle(title(data), fontsize=10)
    draw_legend(panels[min(3, len(names)) - 1])
    return figure


def _draw_curve(axes: "Axes", data: "xarray.Dataset", name: str) -> None:
    found = data[name].values
    values = _percent(name) * np.where(np.abs(found) < _ABSURD, found, np.nan)
    axis = str(data[name].dims[1])
    steps = data[_STEPS[axis]].values
    tasks = data[name.split("_")[0] + "_task"].values + 1
    # probes after each task and none within: one point a task
    is_by_task = axis == "probe" and len(np.unique(tasks)) == len(tasks)
    ends = np.zeros(0, int) if is_by_task else np.flatnonzero(np.diff(tasks)) + 1
    x = tasks if is_by_task else steps
    broken_x = np.insert(x.astype(float), ends, np.nan)  # no line from one task to the next
    style = styles()
    for label, runs in groups(data):
        broken = np.insert(values[runs], ends, np.nan, axis=1)
        marker = "" if axis == "step" else "o"
        draw_band(axes, broken_x, broken, label, next(style), marker, with_runs=False)
    for end in ends:
        axes.axvline(steps[end - 1], color="#c9ccd1", linewidth=0.8, zorder=0)
    word = name.partition(".")[0].removeprefix("probe_").replace("_", " ")
    axes.set(
        ylabel=word + (" (%)" if _percent(name) > 1 else ""),
        xlabel="tasks trained" if is_by_task else "training step",
    )
    if is_by_task:
        set_task_ticks(axes.set_xticks, tasks, tasks)
    if name.endswith("loss") and np.nansum(values) > 0:
        axes.set_ylim(0, 1.05 * np.nanmax(values))


def units(data: "xarray.Dataset", names: Sequence[str]) -> "Figure":
    """A number of each unit after each task, of the first run, a panel for each layer: `mask`,
    `used`, `age`, ...
    """
    figure = _images(data, names, "unit", "tasks trained")
    tasks = data["probe_task"].values
    ends = np.flatnonzero(np.diff(tasks, append=-1))  # the last probe of a task is after it
    for axes in figure.axes[: len(names)]:
        set_task_ticks(axes.set_yticks, ends, tasks[ends] + 1)
    return figure


def pictures(data: "xarray.Dataset", names: Sequence[str]) -> "Figure":
    """A number of each weight, at the last probe, of the first run, a panel for each layer: `rate`."""
    return _images(data, names, "fed by unit", "unit")


def _images(
    data: "xarray.Dataset",
    names: Sequence[str],
    xlabel: str,
    ylabel: str,
) -> "Figure":
    images = {name.partition(".")[2]: data[name].values[0] for name in names}
    word = names[0].partition(".")[0].partition("_")[2].replace("_", " ")
    figure, panels = make_panels(3.4, 3.2, len(images), len(images))
    low = min(0.0, *(np.nanmin(image) for image in images.values()))
    high = max(np.nanmax(image) for image in images.values())
    for axes, (label, image) in zip(panels, images.items(), strict=True):
        shown = axes.imshow(
            image, cmap="viridis", vmin=low, vmax=high, aspect="auto", interpolation="nearest"
        )
        axes.set(xlabel=xlabel, ylabel=ylabel if axes is panels[0] else "")
        if image.shape[1] == 1:  # one number for all inputs
            axes.set(xlabel="any input", xticks=[])
        axes.set_title(label, fontsize=9)
    first = f", seed {int(data['seed'].values[0])}" if data.sizes["run"] > 1 else ""
    figure.suptitle(f"{word}: {data.attrs['algorithm']}{first}", fontsize=10)
    figure.colorbar(shown, ax=panels, fraction=0.046, pad=0.02)
    return figure


def _by_word(
    data: "xarray.Dataset",
    kind: str,
    ndim: int,
) -> dict[str, list[str]]:
    """The variables `kind_word.layer` of so many axes, by the `kind_word` that they share."""
    words: dict[str, list[str]] = {}
    for name in map(str, data):
        if name.startswith(kind + "_") and data[name].ndim == ndim:
            words.setdefault(name.partition(".")[0], []).append(name)
    return words
