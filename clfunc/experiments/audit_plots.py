"""Figures of an audit: each measure after each unlearning, for the network that forgot and those it is compared with."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clfunc.results.plots import _COLOURS, _figure, _legend, _scene, write_all

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEMBERS = ("unlearned", "original", "oracle")
_SPLIT = {"remaining": "tasks that remain", "forgotten": "forgotten tasks"}
_PANELS = {  # figure -> variables, each with its title
    "accuracy": {f"accuracy_{word}": text for word, text in _SPLIT.items()},
    "accuracy_gain": {"accuracy_gain": "tasks that remain, against the original"},
    "above_chance": {"above_chance": "forgotten tasks, against chance"},
    **{
        name: {f"{name}_{word}": text for word, text in _SPLIT.items()}
        for name in ("euclidean", "cosine", "manhattan", "cka")
    },
    "membership": {"membership_auc": "AUC", "membership_advantage": "advantage"},
    "residual": {"residual": "of the recorded updates"},
}
_LABELS = {
    "accuracy": "accuracy (%)",
    "accuracy_gain": "accuracy gain (points)",
    "above_chance": "accuracy above chance (points)",
}
_LABELS |= {
    name: f"{name} distance to the oracle" for name in ("euclidean", "cosine", "manhattan", "cka")
}
_LABELS |= {"membership": "membership inference by loss", "residual": "norm of what is left"}
_NOTHING_KNOWN = {
    "accuracy_gain": 0.0,
    "above_chance": 0.0,
    "membership_auc": 0.5,
    "membership_advantage": 0.0,
}


def save(data: "xarray.Dataset", folder: Path) -> list[Path]:
    """Write a figure for each measure that the results hold into `folder`; their paths."""
    return write_all(
        {f"unlearning_{name}": figure(data, name) for name in _PANELS if _shown(data, name)}, folder
    )


def _shown(data: "xarray.Dataset", name: str) -> dict[str, str]:
    panels = {f"unlearning_{variable}": title for variable, title in _PANELS[name].items()}
    return {
        variable: title
        for variable, title in panels.items()
        if variable in data and data[variable].notnull().any()
    }


def figure(data: "xarray.Dataset", name: str) -> "Figure":
    """One measure: every run after every unlearning, with the mean over seeds and its standard deviation."""
    panels = _shown(data, name)
    width = max(5.4 if len(panels) == 1 else 4.2, 1.6 * data.sizes["unlearning"] + 1.0)
    drawn, all_axes = _figure(width, 3.4, len(panels))
    for axes, (variable, title) in zip(all_axes, panels.items(), strict=True):
        _panel(
            axes,
            data,
            variable,
            100 if name in ("accuracy", "accuracy_gain", "above_chance") else 1,
        )
        axes.set_title(title, fontsize=9)
    all_axes[0].set_ylabel(_LABELS[name])
    _legend(all_axes[-1])
    seeds = len(np.unique(data["seed"].values))
    many = f", {seeds} seeds: mean ± standard deviation" if seeds > 1 else ""
    drawn.suptitle(f"{data.attrs['algorithm']}, {_scene(data)}{many}", fontsize=10)
    return drawn


def _panel(axes: "Axes", data: "xarray.Dataset", variable: str, factor: float) -> None:
    """Members side by side after each unlearning; a line where nothing is known, gained or told."""
    stages = np.arange(data.sizes["unlearning"])
    level = _NOTHING_KNOWN.get(variable.removeprefix("unlearning_"))
    if level is not None:
        axes.axhline(level * factor, color="#9aa0a8", linewidth=0.9, linestyle="--", zorder=0)
    for place, member in enumerate(MEMBERS):
        values = factor * by_member(data, variable, member)
        if np.isnan(values).all():
            continue
        x = stages + 0.22 * (place - 1)
        spread = np.nanstd(values, 1, ddof=1) if values.shape[1] > 1 else None
        axes.errorbar(
            x,
            values.mean(1),
            spread,
            fmt="o",
            color=_COLOURS[place],
            capsize=3,
            markersize=5,
            label=member,
        )
        axes.plot(x + 0.06, values, ".", color=_COLOURS[place], alpha=0.3, markersize=4)
    labels = [
        f"after task {a + 1}\nforgot {labels_from_1(f)}"
        for a, f in zip(data["after"].values, data["forgotten"].values, strict=True)
    ]
    axes.set_xticks(stages, labels=labels)
    axes.set_xlim(-0.5, len(stages) - 0.5)


def by_member(data: "xarray.Dataset", variable: str, member: str) -> np.ndarray:
    """`[unlearnings, seeds, ...]` of a member after each unlearning; `oracle` is that unlearning's own."""
    own, stages = data["member"].values.astype(str), range(data.sizes["unlearning"])
    names = [f"oracle {at + 1}" if member == "oracle" else member for at in stages]
    by_event = data[variable].dims[1] == "event"
    events = np.flatnonzero(data["kind"].values == "unlearned") if by_event else stages
    values = data[variable].values
    return np.stack(
        [values[own == name][:, event] for name, event in zip(names, events, strict=True)]
    )


def labels_from_1(forgotten: str) -> str:
    """The tasks of the coordinate `forgotten`, which count from 0, as a person counts them."""
    return ", ".join(str(int(task) + 1) for task in str(forgotten).split(", "))
