"""A reservoir [1, 2]: a uniform sample, without replacement, of all examples met.

Each example has a random priority that depends on its task and row alone, and the memory keeps the
`capacity` smallest. So what is kept does not depend on how the stream is cut into batches, nor on
the number of epochs, and no example is kept twice.

Departs from [1], which draws at every step whether the example that comes replaces another: with
several epochs that keeps an example more than once. Without `batch.rows`, every example that comes
counts as a new one.

[1] Vitter 1985, "Random sampling with a reservoir", ACM TOMS 11   [2] Riemer et al. 2019,
arXiv:1810.11910, who use it in continual learning
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clfunc.memories import slots
from clfunc.settings import check_whole
from clfunc.types import Batch, Key, Memory


class ReservoirState(NamedTuple):
    key: Key
    priority: Tensor  # [capacity + 1], int64; 0 in the spare slot
    rows: Batch  # [capacity + 1, ...], see `slots`
    seen: Tensor  # examples met, 0-d


def reservoir(capacity: int) -> Memory:
    """A uniform sample of all examples met.

    Args:
        capacity: Number of examples, >= 1.

    Raises:
        ValueError: A capacity below 1.

    >>> from clfunc import memories
    >>> memories.reservoir(500).settings
    {'name': 'reservoir', 'capacity': 500}
    """
    check_whole(capacity, "capacity")

    def init(key: Key, blank: Batch) -> ReservoirState:
        return ReservoirState(
            key=key,
            priority=slots.no_priorities(capacity, key.device),
            rows=slots.empty(blank, capacity),
            seen=torch.zeros((), dtype=torch.int64, device=key.device),
        )

    def add(s: ReservoirState, batch: Batch) -> ReservoirState:
        number = slots.rows_of(batch, s.seen)
        batch = batch._replace(rows=number)
        new = slots.priorities(s.key, batch.task, number)
        stored = s.priority[:capacity]
        counts = slots.is_new(batch, new, stored)

        # how many examples, stored or new, stand before each new one
        before = (stored < new[:, None]).sum(1)
        before = before + ((new < new[:, None]) & counts).sum(1)
        kept = counts & (before < capacity)
        # the j-th that is kept replaces the j-th largest priority
        replaced = torch.topk(stored, min(len(new), capacity)).indices
        slot = replaced[(kept.cumsum(0) - 1).clamp(0, len(replaced) - 1)]

        priority, rows = slots.write((s.priority, s.rows), slot, (new, batch), kept)
        return s._replace(priority=priority, rows=rows, seen=s.seen + len(new))

    def rows(s: ReservoirState) -> Batch:
        return slots.held(s.rows)

    def forget(s: ReservoirState, forgotten: Tensor) -> ReservoirState:
        rows, is_gone = slots.without_tasks(s.rows, forgotten)
        free = slots.no_priorities(capacity, forgotten.device)
        return s._replace(rows=rows, priority=torch.where(is_gone, free, s.priority))

    settings = {"name": "reservoir", "capacity": capacity}
    return Memory(init=init, add=add, rows=rows, forget=forget, settings=settings)
