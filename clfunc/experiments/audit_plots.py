"""Figures of an audit: each measure after each unlearning, for the network that forgot and those it
is compared with.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clfunc.results.panels import COLOURS, draw_legend, make_panels, tasks_title
from clfunc.results.plots import write_all
from clfunc.unlearning.forget_sets import from_compact

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEMBERS = ("unlearned", "original", "oracle")
_DISTANCES = ("euclidean", "cosine", "manhattan", "cka")
_PERCENT = ("accuracy", "accuracy_gain", "above_chance")
_FORGOTTEN = "forgotten"  # in a title, tasks or sets, as it may be
_PANELS = {  # figure -> its variables, each with a title
    "accuracy": {
        "accuracy_remaining": "tasks that remain",
        "accuracy_forgotten": _FORGOTTEN,
    },
    "accuracy_gain": {"accuracy_gain": "tasks that remain, against the original"},
    "above_chance": {"above_chance": f"{_FORGOTTEN}, against chance"},
    "membership": {"membership_auc": "AUC", "membership_advantage": "advantage"},
    "residual": {"residual": "of the recorded updates"},
}
_LABELS = {
    "accuracy": "accuracy (%)",
    "accuracy_gain": "accuracy gain (points)",
    "above_chance": "accuracy above chance (points)",
    "membership": "membership inference by loss",
    "residual": "norm of what is left",
}
for _name in _DISTANCES:
    _PANELS[_name] = {f"{_name}_remaining": "tasks that remain", f"{_name}_forgotten": _FORGOTTEN}
    _LABELS[_name] = f"{_name} distance to the oracle"
_NO_KNOWLEDGE = {  # the value of a network that knows, gains or reveals nothing
    "accuracy_gain": 0.0,
    "above_chance": 0.0,
    "membership_auc": 0.5,
    "membership_advantage": 0.0,
}


def save(data: "xarray.Dataset", folder: Path) -> list[Path]:
    """Write a figure for each measure that the results hold into `folder`; their paths."""
    figures = {}
    for name in _PANELS:
        if _shown(data, name):
            figures[f"unlearning_{name}"] = figure(data, name)
    return write_all(figures, folder)


def _shown(data: "xarray.Dataset", name: str) -> dict[str, str]:
    """The variables of a figure that were measured, each with its title."""
    shown = {}
    for measure, title in _PANELS[name].items():
        variable = f"unlearning_{measure}"
        if variable in data and data[variable].notnull().any():
            shown[variable] = title
    return shown


def figure(data: "xarray.Dataset", name: str) -> "Figure":
    """One measure: every run after every unlearning, with the mean over seeds and its standard
    deviation.
    """
    panels = _shown(data, name)
    longest = max(len(line) for text in _tick_labels(data) for line in text.split("\n"))
    narrowest = 5.4 if len(panels) == 1 else 4.2
    width = max(narrowest, max(1.6, 0.09 * longest) * data.sizes["unlearning"] + 1.0)
    drawn, all_axes = make_panels(width, 3.4, len(panels))
    factor = 100 if name in _PERCENT else 1
    for axes, (variable, title) in zip(all_axes, panels.items(), strict=True):
        _panel(axes, data, variable, factor)
        axes.set_title(title.replace(_FORGOTTEN, forgotten_title(data)), fontsize=9)
    all_axes[0].set_ylabel(_LABELS[name])
    draw_legend(all_axes[-1])
    seeds = len(np.unique(data["seed"].values))
    many = f", {seeds} seeds: mean ± standard deviation" if seeds > 1 else ""
    drawn.suptitle(f"{data.attrs['algorithm']}, {tasks_title(data)}{many}", fontsize=10)
    return drawn


def _panel(axes: "Axes", data: "xarray.Dataset", variable: str, factor: float) -> None:
    """The members side by side after each unlearning; a dashed line where a network knows nothing."""
    stages = np.arange(data.sizes["unlearning"])
    level = _NO_KNOWLEDGE.get(variable.removeprefix("unlearning_"))
    if level is not None:
        axes.axhline(level * factor, color="#9aa0a8", linewidth=0.9, linestyle="--", zorder=0)
    for number, member in enumerate(MEMBERS):
        values = factor * by_member(data, variable, member)
        if not np.isnan(values).all():
            _draw(axes, stages + 0.22 * (number - 1), values, COLOURS[number], member)
    axes.set_xticks(stages, labels=_tick_labels(data))
    axes.set_xlim(-0.5, len(stages) - 0.5)


def _draw(axes: "Axes", x: np.ndarray, values: np.ndarray, colour: str, member: str) -> None:
    """A member's mean and standard deviation at each unlearning, and a dot for each seed."""
    spread = np.nanstd(values, 1, ddof=1) if values.shape[1] > 1 else None
    axes.errorbar(
        x,
        values.mean(1),
        spread,
        fmt="o",
        color=colour,
        capsize=3,
        markersize=5,
        label=member,
    )
    axes.plot(x + 0.06, values, ".", color=colour, alpha=0.3, markersize=4)


def _tick_labels(data: "xarray.Dataset") -> list[str]:
    """After which task, and what is forgotten, a line each; tasks count from 1."""
    texts = []
    pairs = zip(data["after"].values, data["forgotten"].values, strict=True)
    for after, forgotten in pairs:
        labels = "\n".join(labels_of(forgotten))
        texts.append(f"after task {after + 1}\nforgot {labels}")
    return texts


def by_member(data: "xarray.Dataset", variable: str, member: str) -> np.ndarray:
    """`[unlearnings, seeds, ...]` of a member after each unlearning; for `oracle`, the oracle of
    that unlearning.
    """
    of_run = data["member"].values.astype(str)
    stages = range(data.sizes["unlearning"])
    by_event = data[variable].dims[1] == "event"
    entries = np.flatnonzero(data["kind"].values == "unlearned") if by_event else stages
    rows = []
    for stage, entry in zip(stages, entries, strict=True):
        name = f"oracle {stage + 1}" if member == "oracle" else member
        rows.append(data[variable].values[of_run == name][:, entry])
    return np.stack(rows)


def labels_of(forgotten: str) -> list[str]:
    """What the coordinate `forgotten` lists, as a person reads it; tasks count from 1."""
    return [from_compact(word).label for word in str(forgotten).split(", ")]


def forgotten_title(data: "xarray.Dataset") -> str:
    """`forgotten tasks`, or `forgotten sets` where some of them are examples of a task."""
    words = ", ".join(str(listed) for listed in data["forgotten"].values).split(", ")
    are_tasks = all(from_compact(word).is_whole_task for word in words)
    return "forgotten tasks" if are_tasks else "forgotten sets"
