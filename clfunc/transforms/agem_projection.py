"""Averaged gradient episodic memory (A-GEM) [1]: a gradient that would raise the loss of remembered
examples loses the part that does.

    r = the gradient of the loss of examples of earlier tasks
    g <- g - (g.r / r.r) r        where g.r < 0;  g as it is elsewhere

Departs from the code of [2], which keeps one mini-batch of each task whatever its memory's size.

[1] Chaudhry et al. 2019, arXiv:1812.00420   [2] aimagelab/mammoth
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.settings import check_whole
from clfunc.types import Context, Key, Metrics, Params, State, Transform, Updates


class AGEMState(NamedTuple):
    key: Key
    projected: Tensor  # 1 where the last gradient was, else 0; its mean is the share of steps


def agem_projection(batch: int) -> Transform:
    """Project the gradient where it opposes that of examples of earlier tasks.

    It stands before the optimiser, and needs a memory: `chain(agem_projection(32), sgd(0.1))`.

    Args:
        batch: Examples to draw at each step, >= 1.

    Raises:
        ValueError: A number below 1.

    >>> from clfunc import chain, dil, finetuning, memories, mlp, sgd, transforms
    >>> tx = chain(transforms.agem_projection(32), sgd(0.1))
    >>> model = mlp(64, (16,), dil(5, classes=10))
    >>> algorithm = finetuning(model, tx, memory=memories.reservoir(500))
    """
    check_whole(batch, "batch")

    def init(key: Key, params: Params) -> State:
        return AGEMState(key=key, projected=torch.zeros((), device=key.device))

    def update(
        updates: Updates, state: AGEMState, params: Params, context: Context
    ) -> tuple[Updates, State]:
        reference = context.gradient(context.draw(state.key, batch, earlier=True))

        along = tree.vdot(updates, reference)
        size = tree.vdot(reference, reference)
        opposed = along < 0
        factor = torch.where(opposed, along / torch.where(size > 0, size, 1.0), 0.0)
        projected = tree.map(lambda u, r: u - factor * r, updates, reference)

        return projected, state._replace(projected=opposed.to(state.projected.dtype))

    def metrics(state: AGEMState) -> Metrics:
        return {"projected": state.projected}

    settings = {
        "name": "agem_projection",
        "batch": batch,
        "draws": batch,
        "place": "gradient",
    }
    return Transform(init=init, update=update, metrics=metrics, settings=settings)
