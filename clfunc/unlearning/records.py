"""Records of updates: what training on each task has added to the parameters, so that it can be
subtracted again.

    params after training = params before + sum of all records

Every change of the parameters is added to one record, as it was applied: to the record of a forget
set whose examples were in the batch (`clfunc.unlearning.forget_sets`), or else to the record of the
task that trains. For groups that each task has for itself (a head, an embedding), a record's entry
is the change of its own task's groups.

One task's record is the working one and the others wait, as heads do. So a step adds to one record,
however many tasks there are, and to the records of forget sets. After N steps a sum is off by at
most about N u max|params|, u being 6e-8 in float32 and 1e-16 in float64. In float64, changes of
float32 parameters add up almost without error, for twice the memory.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from clfunc import bank, tree
from clfunc.bank import BankState
from clfunc.types import Params, State, choice

PRECISIONS = ("params", "float64")


class Records(NamedTuple):
    """Changes of the parameters, added up by task and by forget set."""

    working: Params  # of the task that trains, but for its forget sets
    bank: BankState  # of all tasks
    requests: State  # of forget sets, [forget sets, ...]; () without any
    # batches that touch one forget set (row) and are in the record of another (column)
    held: Int[Tensor, "requests requests"]


def blank(
    params: Params, num_tasks: int, num_requests: int = 0, precision: str = "params"
) -> Records:
    """Records of no change.

    Args:
        params: Parameters of the shapes to record.
        num_tasks: Number of tasks, >= 1.
        num_requests: Number of forget sets, >= 0.
        precision: `params`, the number type of the parameters, or `float64`.

    Raises:
        ValueError: Another precision.
    """
    wide = choice(precision, "precision", PRECISIONS) == "float64"

    def nothing(p: Tensor) -> Tensor:
        return torch.zeros_like(p, dtype=torch.float64 if wide else p.dtype)

    def rows(count: int) -> Params:
        return tree.map(lambda p: p.new_zeros((count, *p.shape)), working)

    working = tree.map(nothing, params)
    device = tree.leaves(params)[0].device
    return Records(
        working=working,
        bank=bank.filed(rows(num_tasks)),
        requests=rows(num_requests) if num_requests else (),
        held=torch.zeros((num_requests, num_requests), dtype=torch.int64, device=device),
    )


def add(records: Records, before: Params, after: Params) -> Records:
    """Add a change to the working record."""
    change = _change(records, before, after)
    return records._replace(working=tree.add(records.working, change))


def add_step(
    records: Records, before: Params, after: Params, touched: Bool[Tensor, " requests"]
) -> Records:
    """Add the change that a batch made to the record of the first forget set it touches, or else to
    the working record.
    """
    first = touched & (touched.cumsum(0) == 1)
    change = _change(records, before, after)

    def to_working(record: Tensor, c: Tensor) -> Tensor:
        return record + torch.where(touched.any(), 0, c)

    def to_first(rows: Tensor, c: Tensor) -> Tensor:
        return rows + torch.where(tree.expand_last(first, rows.ndim), c, 0)

    return records._replace(
        working=tree.map(to_working, records.working, change),
        requests=tree.map(to_first, records.requests, change),
        held=records.held + (touched[:, None] & first),
    )


def check_in(records: Records) -> Records:
    """Put the working record back in its place."""
    return records._replace(bank=bank.check_in(records.bank, records.working))


def check_out(records: Records, task: Tensor) -> Records:
    """Make the record of this task the working one."""
    working, left = bank.check_out(records.bank, task)
    return records._replace(working=working, bank=left)


def in_place(records: Records, rows: Params) -> Records:
    """Records whose rows by task are these, `[tasks, ...]`, the working one included."""
    filled = records._replace(bank=records.bank._replace(rows=rows))
    return check_out(filled, records.bank.current)


def every(records: Records) -> Params:
    """All records, up to date: `[tasks + forget sets, ...]`, forget sets last."""
    rows = check_in(records).bank.rows
    if records.requests == ():
        return rows
    return tree.map(lambda by_task, by_set: torch.cat([by_task, by_set]), rows, records.requests)


def subtract(
    records: Records,
    params: Params,
    banked: Params,
    chosen: Bool[Tensor, " n"],
    tasks: tuple[int, ...] = (),
) -> tuple[Params, Params]:
    """The parameters without some records.

    Args:
        records: All of them.
        params: From which to subtract.
        banked: The groups that each task has for itself, rows of all tasks `[tasks, ...]`.
        chosen: The records to subtract, by task and then by forget set.
        tasks: The task of each forget set.

    Returns:
        The parameters and the rows of all tasks.
    """

    def only_chosen(rows: Tensor) -> Tensor:
        return torch.where(tree.expand_last(chosen, rows.ndim), rows, 0)

    changes = tree.map(only_chosen, every(records))
    less, rows = dict(params), {}
    for group, change in changes.items():
        if group in banked:
            by_task = tree.map(lambda c: _by_task(c, tasks), change)
            rows[group] = tree.map(_less, banked[group], by_task)
        else:
            less[group] = tree.map(lambda p, c: _less(p, c.sum(0)), params[group], change)
    return less, {group: rows[group] for group in banked}


def clear(records: Records, chosen: Bool[Tensor, " n"]) -> Records:
    """Records without some: to forget again subtracts nothing, to train again begins anew."""
    count = chosen.shape[0] - records.held.shape[0]
    rows = check_in(records).bank.rows
    records = in_place(records, tree.where(~chosen[:count], rows, tree.zeros_like(rows)))
    if records.requests == ():
        return records
    kept = ~chosen[count:]
    return records._replace(
        requests=tree.where(kept, records.requests, tree.zeros_like(records.requests)),
        held=torch.where(kept, records.held, 0),
    )


def _change(records: Records, before: Params, after: Params) -> Params:
    """What was added, in the precision of the records."""

    def difference(record: Tensor, old: Tensor, new: Tensor) -> Tensor:
        return new.to(record.dtype) - old.to(record.dtype)

    return tree.map(difference, records.working, before, after)


def _less(value: Tensor, change: Tensor) -> Tensor:
    return (value.to(change.dtype) - change).to(value.dtype)


def _by_task(rows: Tensor, tasks: tuple[int, ...]) -> Tensor:
    """Each task's row and the rows of its forget sets, added up."""
    count = rows.shape[0] - len(tasks)
    total = rows[:count]
    number = torch.arange(count, device=rows.device)
    place = tree.expand_last(number, rows.ndim)
    for position, task in enumerate(tasks):
        total = total + torch.where(place == task, rows[count + position], 0)
    return total
