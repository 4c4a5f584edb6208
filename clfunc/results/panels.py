"""What figures are drawn with: panels, bands over runs, ticks, legends, and the words that they
share.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#33373d"
COLOURS = ("#2f6db3", "#d1622b", "#3b8f5a", "#8a4fa8", "#b08a1e", "#3a9aa8", "#b5446e", "#6b6f76")
Style = tuple[str, str]  # colour, dashes
Group = tuple[str, np.ndarray]  # label, runs
_MOST_RUNS = 10  # more runs are not drawn one by one
_MOST_ROWS = 20  # a legend of more rows leaves no room for the axes


def styles() -> Iterator[Style]:
    """Every colour with solid lines, then with dashed and dotted ones, again and again."""
    pairs = []
    for dashes in ("-", "--", ":"):
        for colour in COLOURS:
            pairs.append((colour, dashes))
    return cycle(pairs)


def make_panels(
    width: float,
    height: float,
    count: int = 1,
    across: int = 3,
) -> "tuple[Figure, list[Axes]]":
    """A figure and its panels.

    Args:
        width: Of a panel, in inches.
        height: Of a panel, in inches.
        count: How many panels.
        across: The most panels in a row. Hidden ones fill up the last row.
    """
    from matplotlib.figure import Figure

    columns = min(across, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels


def draw_band(
    axes: "Axes",
    x: Any,
    values: np.ndarray,
    label: str,
    style: Style,
    marker: str = "o",
    with_runs: bool = True,
) -> None:
    """Draw the mean over runs, and one standard deviation about it.

    Runs that have diverged are NaN and do not count.

    Args:
        axes: Where to draw.
        x: `[points]`.
        values: `[runs, points]`.
        label: In the legend.
        style: Colour and dashes.
        marker: At each point; none if empty.
        with_runs: Draw a thin line for each run too, if they are few.
    """
    colour, dashes = style
    mean = mean_over_runs(values)
    if label and np.isnan(mean).all():
        label += " (diverged)"
    if len(values) > 1:
        with warnings.catch_warnings(action="ignore"):  # all runs are NaN between two tasks
            spread = np.nanstd(values, 0, ddof=1)
        axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)
        if with_runs and len(values) <= _MOST_RUNS:
            axes.plot(x, values.T, color=colour, alpha=0.25, linewidth=0.6)
    axes.plot(
        x,
        mean,
        color=colour,
        linestyle=dashes,
        marker=marker,
        markersize=4 if len(mean) < 100 else 1.5,
        linewidth=1.6,
        label=label,
    )


def mean_over_runs(values: np.ndarray) -> np.ndarray:
    """The mean over the runs that are not NaN."""
    with warnings.catch_warnings(action="ignore"):  # NaN where all runs are
        return np.nanmean(values, 0)


def set_task_ticks(
    set_ticks: Callable[..., Any],
    positions: Iterable[Any],
    labels: Iterable[Any],
) -> None:
    """A tick for each task, and fewer where there are many.

    Args:
        set_ticks: `axes.set_xticks` or `axes.set_yticks`.
        positions: Where each tick is.
        labels: What each tick says.
    """
    every_position = list(positions)
    every_label = [str(label) for label in labels]
    count = len(every_position)
    most = 20 if count < 100 else 10
    every = max(1, -(-count // most))
    set_ticks(every_position[::every], labels=every_label[::every])


def draw_legend(axes: "Axes") -> None:
    """Draw the legend beside the curves, never over them; none for a single curve, and the first
    rows of many.
    """
    handles, labels = axes.get_legend_handles_labels()
    count = len([label for label in labels if label])
    if count < 2:
        return
    axes.legend(
        handles[:_MOST_ROWS],
        labels[:_MOST_ROWS],
        title=f"the first {_MOST_ROWS} of {count}" if count > _MOST_ROWS else None,
        title_fontsize=8,
        frameon=False,
        fontsize=8,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )


def groups(data: "xarray.Dataset") -> list[Group]:
    """The runs that share every swept setting, with a label such as `lr=0.1, s_max=50`.

    If no setting is swept, all runs are one group without a label.
    """
    swept = []
    for name, coordinate in data.coords.items():
        if coordinate.dims == ("run",) and name not in ("run", "seed"):
            swept.append(str(name))
    columns = [data[name].values.tolist() for name in swept]
    runs_of: dict[tuple[Any, ...], list[int]] = {}
    for run in range(data.sizes["run"]):
        settings = tuple(column[run] for column in columns)
        runs_of.setdefault(settings, []).append(run)
    found = []
    for settings, runs in runs_of.items():
        words = [_setting(*pair) for pair in zip(swept, settings, strict=True)]
        found.append((", ".join(words), np.array(runs)))
    return found


def _setting(name: str, value: Any) -> str:
    return value if isinstance(value, str) else f"{name}={value:g}"


def title(data: "xarray.Dataset") -> str:
    """The algorithm, its tasks, and what is drawn of several runs."""
    runs = data.sizes["run"]
    many = f", {runs} runs: mean ± standard deviation" if runs > 1 else ""
    return f"{data.attrs['algorithm']}, {tasks_title(data)}{many}"


def tasks_title(data: "xarray.Dataset") -> str:
    """The scenario, the data set and the paradigm."""
    return f"{data.attrs['scenario']} {data.attrs['dataset']} ({data.attrs['paradigm']})"
