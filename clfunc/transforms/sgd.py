"""Stochastic gradient descent with momentum, as `torch.optim.SGD` computes it.

gradient += weight_decay * params
trace = gradient at the first step, momentum * trace + gradient after it
updates = -lr * (gradient + momentum * trace if nesterov else trace)
"""

from typing import NamedTuple

import torch

from clfunc import tree
from clfunc.types import (
    Context,
    Key,
    Number,
    Params,
    Scalar,
    State,
    Transform,
    Updates,
    follows_nothing,
    scalar,
)


class SGDState(NamedTuple):
    lr: Scalar
    weight_decay: Scalar
    momentum: State  # () where there is none
    trace: Params


def sgd(
    lr: Number = 0.01,
    momentum: Number | None = None,
    *,
    nesterov: bool = False,
    weight_decay: Number = 0.0,
) -> Transform:
    """Descend along the gradient, or along a decaying sum of gradients.

    Args:
        lr: Learning rate, >= 0.
        momentum: In [0, 1], torch's 0.9 being usual; None keeps no trace, which is less work and
            memory.
        nesterov: Look ahead by one step of momentum.
        weight_decay: L2 penalty added to the gradient, >= 0.

    Raises:
        ValueError: A number out of its range, or `nesterov` without momentum.

    >>> from clfunc import sgd
    >>> tx = sgd(0.1, momentum=0.9, weight_decay=1e-4)
    """
    if nesterov and not momentum:
        raise ValueError("nesterov needs momentum: give momentum=0.9, or nesterov=False")
    rate = scalar(lr, "lr", 0)
    decay = scalar(weight_decay, "weight_decay", 0)
    drag = () if momentum is None else scalar(momentum, "momentum", 0, 1)

    def init(key: Key, params: Params) -> SGDState:
        return SGDState(rate, decay, drag, () if momentum is None else tree.zeros_like(params))

    def update(
        updates: Updates, state: SGDState, params: Params, context: Context
    ) -> tuple[Updates, SGDState]:
        gradient = tree.map(
            lambda g, p: torch.addcmul(g, p, state.weight_decay.to(p.dtype)), updates, params
        )
        if momentum is None:
            return tree.scale(gradient, -state.lr), state
        trace = tree.map(lambda t, g: state.momentum * t + g, state.trace, gradient)
        ahead = (
            tree.map(lambda g, t: g + state.momentum * t, gradient, trace) if nesterov else trace
        )
        return tree.scale(ahead, -state.lr), state._replace(trace=trace)

    def begin_task(state: SGDState, params: Params) -> SGDState:
        return state._replace(trace=tree.zeros_like(state.trace))

    def follows(state: SGDState) -> SGDState:
        return follows_nothing(state)._replace(trace=tree.names(state.trace))

    settings = {
        "name": "sgd",
        "lr": rate,
        "weight_decay": decay,
        "nesterov": nesterov,
        "momentum": None if momentum is None else drag,
    }
    return Transform(
        init=init,
        update=update,
        begin_task=begin_task,
        settings=settings,
        follows=follows,
    )
