"""`clfunc unlearn`: requests as they are typed, and the tables of an audit."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from clfunc.cli import build
from clfunc.cli.arguments import Unlearn
from clfunc.cli.requests import requests
from clfunc.experiments.audit import audit, to_xarray
from clfunc.experiments.audit_plots import MEMBERS, by_member, labels_from_1
from clfunc.unlearning import measures as unlearning

if TYPE_CHECKING:
    import xarray


def work(args: Unlearn, job: build.Job, console: Console) -> None:
    """Train, forget and compare, and print the tables."""
    keywords = build.keywords(job.options)
    asked = requests(args.request)
    found = audit(*job.inputs, asked, out=args.out, **keywords)
    for table in tables(to_xarray(found)):
        console.print(table)
    runs, where = (
        len(found.result.config["seeds"]),
        f"; results and figures in {args.out}" if args.out else "",
    )
    console.print(
        f"{found.result.wall_seconds:.1f} s, {runs} runs, {found.result.engine}{where}",
        highlight=False,
    )


def tables(data: "xarray.Dataset") -> list[Table]:
    """Of an audit: accuracies task by task, what was forgotten and kept, and distances to the oracle."""
    seeds = len(np.unique(data["seed"].values))
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "of one seed"
    measured = [] if data.attrs["paradigm"] == "regression" else [_accuracies(data, spread)]
    words = [word for word in ("remaining", "forgotten") if _known(data, f"cka_{word}")]
    return [*measured, _summary(data, spread), *(_distances(data, word) for word in words)]


def _known(data: "xarray.Dataset", name: str) -> bool:
    """Whether this was measured anywhere: accuracies are not in regression, nor distances where no task remains."""
    return f"unlearning_{name}" in data and bool(data[f"unlearning_{name}"].notnull().any())


def _accuracies(data: "xarray.Dataset", spread: str) -> Table:
    tasks = data["tested"].values
    table = _table(
        f"accuracy (%), {spread}; forgotten tasks in brackets",
        [f"task {task + 1}" for task in tasks],
    )
    for stage, forgotten in enumerate(data["forgotten"].values):
        gone = {int(task) for task in str(forgotten).split(", ")}
        for member in MEMBERS:
            values = by_member(data, "accuracy", member)[stage]
            cells = [_number(100 * values[..., at], 1) for at in range(len(tasks))]
            cells = [
                f"({c})" if task in gone and c != "-" else c
                for task, c in zip(tasks, cells, strict=True)
            ]
            table.add_row(*_place(data, stage, member), *cells, end_section=member == MEMBERS[-1])
    return table


def _summary(data: "xarray.Dataset", spread: str) -> Table:
    columns = {
        "remaining (%)": ("accuracy_remaining", 100, 1),
        "gain": ("accuracy_gain", 100, 1),
        "forgotten (%)": ("accuracy_forgotten", 100, 1),
        "attack AUC": ("membership_auc", 1, 3),
        "advantage": ("membership_advantage", 1, 3),
    }
    shown = {title: of for title, of in columns.items() if _known(data, of[0])}
    recorded = "unlearning_residual" in data
    table = _table(
        f"what is kept and what is forgotten, {spread}", [*shown, *["residual"] * recorded]
    )
    for stage in range(data.sizes["unlearning"]):
        for member in MEMBERS:
            own = [
                (by_member(data, f"unlearning_{name}", member)[stage], *how)
                for name, *how in shown.values()
            ]
            cells = [_number(factor * values, digits) for values, factor, digits in own]
            if recorded:
                cells.append(f"{by_member(data, 'unlearning_residual', member)[stage].mean():.1e}")
            table.add_row(*_place(data, stage, member), *cells, end_section=member == MEMBERS[-1])
    return table


def _distances(data: "xarray.Dataset", word: str) -> Table:
    title = {"remaining": "tasks that remain", "forgotten": "forgotten tasks"}[word]
    table = _table(f"distance to the oracle, features of {title}", list(unlearning.distances))
    for stage in range(data.sizes["unlearning"]):
        for member in MEMBERS[:2]:
            own = [
                by_member(data, f"unlearning_{name}_{word}", member)[stage]
                for name in unlearning.distances
            ]
            table.add_row(
                *_place(data, stage, member),
                *(_number(v, 3) for v in own),
                end_section=member == MEMBERS[1],
            )
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, header_style="bold", title_justify="left")
    for name in ("after", "forgot", "network"):
        table.add_column(name, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _place(data: "xarray.Dataset", stage: int, member: str) -> tuple[str, str, str]:
    """After which task, what is forgotten by then, and by which network; the first two are said once a stage."""
    if member != MEMBERS[0]:
        return "", "", member
    after = int(data["after"].values[stage])
    return str(after + 1), labels_from_1(data["forgotten"].values[stage]), member


def _number(values: np.ndarray, digits: int) -> str:
    kept = values[~np.isnan(values)]
    if not len(kept):
        return "-"
    spread = f" ± {kept.std(ddof=1):.{digits}f}" if len(kept) > 1 else ""
    lost = f" ({len(values) - len(kept)} diverged)" if len(kept) < len(values) else ""
    return f"{kept.mean():.{digits}f}{spread}{lost}"
