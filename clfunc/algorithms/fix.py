"""Fix: the backbone is frozen after the first task, and each task still trains its head.

What a task can still learn from another task's features: forgetting without a `til` head is the
head's alone, and with one there is none.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.algorithms.finetuning import FinetuningState, finetuning
from clfunc.compose import lift
from clfunc.types import Algorithm, Batch, Key, Metrics, Model, Params, Transform


class FixState(NamedTuple):
    inner: FinetuningState
    frozen: Tensor  # Bool[""]: the first task has ended


def fix(model: Model, tx: Transform, *, freeze_heads: bool = False) -> Algorithm:
    """Train everything on the first task, and only the head and a task's own groups on later tasks.

    Args:
        model: Its head decides the paradigm.
        tx: The optimiser; it restarts at each task unless wrapped in `carry`.
        freeze_heads: Train nothing on later tasks.

    >>> from clfunc import fix, mlp, sgd, til
    >>> fix(mlp(64, (16,), til(5, classes=10)), sgd(0.1)).settings["freezes"]
    True
    """
    inner = finetuning(model, tx)
    lifted = lift(inner)

    def init(key: Key) -> tuple[Params, FixState]:
        params, state = inner.init(key)
        frozen = torch.zeros((), dtype=torch.bool, device=key.device)
        return params, FixState(inner=state, frozen=frozen)

    def step(params: Params, state: FixState, batch: Batch) -> tuple[Params, FixState, Metrics]:
        moved, state, metrics = lifted.step(params, state, batch)

        for group in params:
            is_head = group in ("head", *model.head.per_task)
            if freeze_heads or not is_head:
                kept = tree.where(state.frozen, params[group], moved[group])
                moved = moved | {group: kept}

        return moved, state, metrics

    def end_task(params: Params, state: FixState) -> tuple[Params, FixState]:
        params, state = lifted.end_task(params, state)
        return params, state._replace(frozen=torch.ones_like(state.frozen))

    settings = inner.settings | {
        "name": "fix",
        "freezes": True,
        "freeze_heads": freeze_heads,
    }
    return lifted._replace(init=init, step=step, end_task=end_task, settings=settings)
