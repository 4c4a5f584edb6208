"""Joint (multi-task) training: all tasks at once, in mixed batches. The upper reference of
continual learning.

    loss = mean over the tasks present in the batch of each one's mean cross-entropy      (average="tasks")
    loss = mean over the examples                                                         (average="examples")

Run it on `clfunc.scenarios.joint(scenario)`. A head whose task is not in the batch does not move,
under any optimiser.

Caruana 1997, "Multitask learning", Machine Learning 28.
"""

from typing import Literal

import torch
from torch import Tensor

from clfunc import tree
from clfunc.algorithms.finetuning import FinetuningState, finetuning
from clfunc.losses import descend, task_cross_entropy
from clfunc.random import split
from clfunc.types import Algorithm, Batch, Logits, Metrics, Model, Params, Transform


def joint(
    model: Model, tx: Transform, *, average: Literal["tasks", "examples"] = "tasks"
) -> Algorithm:
    """Train on all tasks together.

    Args:
        model: With an `mtl` head (a head a task), or `stl` where tasks share their labels.
        tx: The optimiser.
        average: Weigh the tasks present in a batch equally, or its examples.

    Raises:
        ValueError: Another `average`, or another head.

    >>> from clfunc import joint, mlp, mtl, sgd
    >>> algorithm = joint(mlp(64, (16,), mtl(5, classes=10)), sgd(0.1))
    >>> algorithm.settings["mixes"]
    True
    """
    if average not in ("tasks", "examples"):
        raise ValueError(f"average must be 'tasks' or 'examples', given {average!r}")
    head = model.head
    if not (head.spec.together or head.paradigm == "stl"):
        raise ValueError(
            f"joint needs an mtl or stl head, given {head.paradigm}:"
            " use scenarios.joint(...).head()"
        )

    def loss_of(logits: Logits, batch: Batch, task: Tensor) -> Tensor:
        if average == "tasks":
            return task_cross_entropy(logits, batch.y, batch.weight, task)
        return head.loss(logits, batch.y, batch.weight)

    def step(
        params: Params, state: FinetuningState, batch: Batch
    ) -> tuple[Params, FinetuningState, Metrics]:
        key, noise = split(state.key) if model.stochastic else (state.key, None)
        task = batch.task.expand(batch.weight.shape)

        def loss_fn(params):
            output = model.apply(params, batch.x, task, key=noise)
            logits = head.mask(state.head, output.logits, task)
            metrics = head.measure(logits, batch.y, batch.weight)
            return loss_of(logits, batch, task), (output.features, metrics)

        updates, opt, metrics = descend(tx, loss_fn, params, state.opt, task)

        if head.spec.together:
            updates = {**updates, "head": _present(updates["head"], task, batch.weight)}

        return tree.add(params, updates), state._replace(opt=opt, key=key), metrics

    inner = finetuning(model, tx)
    settings = inner.settings | {"name": "joint", "mixes": True, "average": average}
    return inner._replace(step=step, settings=settings)


def _present(updates: Params, task: Tensor, weight: Tensor) -> Params:
    """Updates of the heads whose task is in the batch; exactly 0 for the others."""
    heads = torch.arange(updates["bias"].shape[0], device=task.device)
    member = (task[:, None] == heads) & (weight > 0)[:, None]
    return tree.where(member.any(0), updates, tree.zeros_like(updates))
