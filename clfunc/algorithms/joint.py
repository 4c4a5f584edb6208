"""Joint (multi-task) training: all tasks at once, in mixed batches. The upper reference of continual learning.

    loss = mean over the tasks present in the batch of each one's mean cross-entropy      (average="tasks")
    loss = mean over the examples                                                         (average="examples")

Run it on `clfunc.scenarios.joint(scenario)`. A head whose task is not in the batch does not move, under any optimiser.

Caruana 1997, "Multitask learning", Machine Learning 28.
"""

from typing import Literal

import torch
from torch import Tensor

from clfunc import tree
from clfunc.algorithms.finetuning import FinetuningState, finetuning
from clfunc.losses import descend, task_cross_entropy
from clfunc.random import split
from clfunc.types import Algorithm, Batch, Metrics, Model, Params, Transform


def joint(
    model: Model, tx: Transform, *, average: Literal["tasks", "examples"] = "tasks"
) -> Algorithm:
    """Train on all tasks together.

    Args:
        model: With an `mtl` head (a head a task), or `stl` where tasks share their labels.
        tx: What makes updates of gradients.
        average: Weigh the tasks present in a batch equally, or its examples.

    Raises:
        ValueError: Another `average`, or another head.
    """
    if average not in ("tasks", "examples"):
        raise ValueError(f"average must be 'tasks' or 'examples', given {average!r}")
    if model.head.paradigm not in ("mtl", "stl"):
        raise ValueError(
            f"joint needs an mtl or stl head, given {model.head.paradigm}: use scenarios.joint(...).head()"
        )

    loss = task_cross_entropy if average == "tasks" else model.head.loss

    def step(
        params: Params, state: FinetuningState, batch: Batch
    ) -> tuple[Params, FinetuningState, Metrics]:
        key, noise = split(state.key) if model.stochastic else (state.key, None)
        task = batch.task.expand(batch.weight.shape)

        def loss_fn(params):
            output = model.apply(params, batch.x, task, key=noise)
            logits = model.head.mask(state.head, output.logits, task)
            args = (batch.weight, task) if average == "tasks" else (batch.weight,)
            told = model.head.measure(logits, batch.y, batch.weight)
            return loss(logits, batch.y, *args), (output.features, told)

        updates, opt, metrics = descend(tx, loss_fn, params, state.opt, task)
        if model.head.paradigm == "mtl":
            updates = {**updates, "head": _present(updates["head"], task, batch.weight)}

        return tree.add(params, updates), state._replace(opt=opt, key=key), metrics

    settings = {"name": "joint", "model": model.settings, "tx": tx.settings, "average": average}
    return finetuning(model, tx)._replace(step=step, settings=settings)


def _present(updates: Params, task: Tensor, weight: Tensor) -> Params:
    """Updates of the heads whose task is in the batch; exactly 0 for the others."""
    heads = updates["bias"].shape[0]
    here = ((task[:, None] == torch.arange(heads, device=task.device)) & (weight > 0)[:, None]).any(
        0
    )
    return tree.where(here, updates, tree.zeros_like(updates))
