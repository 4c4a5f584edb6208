"""Gradient episodic memory (GEM) [1]: the gradient is turned as little as it must, so that it raises
the loss of no earlier task's remembered examples.

    G_k = the gradient of the loss of all remembered examples of task k, for each task k but this one
    g <- g + G' v   where any G_k.g < 0;  g as it is elsewhere
    v = argmin over v >= margin of  1/2 v'(G G' + 0.001 I) v + (G g)' v

Paper: gamma -> margin. With a margin, one violation adds at least that much of *every* earlier task's
gradient, as in the authors' code.

[1] Lopez-Paz & Ranzato 2017, arXiv:1706.08840
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from clfunc import tree
from clfunc.settings import check_whole
from clfunc.transforms.quadratic_program import solve_above
from clfunc.types import (
    Context,
    Key,
    Metrics,
    Number,
    Params,
    Scalar,
    State,
    Transform,
    Updates,
    scalar,
)

_RIDGE = 1e-3  # the authors'; it keeps the program strictly convex


class GEMState(NamedTuple):
    margin: Scalar
    projected: Tensor  # 1 where the last gradient was, else 0; its mean is the share of steps


def gem_projection(num_tasks: int, margin: Number = 0.5) -> Transform:
    """Project the gradient onto those that oppose no earlier task's.

    It stands before the optimiser, and needs a memory that keeps the tasks apart:
    `chain(gem_projection(5), sgd(0.1))` with `memories.ring(500, num_tasks=5)`.

    Args:
        num_tasks: Number of tasks of the memory, >= 1. A step takes a backward pass for each.
        margin: The least share of each earlier gradient that is added, >= 0; the paper's is 0.5.

    Raises:
        ValueError: A number out of its range; when bound, a memory that mixes tasks.

    >>> from clfunc import chain, dil, finetuning, memories, mlp, sgd, transforms
    >>> tx = chain(transforms.gem_projection(5), sgd(0.1))
    >>> model = mlp(64, (16,), dil(5, classes=10))
    >>> algorithm = finetuning(model, tx, memory=memories.ring(500, num_tasks=5))
    """
    check_whole(num_tasks, "num_tasks")
    least = scalar(margin, "margin", 0)

    def init(key: Key, params: Params) -> State:
        return GEMState(margin=least, projected=torch.zeros((), device=key.device))

    def update(
        updates: Updates, state: GEMState, params: Params, context: Context
    ) -> tuple[Updates, State]:
        if context.task.ndim:
            raise ValueError(
                "a batch that mixes tasks has none before it: gem_projection is for one task at a time"
            )
        each = tree.map(lambda leaf: leaf.unflatten(0, (num_tasks, -1)), context.remembered())
        is_earlier = (each.weight > 0).any(1) & (each.task[:, 0] != context.task)
        gradients = vmap(context.gradient)(each)
        gradients = tree.where(is_earlier, gradients, tree.zeros_like(gradients))

        along = _products(gradients, tree.map(lambda leaf: leaf[None], updates))[:, 0]
        opposed = (along < 0).any()
        ridge = _RIDGE * torch.eye(num_tasks, dtype=along.dtype, device=along.device)
        v = solve_above(_products(gradients, gradients) + ridge, along, state.margin)

        def turned(u: Tensor, g: Tensor) -> Tensor:
            return torch.where(opposed, u + (v.to(g.dtype) @ g.flatten(1)).view_as(u), u)

        projected = opposed.to(state.projected.dtype)
        return tree.map(turned, updates, gradients), state._replace(projected=projected)

    def metrics(state: GEMState) -> Metrics:
        return {"projected": state.projected}

    settings = {
        "name": "gem_projection",
        "num_tasks": num_tasks,
        "margin": least,
        "draws": num_tasks,
        "apart": num_tasks,
        "place": "gradient",
    }
    return Transform(init=init, update=update, metrics=metrics, settings=settings)


def _products(a: Updates, b: Updates) -> Tensor:
    """The inner products of the rows of two trees, `[rows of a, rows of b]`, in float64."""
    parts = []
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        parts.append((x.flatten(1) @ y.flatten(1).T).to(torch.float64))
    return torch.stack(parts).sum(0)
