"""Records of updates: what training on each task has added to the parameters, so that it can be taken off again.

    params after training = params before + sum over tasks of record[task]

Every change of the parameters is added to the record of the task it came from, as it was applied. Parameters that each task has
for itself (a head, an embedding) count by task: a record's entry for them is the change of its own task's.

One record rides along and the others wait, as heads do: a step adds to one, however many tasks there are. After N steps a sum
is off by at most about N u max|params|, u being 6e-8 in float32 and 1e-16 in float64. In float64, changes of float32 parameters
add up almost without error, for twice the memory.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.types import Params, choice

PRECISIONS = ("params", "float64")


class Records(NamedTuple):
    """One entry a task, `[tasks, ...]`; the working one's is out of date."""

    working: Params
    bank: Params
    current: Tensor  # task of the working record; -1 before the first


def blank(params: Params, num_tasks: int, precision: str = "params") -> Records:
    """Records of no change, in the number type of the parameters or in float64."""
    wide = choice(precision, "precision", PRECISIONS) == "float64"
    working = tree.map(lambda p: torch.zeros_like(p, dtype=torch.float64 if wide else p.dtype), params)
    bank = tree.map(lambda p: p.new_zeros((num_tasks, *p.shape)), working)
    return Records(working, bank, torch.full((), -1, dtype=torch.int64, device=tree.leaves(params)[0].device))


def add(records: Records, before: Params, after: Params) -> Records:
    """Add a change to the working record."""
    working = tree.map(lambda r, b, a: r + (a.to(r.dtype) - b.to(r.dtype)), records.working, before, after)
    return records._replace(working=working)


def check_in(records: Records) -> Records:
    """Put the working record back in its place."""
    return records._replace(bank=tree.put(records.bank, records.current, records.working))


def check_out(records: Records, task: Tensor) -> Records:
    """Go on with this task's record."""
    return records._replace(working=tree.take(records.bank, task), current=task.to(torch.int64))


def every(records: Records) -> Params:
    """All records, `[tasks, ...]`, up to date."""
    return check_in(records).bank


def subtract(records: Records, params: Params, own: Params, asked: Tensor) -> tuple[Params, Params]:
    """The parameters, and all tasks' own, less what the asked tasks (Bool[tasks]) added to them."""
    chosen = tree.where(asked, every(records), tree.zeros_like(records.bank))
    shared = {group: part for group, part in chosen.items() if group not in own}
    less = tree.map(lambda p, c: _less(p, c.sum(0)), {group: params[group] for group in shared}, shared)
    return params | less, tree.map(_less, own, {group: chosen[group] for group in own})


def clear(records: Records, asked: Tensor) -> Records:
    """Records without those of the asked tasks: to forget again takes nothing off, to train again begins anew."""
    bank = tree.where(asked, tree.zeros_like(records.bank), every(records))
    return records._replace(bank=bank, working=tree.take(bank, records.current))


def _less(value: Tensor, change: Tensor) -> Tensor:
    return (value.to(change.dtype) - change).to(value.dtype)
