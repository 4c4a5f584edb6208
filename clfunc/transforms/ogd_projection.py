"""Orthogonal gradient descent (OGD) [1]: updates are orthogonal to the gradients of what the network
said of some examples of earlier tasks.

    at a task's end, for some of its examples:  v = d z_y(x) / d params,  v <- v - V' V v,  V <- [V; v / |v|]
    g <- g - V' V g

`z_y` is the logit of the example's label ("OGD-GTL" in [1]). It stands before an optimiser, as in [1];
after it the updates themselves are orthogonal to V, whatever momentum, moments and decay do.

[1] Farajtabar et al. 2020, arXiv:1910.07104
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from clfunc import tree
from clfunc.settings import check_whole
from clfunc.types import Context, Key, Params, Scalar, State, Transform, Updates

_SAME = 1e-9  # the share of a vector that lies outside V, below which it says nothing new


class OGDState(NamedTuple):
    basis: Tensor  # [num_tasks * examples + 1, numbers]: orthonormal rows, zeros; the last is spare
    used: Tensor  # rows in use
    met: Tensor  # examples of the task under review


def ogd_projection(num_tasks: int, examples: int = 200) -> Transform:
    """Project onto what leaves earlier tasks' logits as they are, to first order.

    Args:
        num_tasks: Number of tasks, >= 1.
        examples: Of each task whose gradients are kept, >= 1: a copy of the params each. The paper's
            is 200.

    Raises:
        ValueError: A number below 1; when bound, groups of the params that are one task's at a time.

    >>> from clfunc import chain, dil, finetuning, mlp, sgd, transforms
    >>> tx = chain(transforms.ogd_projection(5, 20), sgd(0.1))
    >>> algorithm = finetuning(mlp(64, (16,), dil(5, classes=10)), tx)
    """
    check_whole(num_tasks, "num_tasks")
    check_whole(examples, "examples")

    def init(key: Key, params: Params) -> State:
        numbers = _flat(params)
        none = torch.zeros((), dtype=torch.int64, device=key.device)
        basis = numbers.new_zeros(num_tasks * examples + 1, len(numbers))
        return OGDState(basis=basis, used=none, met=none)

    def update(
        updates: Updates, state: OGDState, params: Params, context: Context
    ) -> tuple[Updates, State]:
        flat = _flat(updates)
        return _like(updates, flat - (state.basis @ flat) @ state.basis), state

    def review(state: OGDState, params: Params, context: Context) -> OGDState:
        batch = context.batch

        def score(params: Params, x: Tensor, y: Tensor, task: Tensor) -> Scalar:
            one = batch._replace(x=x[None], y=y[None], task=task, rows=(), notes={})
            return context.logits(params, one)[0].gather(0, y[None])[0]

        axes = (None, 0, 0, 0 if batch.task.ndim else None)
        gradients = vmap(grad(score), axes)(params, batch.x, batch.y, batch.task)
        order = state.met + (batch.weight > 0).cumsum(0)
        chosen = (batch.weight > 0) & (order <= examples)
        rows = vmap(_flat)(gradients).to(torch.float64)
        new, is_new = _orthonormal(rows, chosen, state.basis.to(torch.float64))

        spare = len(state.basis) - 1
        slot = state.used + is_new.cumsum(0) - 1
        slot = torch.where(is_new & (slot < spare), slot, spare)
        basis = state.basis.index_put((slot,), new.to(state.basis.dtype))
        basis = torch.cat([basis[:-1], torch.zeros_like(basis[-1:])])
        return OGDState(
            basis=basis,
            used=(state.used + is_new.sum()).clamp(max=spare),
            met=state.met + chosen.sum(),
        )

    def end_task(state: OGDState, params: Params) -> OGDState:
        return state._replace(met=torch.zeros_like(state.met))

    settings = {
        "name": "ogd_projection",
        "num_tasks": num_tasks,
        "examples": examples,
        "needs": "classes",
        "heads": "all",
        "remembers": True,
    }
    return Transform(init=init, update=update, review=review, end_task=end_task, settings=settings)


def _flat(params: Params) -> Tensor:
    return torch.cat([leaf.flatten() for leaf in tree.leaves(params)])


def _like(params: Params, flat: Tensor) -> Params:
    """The numbers in the shape of params."""
    leaves, structure = tree.flatten(params)
    parts = flat.split([leaf.numel() for leaf in leaves])
    shaped = [part.view_as(leaf) for part, leaf in zip(parts, leaves, strict=True)]
    return tree.unflatten(shaped, structure)


def _orthonormal(rows: Tensor, chosen: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """What the chosen rows add to a basis, by Gram and Schmidt in their order: orthonormal rows, and
    which of them are new.
    """
    size = torch.linalg.vector_norm(rows, dim=1)
    rest = rows
    for _ in range(2):  # twice is enough for float64
        rest = rest - (rest @ basis.T) @ basis
    chosen = chosen & (torch.linalg.vector_norm(rest, dim=1) > _SAME * size)
    for _ in range(2):
        # rows that say nothing come last, where they cannot turn the others
        first = torch.argsort((~chosen).to(torch.int8), stable=True)
        rest, size, chosen = rest[first], size[first], chosen[first]
        rest = torch.where(chosen[:, None], rest, 0.0)
        columns, triangle = torch.linalg.qr(rest.T)
        length = triangle.diagonal()
        chosen = chosen & (length.abs() > _SAME * size)
    return torch.where(chosen, length.sign(), 0.0)[:, None] * columns.T, chosen
