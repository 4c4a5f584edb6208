"""Maximally interfered retrieval (MIR) [1]: replay of the remembered examples that the coming step
would harm most.

    params_v = params - lr * gradient of the batch's loss
    of some candidates, the `batch` of largest  l(x; params_v) - l(x; params)  are replayed

Paper: alpha -> lr, the subset of size C -> candidates, k -> batch. The virtual step is plain SGD, as in
the authors' code, whatever the optimiser.

[1] Aljundi et al. 2019, arXiv:1908.04742
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from clfunc import tree
from clfunc.settings import check_whole
from clfunc.terms.replay import MEANS, joined, replay
from clfunc.types import (
    Batch,
    Context,
    Key,
    Model,
    Number,
    Params,
    Scalar,
    State,
    Task,
    Term,
    choice,
    scalar,
)


class MIRState(NamedTuple):
    lr: Scalar
    replay: State


def mir(
    batch: int,
    candidates: int,
    strength: Number = 1.0,
    *,
    lr: Number = 0.1,
    mean: str = "union",
    name: str = "mir",
) -> Term:
    """The loss of the remembered examples whose loss the batch's gradient raises most.

    Args:
        batch: Examples to replay at each step, in [1, candidates].
        candidates: Examples to draw at each step, and choose from.
        strength: Weight of the replayed ones beside the batch's, >= 0; 0 is none.
        lr: Of the virtual step, > 0.
        mean: `union`, `sum`, `balanced` or `by_task`; see `terms.replay`.
        name: Of the term.

    Raises:
        ValueError: A number out of its range, or an unknown mean.

    >>> from clfunc import dil, finetuning, memories, mlp, sgd, terms
    >>> model = mlp(64, (16,), dil(5, classes=10))
    >>> algorithm = finetuning(
    ...     model, sgd(0.1), terms=(terms.mir(16, 50),), memory=memories.reservoir(500)
    ... )
    """
    rate = scalar(lr, "lr", 0, above=True)
    choice(mean, "mean", MEANS)
    check_whole(candidates, "candidates")
    inner = replay(batch, strength, mean=mean)
    if batch > candidates:
        raise ValueError(f"batch must be in [1, {candidates}], the candidates, given {batch}")

    def init(key: Key, params: Params, model: Model) -> MIRState:
        return MIRState(lr=rate, replay=inner.init(key, params, model))

    def loss(s: MIRState, params: Params, context: Context) -> Scalar:
        met = context.draw(s.replay.key, candidates, earlier=mean == "by_task")
        now = tree.map(torch.detach, params)
        gradient = context.gradient(context.batch)
        ahead = {}
        for group, part in now.items():
            ahead[group] = tree.sub(part, tree.scale(gradient[group], s.lr))
        rise = _each_loss(ahead, met, context) - _each_loss(now, met, context)
        rise = torch.where(met.weight > 0, rise, -torch.inf)
        drawn = tree.index(met, torch.topk(rise, batch).indices)
        return joined(s.replay, context, drawn, context.loss(params, drawn), mean)

    def begin_task(s: MIRState, params: Params, task: Task) -> MIRState:
        return s._replace(replay=inner.begin_task(s.replay, params, task))

    settings = inner.settings | {"lr": rate, "candidates": candidates, "draws": candidates}
    return Term(name=name, init=init, loss=loss, begin_task=begin_task, settings=settings)


def _each_loss(params: Params, batch: Batch, context: Context) -> Tensor:
    """The loss of each example, `[batch]`, whatever its weight."""
    counted = batch._replace(weight=torch.ones_like(batch.weight))

    def one(example: Batch) -> Scalar:
        return context.loss(params, tree.map(lambda leaf: leaf[None], example))

    return vmap(one)(counted)
