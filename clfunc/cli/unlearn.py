"""`clfunc unlearn`: the tables of an audit. A person counts tasks from 1."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from clfunc.cli import build
from clfunc.cli.arguments import Unlearn
from clfunc.experiments.audit import audit, to_xarray, unmet_lines
from clfunc.experiments.audit_plots import MEMBERS, by_member, forgotten_title, labels_of
from clfunc.unlearning import measures as unlearning
from clfunc.unlearning.forget_sets import from_compact

if TYPE_CHECKING:
    import xarray


class _Column(NamedTuple):
    """A column of the summary."""

    title: str
    measure: str
    factor: float
    digits: int


_SUMMARY = (
    _Column("remaining (%)", "accuracy_remaining", 100, 1),
    _Column("gain", "accuracy_gain", 100, 1),
    _Column("forgotten (%)", "accuracy_forgotten", 100, 1),
    _Column("attack AUC", "membership_auc", 1, 3),
    _Column("advantage", "membership_advantage", 1, 3),
)


def work(args: Unlearn, job: build.Job, console: Console) -> None:
    """Train, forget and compare, and print the tables."""
    keywords = build.keywords(job.options)
    forgets = build.wanted_forgetting(args, job.scenario)
    found = audit(*job.inputs, forgets.requests, out=args.out, **keywords)
    for table in tables(to_xarray(found)):
        console.print(table)
    for line in unmet_lines(found):
        console.print(line, highlight=False, markup=False)
    runs = len(found.result.config["seeds"])
    where = f"; results and figures in {args.out}" if args.out else ""
    seconds = found.result.wall_seconds
    console.print(
        f"{seconds:.1f} s, {runs} runs, {found.result.engine}{where}",
        highlight=False,
    )


def tables(data: "xarray.Dataset") -> list[Table]:
    """The tables of an audit: accuracies task by task, what is kept and forgotten, and distances to
    the oracle.
    """
    seeds = len(np.unique(data["seed"].values))
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "of one seed"
    shown = []
    if data.attrs["paradigm"] != "regression":
        shown.append(_accuracies(data, spread))
    shown.append(_summary(data, spread))
    for word in ("remaining", "forgotten"):
        if _is_known(data, f"cka_{word}"):
            shown.append(_distances(data, word))
    return shown


def _is_known(data: "xarray.Dataset", name: str) -> bool:
    """Whether this was measured anywhere: regression has no accuracies, and where no task remains
    there are no distances.
    """
    variable = f"unlearning_{name}"
    return variable in data and bool(data[variable].notnull().any())


def _accuracies(data: "xarray.Dataset", spread: str) -> Table:
    tasks = data["tested"].values
    table = _table(
        f"accuracy (%), {spread}; forgotten tasks in brackets",
        [f"task {task + 1}" for task in tasks],
    )
    for stage, listed in enumerate(data["forgotten"].values):
        forgotten = _whole_tasks(listed)
        for member in MEMBERS:
            values = by_member(data, "accuracy", member)[stage]
            cells = []
            for column, task in enumerate(tasks):
                cell = _number(100 * values[..., column], 1)
                is_bracketed = task in forgotten and cell != "-"
                cells.append(f"({cell})" if is_bracketed else cell)
            _add_row(table, data, stage, member, cells)
    return table


def _whole_tasks(forgotten: str) -> set[int]:
    """The tasks that are forgotten as a whole, from 0."""
    forget_sets = [from_compact(word) for word in str(forgotten).split(", ")]
    return {one.task for one in forget_sets if one.is_whole_task}


def _summary(data: "xarray.Dataset", spread: str) -> Table:
    columns = [column for column in _SUMMARY if _is_known(data, column.measure)]
    titles = [column.title for column in columns]
    has_records = "unlearning_residual" in data
    if has_records:
        titles.append("residual")
    table = _table(f"what is kept and what is forgotten, {spread}", titles)
    for stage in range(data.sizes["unlearning"]):
        for member in MEMBERS:
            cells = []
            for column in columns:
                values = by_member(data, f"unlearning_{column.measure}", member)[stage]
                cells.append(_number(column.factor * values, column.digits))
            if has_records:
                cells.append(_residual(by_member(data, "unlearning_residual", member)[stage]))
            _add_row(table, data, stage, member, cells)
    return table


def _distances(data: "xarray.Dataset", word: str) -> Table:
    features = "tasks that remain" if word == "remaining" else forgotten_title(data)
    title = f"distance to the oracle, features of {features}"
    table = _table(title, list(unlearning.distances))
    members = MEMBERS[:2]
    for stage in range(data.sizes["unlearning"]):
        for member in members:
            cells = []
            for name in unlearning.distances:
                values = by_member(data, f"unlearning_{name}_{word}", member)[stage]
                cells.append(_number(values, 3))
            _add_row(table, data, stage, member, cells, last=members[-1])
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, header_style="bold", title_justify="left")
    table.add_column("after", no_wrap=True)
    table.add_column("forgot")
    table.add_column("network", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _add_row(
    table: Table,
    data: "xarray.Dataset",
    stage: int,
    member: str,
    cells: Sequence[str],
    last: str = MEMBERS[-1],
) -> None:
    """A member's row; the first row of a stage says after which task it is, and what is forgotten
    by then.
    """
    after, forgotten = "", ""
    if member == MEMBERS[0]:
        after = f"task {int(data['after'].values[stage]) + 1}"
        forgotten = "\n".join(labels_of(data["forgotten"].values[stage]))
    table.add_row(after, forgotten, member, *cells, end_section=member == last)


def _number(values: np.ndarray, digits: int) -> str:
    """The mean and the standard deviation over seeds; a dash where nothing is known."""
    known = values[~np.isnan(values)]
    if not len(known):
        return "-"
    spread = f" ± {known.std(ddof=1):.{digits}f}" if len(known) > 1 else ""
    lost = len(values) - len(known)
    diverged = f" ({lost} diverged)" if lost else ""
    return f"{known.mean():.{digits}f}{spread}{diverged}"


def _residual(values: np.ndarray) -> str:
    """The mean over the seeds that have not diverged."""
    known = values[~np.isnan(values)]
    return f"{known.mean():.1e}" if len(known) else "-"
