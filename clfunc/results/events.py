"""Events: what happened in a run, in order, and metrics after each of them.

Task numbers count from 0.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clfunc.unlearning.forget_sets import ForgetSet


class Event(NamedTuple):
    """A task is trained, or forget sets are unlearned."""

    kind: str  # "trained" or "unlearned"
    task: int  # the task trained; for an unlearning, the last task trained before it
    forgets: tuple[tuple[ForgetSet, ...], ...] = ()  # for an unlearning, what each run forgets


def over_events(
    metric: Callable[[Tensor], Tensor], accuracy: Tensor, events: Sequence[Event]
) -> Tensor:
    """A metric of `[trained, tested, *runs]` after every event, `[events, *runs]`.

    It is defined over tasks trained. After an unlearning it is that of the same table with the row
    measured after it in place of the last one; later rows do not see it.
    """
    trained_rows = [row for row, event in enumerate(events) if event.kind == "trained"]
    trained = accuracy[trained_rows]
    after_training = metric(trained)
    values = []
    for event, row in zip(events, accuracy, strict=True):
        if event.kind == "trained":
            values.append(after_training[event.task])
        else:
            table = torch.cat([trained[: event.task], row[None]])
            values.append(metric(table)[-1])
    return torch.stack(values)
