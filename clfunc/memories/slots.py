"""Slots: a fixed number of rows that a compiled step writes in place.

The rows are a Batch `[capacity + 1, ...]`. The last row is spare: whatever is not kept is written
there, as zeros. So a step writes as many rows as its batch has, whatever it keeps, and the size of
the memory costs nothing.
"""

from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from clfunc import tree
from clfunc.random import bits, position
from clfunc.types import Batch, Key

_LAST = torch.iinfo(torch.int64).max


def empty(blank: Batch, capacity: int) -> Batch:
    """Rows that hold no example."""
    return tree.map(lambda leaf: leaf.expand(capacity + 1, *leaf.shape[1:]).clone(), blank)


def held(rows: Batch) -> Batch:
    """The rows without the spare one."""
    return tree.map(lambda leaf: leaf[:-1], rows)


def write(stored: Any, slot: Tensor, batch: Any, kept: Tensor) -> Any:
    """What is stored, with the kept examples of a batch in their slots.

    Args:
        stored: A tree of tensors `[capacity + 1, ...]`.
        slot: `[batch]`: where each kept example goes; no two go to one slot.
        batch: The examples, a tree of the same structure, `[batch, ...]`.
        kept: `[batch]`: which of them are kept.
    """
    spare = tree.leaves(stored)[0].shape[0] - 1
    slot = torch.where(kept, slot, spare)

    def put(old: Tensor, new: Tensor) -> Tensor:
        # equal values for all that goes to the spare row, so that their order does not matter
        new = torch.where(tree.expand_last(kept, new.ndim), new, torch.zeros_like(new))
        return old.index_put((slot,), new.to(old.dtype))

    return tree.map(put, stored, batch)


def rows_of(batch: Batch, seen: Tensor) -> Tensor:
    """A row for each example: those of the data set, or else a count of all examples met."""
    if isinstance(batch.rows, Tensor):
        return batch.rows
    return seen + torch.arange(len(batch.weight), device=seen.device)


def priorities(key: Key, task: Tensor, rows: Tensor) -> Tensor:
    """A random number of 63 bits for each example, which depends on its task and row alone."""

    def one(at: Tensor) -> Tensor:
        high, low = bits(key, (2,), at=at).unbind()
        return (high >> 1) * 2**32 + low

    return vmap(one)(position(task, rows))


def no_priorities(capacity: int, device: torch.device) -> Tensor:
    """The priorities of empty slots: after every example, and no two equal; 0 in the spare slot."""
    number = torch.arange(capacity + 1, device=device)
    return torch.where(number < capacity, _LAST - number, 0)


def is_new(batch: Batch, new: Tensor, stored: Tensor) -> Tensor:
    """Which examples count and are neither stored nor earlier in the batch, by their priorities."""
    counts = batch.weight > 0
    again = (new[:, None] == stored).any(1)
    return counts & ~again & ~is_repeated(new[:, None] == new, counts)


def is_repeated(same: Tensor, counts: Tensor) -> Tensor:
    """Which examples stand earlier in the batch, in a row that counts.

    Args:
        same: `[batch, batch]`: whether two rows are one example.
        counts: `[batch]`: whether a row counts.
    """
    place = torch.arange(len(counts), device=counts.device)
    return (same & counts & (place[:, None] > place)).any(1)


def without_tasks(rows: Batch, forgotten: Tensor) -> tuple[Batch, Tensor]:
    """The rows without the examples of the forgotten tasks, `Bool[tasks]`, and which rows are gone."""
    task = torch.arange(len(forgotten), device=forgotten.device)
    is_gone = ((rows.task[:, None] == task) & forgotten).any(1) & (rows.weight > 0)
    return tree.where(is_gone, tree.zeros_like(rows), rows), is_gone
