"""A balanced memory [1]: a uniform sample of each class, as many of one class as of another where
there are as many.

Within a class examples are ranked by a random priority, which depends on their task and row alone.
The memory keeps the `capacity` smallest pairs (rank in the class, priority): every class is filled
to one level, and classes with few examples are kept whole. So what is kept does not depend on how
the stream is cut into batches, nor on the number of epochs. A class is a label of a task.

Departs from [1], whose choice within a class is by order of arrival; the numbers of each class are
the same.

[1] Chrysakis & Moens 2020, "Online continual learning from imbalanced data", ICML; Prabhu et al.
    2020 (GDumb), ECCV
"""

import torch
from torch import Tensor

from clfunc.memories import slots
from clfunc.memories.reservoir import ReservoirState, reservoir
from clfunc.types import Batch, Memory

_WIDE = 2**32  # more labels than a task has


def balanced(capacity: int) -> Memory:
    """A uniform sample of each class, and equal numbers of classes.

    Args:
        capacity: Number of examples, >= 1.

    Raises:
        ValueError: A capacity below 1.

    >>> from clfunc import memories
    >>> memories.balanced(500).settings["name"]
    'balanced'
    """
    base = reservoir(capacity)

    def add(s: ReservoirState, batch: Batch) -> ReservoirState:
        number = slots.rows_of(batch, s.seen)
        batch = batch._replace(rows=number)
        new = slots.priorities(s.key, batch.task, number)
        counts = slots.is_new(batch, new, s.priority[:capacity])

        stored = slots.held(s.rows)
        priority = torch.cat([s.priority[:capacity], new])
        is_there = torch.cat([stored.weight > 0, counts])
        group = torch.cat([_class(stored), _class(batch)])
        kept = _first(capacity, _rank_in_class(group, priority, is_there), priority, is_there)
        stays, enters = kept[:capacity], kept[capacity:]
        # slots that hold nothing, or what is not kept, come first and in order
        free = torch.argsort(stays.to(torch.int8), stable=True)
        slot = free[(enters.cumsum(0) - 1).clamp(0, capacity - 1)]

        priority, rows = slots.write((s.priority, s.rows), slot, (new, batch), enters)
        return s._replace(priority=priority, rows=rows, seen=s.seen + len(new))

    settings = {"name": "balanced", "capacity": capacity, "needs": "classes"}
    return base._replace(add=add, settings=settings)


def _class(batch: Batch) -> Tensor:
    return batch.task * _WIDE + batch.y


def _rank_in_class(group: Tensor, priority: Tensor, is_there: Tensor) -> Tensor:
    """How many examples of the same class have a smaller priority."""
    by_priority = torch.argsort(torch.where(is_there, priority, torch.iinfo(torch.int64).max))
    by_class = by_priority[torch.argsort(group[by_priority], stable=True)]
    ordered = group[by_class]
    place = torch.arange(len(group), device=group.device)
    # where the class of each place begins
    begins = torch.searchsorted(ordered, ordered)
    rank = place - begins
    return torch.zeros_like(rank).index_put((by_class,), rank)


def _first(count: int, rank: Tensor, priority: Tensor, is_there: Tensor) -> Tensor:
    """Which are among the first `count` by rank, and by priority within a rank."""
    rank = torch.where(is_there, rank, len(rank))
    by_priority = torch.argsort(priority)
    order = by_priority[torch.argsort(rank[by_priority], stable=True)]
    place = torch.zeros_like(order).index_put(
        (order,), torch.arange(len(order), device=rank.device)
    )
    return is_there & (place < count)
