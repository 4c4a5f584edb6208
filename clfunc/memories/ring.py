"""A ring [1]: the last examples of each task, equally many of each.

Task t has the slots `t * share` to `(t + 1) * share - 1`, which are filled in order and then over
again, the oldest first. An example that is in the memory is not written again.

[1] Lopez-Paz & Ranzato 2017, arXiv:1706.08840 (GEM); Chaudhry et al. 2019, arXiv:1902.10486
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.memories import slots
from clfunc.settings import check_whole
from clfunc.types import Batch, Key, Memory


class RingState(NamedTuple):
    written: Tensor  # [tasks]: examples of each task so far
    rows: Batch  # [capacity + 1, ...], see `slots`
    seen: Tensor  # examples met, 0-d


def ring(capacity: int, *, num_tasks: int) -> Memory:
    """The last `capacity // num_tasks` examples of each task.

    Args:
        capacity: Number of examples, >= num_tasks.
        num_tasks: Number of tasks, >= 1.

    Raises:
        ValueError: No task, or less than one example a task.

    >>> from clfunc import memories
    >>> memories.ring(500, num_tasks=5).settings["capacity"]
    500
    """
    check_whole(capacity, "capacity")
    if num_tasks < 1:
        raise ValueError(f"num_tasks must be at least 1, given {num_tasks}")
    share = capacity // num_tasks
    if share < 1:
        raise ValueError(
            f"capacity must be at least {num_tasks}, one example a task, given {capacity}"
        )

    def init(key: Key, blank: Batch) -> RingState:
        zero = torch.zeros((), dtype=torch.int64, device=key.device)
        return RingState(
            written=zero.expand(num_tasks).clone(),
            rows=slots.empty(blank, share * num_tasks),
            seen=zero,
        )

    def add(s: RingState, batch: Batch) -> RingState:
        number = slots.rows_of(batch, s.seen)
        batch = batch._replace(rows=number)
        stored = slots.held(s.rows)
        is_it = (batch.task[:, None] == stored.task) & (number[:, None] == stored.rows)
        place = torch.arange(len(number), device=number.device)
        same_task = batch.task[:, None] == batch.task
        given = batch.weight > 0
        again = (is_it & (stored.weight > 0)).any(1)
        twice = slots.is_repeated(same_task & (number[:, None] == number), given)
        counts = given & ~again & ~twice

        # the place of an example among those of its task, and how many of them come after it
        order = (same_task & counts & (place < place[:, None])).sum(1)
        after = (same_task & counts & (place > place[:, None])).sum(1)
        slot = batch.task * share + (tree.take(s.written, batch.task) + order) % share
        kept = counts & (after < share)

        member = batch.task[:, None] == torch.arange(num_tasks, device=place.device)
        written = s.written + (member & counts[:, None]).sum(0)
        rows = slots.write(s.rows, slot, batch, kept)
        return RingState(written=written, rows=rows, seen=s.seen + len(place))

    def rows(s: RingState) -> Batch:
        return slots.held(s.rows)

    def forget(s: RingState, forgotten: Tensor) -> RingState:
        rows, _ = slots.without_tasks(s.rows, forgotten)
        return s._replace(rows=rows, written=torch.where(forgotten[:num_tasks], 0, s.written))

    settings = {"name": "ring", "capacity": share * num_tasks, "num_tasks": num_tasks}
    return Memory(init=init, add=add, rows=rows, forget=forget, settings=settings)
