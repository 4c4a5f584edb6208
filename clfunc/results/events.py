"""Events: what happened in a run, in order, and metrics after each of them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Event(NamedTuple):
    """A task trained, or an unlearning."""

    kind: str  # trained or unlearned
    task: int  # the one trained; for an unlearning the last one trained before it
    tasks: tuple[tuple[int, ...], ...] = ()  # for an unlearning what each run forgets


def over_events(
    metric: Callable[[Tensor], Tensor], accuracy: Tensor, events: Sequence[Event]
) -> Tensor:
    """A metric of `[trained, tested, *runs]` after every event, `[events, *runs]`.

    It is defined over tasks trained. After an unlearning it is that of the same table with the row measured after it in
    place of the last one; later rows do not see it.
    """
    kept = [row for row, event in enumerate(events) if event.kind == "trained"]
    trained, after = accuracy[kept], metric(accuracy[kept])
    rows = []
    for event, row in zip(events, accuracy, strict=True):
        table = torch.cat([trained[: event.task - 1], row[None]])
        rows.append(after[event.task - 1] if event.kind == "trained" else metric(table)[-1])
    return torch.stack(rows)
