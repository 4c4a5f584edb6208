"""What a term learned from each task, kept apart, so that a task can be forgotten."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.bank import repeated
from clfunc.types import Params, State


class Kept(NamedTuple):
    """A row for each task."""

    rows: Any  # leaves [tasks, ...]; zeros for a task that has not ended
    order: Tensor  # [tasks]: how many tasks had ended when this one did, from 1; 0 for not yet
    task: Tensor  # the task that trains

    @property
    def count(self) -> int:
        """The number of tasks."""
        return self.order.shape[-1]


def keeping(row: Any, num_tasks: int | None) -> State:
    """Rows of zeros in the shape of `row`; () where no task is to be forgotten.

    Raises:
        ValueError: No task.
    """
    if num_tasks is None:
        return ()
    if num_tasks < 1:
        raise ValueError(f"num_tasks must be at least 1, given {num_tasks}")
    blank = repeated(tree.zeros_like(row), num_tasks)
    none = torch.zeros(num_tasks, dtype=torch.int64, device=tree.leaves(row)[0].device)
    return Kept(rows=blank, order=none, task=none[0].clone())


def filed(kept: Kept, row: Any) -> Kept:
    """The rows with that of the task that ends; a task that ends again replaces its own."""
    rows = tree.put(kept.rows, kept.task, row)
    last = kept.order.max() + 1
    return kept._replace(rows=rows, order=tree.put(kept.order, kept.task, last))


def without(kept: Kept, forgotten: Tensor) -> Kept:
    """The rows without those of the forgotten tasks, `Bool[tasks]`."""
    forgotten = forgotten[: kept.count]
    rows = tree.where(forgotten, tree.zeros_like(kept.rows), kept.rows)
    return kept._replace(rows=rows, order=torch.where(forgotten, 0, kept.order))


def latest(kept: Kept, rows: Params, otherwise: Params) -> Params:
    """The row of the task that ended last; `otherwise` where none has."""
    last = tree.take(rows, kept.order.argmax())
    return tree.where(kept.order.max() > 0, last, otherwise)
