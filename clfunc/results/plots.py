"""Figures of a run's labelled results (an xarray Dataset): what was learned, what was kept, and how it went."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clfunc.results.files import write

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#33373d"
_COLOURS = ("#2f6db3", "#d1622b", "#3b8f5a", "#8a4fa8", "#b08a1e", "#3a9aa8", "#b5446e", "#6b6f76")
_ABSURD = 1e12  # beyond it a run has diverged, and an axis that shows it shows nothing else
_STYLES = [(colour, dashes) for dashes in ("-", "--", ":") for colour in _COLOURS]


def save(data: "xarray.Dataset", folder: Path) -> list[Path]:
    """Write the figures that the results have data for into `folder`; their paths."""
    figures: dict[str, Figure] = {}
    if data["accuracy"].notnull().any() and (data.sizes["tested"] > 1 or data.sizes["event"] > 1):
        figures["accuracy_matrix"] = accuracy_matrix(data)
    if data["accuracy"].notnull().any():
        figures["average_accuracy"] = average_accuracy({data.attrs["algorithm"]: data})
    for name in ("online_accuracy", "online_loss"):
        if name in data and data.sizes["event"] > 1:
            figures[name] = over_tasks({data.attrs["algorithm"]: data}, name)
    for kind in ("training", "validation", "probe"):
        figures |= {word: curve(data, *names) for word, names in _by_word(data, kind, 2).items()}
    figures |= {
        word.removeprefix("probe_"): units(data, names)
        for word, names in _by_word(data, "probe", 3).items()
    }
    for word, names in _by_word(data, "picture", 3).items():
        figures[word.removeprefix("picture_")] = pictures(data, names)
    return write_all(figures, folder)


def write_all(figures: "dict[str, Figure]", folder: Path) -> list[Path]:
    """Write figures by these names into `folder`; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        write(path, partial(figure.savefig, format="png", dpi=160))
    return paths


def compare(results: "dict[str, xarray.Dataset]", folder: Path) -> Path:
    """Draw the average accuracy of several results in one figure in `folder`; its path."""
    return write_all({"average_accuracy": average_accuracy(results)}, folder)[0]


def accuracy_matrix(data: "xarray.Dataset") -> "Figure":
    """Accuracy on each task after each task, in percent, the mean over runs; a panel for each swept setting, up to nine."""
    every = groups(data)
    parts = every[:9]
    means = [100 * _mean(data["accuracy"].values[runs]) for _, runs in parts]
    tested = np.any([~np.isnan(mean).all(1) for mean in means], 0)
    shown = tested if tested.any() else ~tested  # all rows, empty, where every run has diverged
    rows, columns = means[0][shown].shape
    width, height = max(4.2, 0.62 * columns + 2.2), max(2.0, 0.46 * rows + 1.5)
    figure, panels = _figure(width, height, len(parts))
    for axes, (label, _), mean in zip(panels, parts, means, strict=False):
        image = axes.imshow(
            np.ma.masked_invalid(mean[shown]), cmap="viridis", vmin=0, vmax=100, aspect="auto"
        )
        for row, column in np.argwhere(~np.isnan(mean[shown])) if rows * columns <= 400 else ():
            value = mean[shown][row, column]
            ink = "white" if value < 72 else "black"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color=ink)
        _task_ticks(axes.set_xticks, columns, range(1, columns + 1))
        _task_ticks(axes.set_yticks, rows, _event_labels(data)[shown])
        axes.set(
            xlabel="tested on task",
            ylabel="after training task" if _only_trained(data) else "after",
        )
        axes.set_title(label, fontsize=10)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    some = f" ({len(parts)} of {len(every)} settings)" if len(parts) < len(every) else ""
    figure.suptitle(_title(data) + some, fontsize=10)
    figure.colorbar(image, ax=panels, fraction=0.046, pad=0.02, label="accuracy (%)")
    return figure


def average_accuracy(results: "dict[str, xarray.Dataset]") -> "Figure":
    """Mean accuracy over the tasks seen, after each task: the mean over runs, its standard deviation, and every run."""
    return over_tasks(results, "average_accuracy")


def over_tasks(results: "dict[str, xarray.Dataset]", variable: str) -> "Figure":
    """A quantity of each task, such as `online_accuracy`: the mean over runs, its standard deviation, and every run."""
    percent = 100 if variable.endswith("accuracy") else 1
    figure, (axes,) = _figure(6.4, 3.6)
    style = iter(_STYLES * 99)
    most = max(data.sizes["event"] for data in results.values())
    for name, data in results.items():
        for label, runs in groups(data):
            values = percent * data[variable].values[runs]
            known = ~np.isnan(values).all(0)
            text = ", ".join(
                part for part in (name if len(results) > 1 or not label else "", label) if part
            )
            x, marker = data["event"].values[known] + 1, "o"
            if (
                known.sum() == 1 and data.sizes["event"] > 1
            ):  # one phase for all tasks: a level to compare with
                x, marker, known = (
                    np.array([0.6, most + 0.4]),
                    "",
                    np.repeat(np.flatnonzero(known), 2),
                )
            _band(axes, x, values[:, known], text, next(style), marker)
    one = len(results) == 1
    titles = list(dict.fromkeys(_title(data) if one else _scene(data) for data in results.values()))
    label = variable.replace("_", " ") + (" (%)" if percent > 1 else "")
    plain = all(_only_trained(data) for data in results.values())
    xlabel = "task" if variable.startswith("online") else "tasks trained" if plain else "event"
    axes.set(xlabel=xlabel, ylabel=label)
    figure.suptitle(
        "; ".join(titles[:2]) + (", ..." if len(titles) > 2 else ""), fontsize=10, wrap=True
    )
    axes.set_xlim(0.6, most + 0.4)
    longest = max(results.values(), key=lambda data: data.sizes["event"])
    _task_ticks(axes.set_xticks, most, _event_labels(longest), first=1)
    _legend(axes)
    return figure


def _only_trained(data: "xarray.Dataset") -> bool:
    return "kind" not in data.coords or not (data["kind"].values == "unlearned").any()


def _event_labels(data: "xarray.Dataset") -> np.ndarray:
    """The number of each task trained; for an unlearning what any run forgets."""
    if _only_trained(data):
        return data["event"].values + 1
    gone = [np.flatnonzero(tasks) + 1 for tasks in np.any(data["unlearned"].values, axis=0)]
    pairs = zip(data["kind"].values, data["task"].values, gone, strict=True)
    return np.array(
        [
            str(t + 1) if kind == "trained" else "forget " + ", ".join(map(str, g))
            for kind, t, g in pairs
        ]
    )


def curve(data: "xarray.Dataset", *names: str) -> "Figure":
    """Quantities over training steps, a panel each: the mean over runs with its standard deviation; lines where tasks begin."""
    alone = len(names) == 1
    figure, panels = _figure(7.2 if alone else 4.6, 3.4, len(names))
    for axes, name in zip(panels, names, strict=False):
        _curve(axes, data, name)
        if not alone:
            axes.set_title(name.partition(".")[2], fontsize=9)
    figure.suptitle(_title(data), fontsize=10)
    _legend(panels[min(3, len(names)) - 1])
    return figure


def _curve(axes: "Axes", data: "xarray.Dataset", name: str) -> None:
    percent = 100 if name.endswith("accuracy") else 1
    values = percent * np.where(np.abs(data[name].values) < _ABSURD, data[name].values, np.nan)
    axis = str(data[name].dims[1])
    steps = data[{"step": "step", "epoch": "epoch_step", "probe": "probe_step"}[axis]].values
    task = data[name.split("_")[0] + "_task"].values + 1
    by_task = axis == "probe" and len(np.unique(task)) == len(
        task
    )  # a point after each task, none within
    ends = np.flatnonzero(np.diff(task)) + 1 if not by_task else np.zeros(0, int)
    steps = task if by_task else steps
    gaps = np.insert(steps.astype(float), ends, np.nan)  # no line from one task to the next
    style = iter(_STYLES * 99)
    for label, runs in groups(data):
        broken = np.insert(values[runs], ends, np.nan, axis=1)
        _band(
            axes, gaps, broken, label, next(style), marker="" if axis == "step" else "o", each=False
        )
    for end in ends:
        axes.axvline(steps[end - 1], color="#c9ccd1", linewidth=0.8, zorder=0)
    word = name.partition(".")[0].removeprefix("probe_").replace("_", " ")
    axes.set(
        ylabel=word + (" (%)" if percent > 1 else ""),
        xlabel="tasks trained" if by_task else "training step",
    )
    if by_task:
        _task_ticks(axes.set_xticks, len(task), task, at=task)
    if name.endswith("loss") and np.nansum(values) > 0:
        axes.set_ylim(0, 1.05 * np.nanmax(values))


def units(data: "xarray.Dataset", names: Sequence[str]) -> "Figure":
    """A number of each unit after each task, a panel for each layer, of the first run: `mask`, `used`, `age`, ..."""
    figure = _images(data, names, "unit", "tasks trained")
    ends = np.flatnonzero(
        np.diff(data["probe_task"].values, append=-1)
    )  # the last probe of each task is after it
    for axes in figure.axes[: len(names)]:
        _task_ticks(axes.set_yticks, len(ends), data["probe_task"].values[ends] + 1, at=ends)
    return figure


def pictures(data: "xarray.Dataset", names: Sequence[str]) -> "Figure":
    """A number of each weight, as of the last probe, a panel for each layer, of the first run: `rate`."""
    return _images(data, names, "fed by unit", "unit")


def _images(data: "xarray.Dataset", names: Sequence[str], xlabel: str, ylabel: str) -> "Figure":
    images = {name.partition(".")[2]: data[name].values[0] for name in names}
    word = names[0].partition(".")[0].partition("_")[2].replace("_", " ")
    figure, panels = _figure(3.4, 3.2, len(images), len(images))
    low = min(0.0, *(np.nanmin(image) for image in images.values()))
    high = max(np.nanmax(image) for image in images.values())
    for axes, (label, image) in zip(panels, images.items(), strict=True):
        shown = axes.imshow(
            image, cmap="viridis", vmin=low, vmax=high, aspect="auto", interpolation="nearest"
        )
        axes.set(xlabel=xlabel, ylabel=ylabel if axes is panels[0] else "")
        if image.shape[1] == 1:  # the same for all inputs
            axes.set(xlabel="any input", xticks=[])
        axes.set_title(label, fontsize=9)
    first = f", seed {int(data['seed'].values[0])}" if data.sizes["run"] > 1 else ""
    figure.suptitle(f"{word}: {data.attrs['algorithm']}{first}", fontsize=10)
    figure.colorbar(shown, ax=panels, fraction=0.046, pad=0.02)
    return figure


def _by_word(data: "xarray.Dataset", kind: str, ndim: int) -> dict[str, list[str]]:
    """The variables `kind_word.layer` of so many axes, under the word that they share."""
    words: dict[str, list[str]] = {}
    for name in (str(n) for n in data if str(n).startswith(kind + "_") and data[n].ndim == ndim):
        words.setdefault(name.partition(".")[0], []).append(name)
    return words


def groups(data: "xarray.Dataset") -> list[tuple[str, np.ndarray]]:
    """Runs that share every swept setting, with a label: `lr=0.1, s_max=50`; one group without a label if none is swept."""
    swept = [
        str(n) for n, c in data.coords.items() if c.dims == ("run",) and n not in ("run", "seed")
    ]
    keys = [
        tuple(data[n].values[run : run + 1].tolist()[0] for n in swept)
        for run in range(data.sizes["run"])
    ]
    unique = list(dict.fromkeys(keys))
    label = [", ".join(_setting(n, v) for n, v in zip(swept, key, strict=True)) for key in unique]
    return [
        (text, np.flatnonzero([k == key for k in keys]))
        for text, key in zip(label, unique, strict=True)
    ]


def _setting(name: str, value: Any) -> str:
    return value if isinstance(value, str) else f"{name}={value:g}"


def _band(
    axes: "Axes",
    x: Any,
    values: np.ndarray,
    label: str,
    style: tuple[str, str],
    marker: str = "o",
    each: bool = True,
) -> None:
    """The mean over the runs that have not diverged, one standard deviation about it, and thin lines for `each` run."""
    colour, dashes = style
    mean = _mean(values)
    label += " (diverged)" if label and np.isnan(mean).all() else ""
    if len(values) > 1:
        with warnings.catch_warnings(action="ignore"):  # all NaN where a task ends
            spread = np.nanstd(values, 0, ddof=1)
        axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)
        if each and len(values) <= 10:
            axes.plot(x, values.T, color=colour, alpha=0.25, linewidth=0.6)
    size = 4 if len(mean) < 100 else 1.5
    axes.plot(
        x,
        mean,
        color=colour,
        linestyle=dashes,
        marker=marker,
        markersize=size,
        linewidth=1.6,
        label=label,
    )


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over runs, of those that are not NaN."""
    with warnings.catch_warnings(action="ignore"):
        return np.nanmean(values, 0)


def _figure(
    width: float, height: float, count: int = 1, across: int = 3
) -> "tuple[Figure, list[Axes]]":
    """A figure with so many panels of this size, so many in a row; where they fill no row, hidden ones follow."""
    from matplotlib.figure import Figure

    columns = min(across, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    all_axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=_INK, labelsize=9)
    for axes in all_axes[count:]:
        axes.set_visible(False)
    return figure, all_axes


def _task_ticks(
    set_ticks: Callable[..., Any], count: int, labels: Any, first: int = 0, at: Any = None
) -> None:
    """A tick for each task, thinned where there are many."""
    every = max(1, -(-count // (20 if count < 100 else 10)))
    where = range(first, first + count) if at is None else at
    set_ticks(list(where)[::every], labels=[str(n) for n in labels][::every])


def _legend(axes: "Axes") -> None:
    """Beside the curves, never over them."""
    if len([label for label in axes.get_legend_handles_labels()[1] if label]) > 1:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _title(data: "xarray.Dataset") -> str:
    runs = data.sizes["run"]
    many = f", {runs} runs: mean ± standard deviation" if runs > 1 else ""
    return f"{data.attrs['algorithm']}, {_scene(data)}{many}"


def _scene(data: "xarray.Dataset") -> str:
    return f"{data.attrs['scenario']} {data.attrs['dataset']} ({data.attrs['paradigm']})"
