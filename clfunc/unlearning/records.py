"""Records of updates: what training on each task has added to the parameters, so that it can be taken off again.

    params after training = params before + sum of all records

Every change of the parameters is added to one record, as it was applied: that of a declared set (`clfunc.unlearning.forget_sets`) whose examples
were in the batch (`clfunc.unlearning.forget_sets`), or else that of the task being trained. Parameters that each task has for itself (a head,
an embedding) count by task: a record's entry for them is the change of its own task's.

One task's record rides along and the others wait, as heads do: a step adds to one, however many tasks there are, and to those
of requests. After N steps a sum is off by at most about N u max|params|, u being 6e-8 in float32 and 1e-16 in float64. In
float64, changes of float32 parameters add up almost without error, for twice the memory.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from clfunc import tree
from clfunc.types import Params, State, choice

PRECISIONS = ("params", "float64")


class Records(NamedTuple):
    working: Params  # of the task being trained, but for its requests
    bank: Params  # `[tasks, ...]`; the working one's entry is out of date
    current: Tensor  # task of the working record; -1 before the first
    requests: State  # `[requests, ...]`; () without any
    held: Int[
        Tensor, "requests requests"
    ]  # batches that touch one request (row) and are in the record of one (column)


def blank(
    params: Params, num_tasks: int, num_requests: int = 0, precision: str = "params"
) -> Records:
    """Records of no change, in the number type of the parameters or in float64."""
    wide = choice(precision, "precision", PRECISIONS) == "float64"
    working = tree.map(
        lambda p: torch.zeros_like(p, dtype=torch.float64 if wide else p.dtype), params
    )

    def rows(count: int) -> Params:
        return tree.map(lambda p: p.new_zeros((count, *p.shape)), working)

    held = torch.zeros(
        (num_requests, num_requests), dtype=torch.int64, device=tree.leaves(params)[0].device
    )
    requests = rows(num_requests) if num_requests else ()
    return Records(working, rows(num_tasks), torch.full_like(held.sum(), -1), requests, held)


def add(records: Records, before: Params, after: Params) -> Records:
    """Add a change to the working record."""
    return records._replace(working=tree.add(records.working, _change(records, before, after)))


def add_step(
    records: Records, before: Params, after: Params, touched: Bool[Tensor, " requests"]
) -> Records:
    """Add the change that a batch made to the record of the first request that it touches, or else to the working one."""
    first = touched & (touched.cumsum(0) == 1)
    change = _change(records, before, after)
    working = tree.map(lambda r, c: r + torch.where(touched.any(), 0, c), records.working, change)
    rows = tree.map(
        lambda r, c: r + torch.where(tree.expand_last(first, r.ndim), c, 0),
        records.requests,
        change,
    )
    return records._replace(
        working=working, requests=rows, held=records.held + (touched[:, None] & first)
    )


def check_in(records: Records) -> Records:
    """Put the working record back in its place."""
    return records._replace(bank=tree.put(records.bank, records.current, records.working))


def check_out(records: Records, task: Tensor) -> Records:
    """Go on with this task's record."""
    return records._replace(working=tree.take(records.bank, task), current=task.to(torch.int64))


def every(records: Records) -> Params:
    """All records, up to date: `[tasks + requests, ...]`, requests last."""
    bank = check_in(records).bank
    return (
        bank
        if records.requests == ()
        else tree.map(lambda t, r: torch.cat([t, r]), bank, records.requests)
    )


def subtract(
    records: Records,
    params: Params,
    own: Params,
    rows: Bool[Tensor, " n"],
    tasks: tuple[int, ...] = (),
) -> tuple[Params, Params]:
    """The parameters, and all tasks' own, less the records of `rows`; `tasks` are those of the requests."""
    chosen = tree.map(lambda r: torch.where(tree.expand_last(rows, r.ndim), r, 0), every(records))
    shared = {group: part for group, part in chosen.items() if group not in own}
    less = tree.map(
        lambda p, c: _less(p, c.sum(0)), {group: params[group] for group in shared}, shared
    )
    by_task = tree.map(lambda c: _by_task(c, tasks), {group: chosen[group] for group in own})
    return params | less, tree.map(_less, own, by_task)


def clear(records: Records, rows: Bool[Tensor, " n"]) -> Records:
    """Records without those of `rows`: to forget again takes nothing off, to train again begins anew."""
    count = rows.shape[0] - records.held.shape[0]
    bank = tree.where(~rows[:count], check_in(records).bank, tree.zeros_like(records.bank))
    records = check_out(records._replace(bank=bank), records.current)
    if records.requests == ():
        return records
    requests = tree.where(~rows[count:], records.requests, tree.zeros_like(records.requests))
    return records._replace(requests=requests, held=torch.where(rows[count:], 0, records.held))


def _change(records: Records, before: Params, after: Params) -> Params:
    return tree.map(lambda r, b, a: a.to(r.dtype) - b.to(r.dtype), records.working, before, after)


def _less(value: Tensor, change: Tensor) -> Tensor:
    return (value.to(change.dtype) - change).to(value.dtype)


def _by_task(rows: Tensor, tasks: tuple[int, ...]) -> Tensor:
    """Each task's row and those of its requests, added up."""
    count = rows.shape[0] - len(tasks)
    total, place = (
        rows[:count],
        tree.expand_last(torch.arange(count, device=rows.device), rows.ndim),
    )
    for task, row in zip(tasks, rows[count:].unbind() if tasks else (), strict=True):
        total = total + torch.where(place == task, row, 0)
    return total
