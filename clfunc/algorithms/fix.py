"""Fix: the backbone is frozen after the first task, and each task still trains its head.

What a task can still learn from another task's features: forgetting without a `til` head is the head's alone, and with
one there is none.
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
    """Train everything on the first task, and only the head and a task's own on later ones (with `freeze_heads`, nothing)."""
    inner = finetuning(model, tx)
    lifted = lift(inner)

    def init(key: Key) -> tuple[Params, FixState]:
        params, state = inner.init(key)
        return params, FixState(state, torch.zeros((), dtype=torch.bool, device=key.device))

    def step(params: Params, state: FixState, batch: Batch) -> tuple[Params, FixState, Metrics]:
        moved, state, metrics = lifted.step(params, state, batch)

        held = {
            group for group in params if freeze_heads or group not in ("head", *model.head.owns)
        }
        for group in held:
            moved = moved | {group: tree.where(state.frozen, params[group], moved[group])}

        return moved, state, metrics

    def end_task(params: Params, state: FixState) -> tuple[Params, FixState]:
        params, state = lifted.end_task(params, state)
        return params, state._replace(frozen=torch.ones_like(state.frozen))

    settings = inner.settings | {"name": "fix", "freeze_heads": freeze_heads}
    return lifted._replace(init=init, step=step, end_task=end_task, settings=settings)
