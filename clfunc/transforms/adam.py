"""Adam [1] and AdamW [2], as `torch.optim` computes them.

    exp_avg    = beta1 * exp_avg    + (1 - beta1) * gradient
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * gradient^2
    updates = -lr * exp_avg / (1 - beta1^step) / (sqrt(exp_avg_sq / (1 - beta2^step)) + eps)

Counted element by element, `1 - beta^step` is itself a moment, of a gradient of ones: `count = beta
* count + (1 - beta)`. It is 0 before an element's first step, so clearing an element's memory makes
that element start anew.

Adam adds its weight decay to the gradient; AdamW takes `lr * weight_decay * params` off the
parameters instead.

[1] Kingma & Ba 2015, arXiv:1412.6980   [2] Loshchilov & Hutter 2019, arXiv:1711.05101
"""

from collections.abc import Callable, Sequence
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


class AdamState(NamedTuple):
    lr: Scalar
    betas: tuple[Scalar, Scalar]
    eps: Scalar
    weight_decay: Scalar
    step: State  # 0-d; or, counted element by element, 1 - beta^step of both moments
    exp_avg: Params
    exp_avg_sq: Params


def adam(
    lr: Number = 1e-3,
    betas: Sequence[Number] = (0.9, 0.999),
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
) -> Transform:
    """Adam; `weight_decay` is an L2 penalty added to the gradient. Arguments as in `adamw`.

    >>> from clfunc import adam
    >>> tx = adam(1e-3, betas=(0.9, 0.99))
    """
    return _adam("adam", False, lr, betas, eps, weight_decay)


def adamw(
    lr: Number = 1e-3,
    betas: Sequence[Number] = (0.9, 0.999),
    eps: Number = 1e-8,
    weight_decay: Number = 1e-2,
) -> Transform:
    """Adam with decoupled weight decay.

    Args:
        lr: Learning rate, >= 0.
        betas: Decay rates of the two moments, each in [0, 1).
        eps: Added to the denominator, >= 0.
        weight_decay: Share of the parameters taken off at each step, in units of lr, >= 0.

    Raises:
        ValueError: A number out of its range.

    >>> from clfunc import adamw
    >>> tx = adamw(1e-3, weight_decay=0.01)
    """
    return _adam("adamw", True, lr, betas, eps, weight_decay)


def _adam(
    name: str,
    decoupled: bool,
    lr: Number,
    betas: Sequence[Number],
    eps: Number,
    weight_decay: Number,
    by_element: bool = False,
) -> Transform:
    rate = scalar(lr, "lr", 0)
    tiny = scalar(eps, "eps", 0)
    decay = scalar(weight_decay, "weight_decay", 0)
    if len(betas) != 2:
        raise ValueError(f"betas must be two numbers, given {betas}")
    beta1, beta2 = (scalar(beta, f"beta{i}", 0, 1, below=True) for i, beta in enumerate(betas, 1))

    def init(key: Key, params: Params) -> AdamState:
        step: State = torch.zeros((), dtype=torch.float64, device=key.device)
        if by_element:
            step = (tree.zeros_like(params), tree.zeros_like(params))
        return AdamState(
            lr=rate,
            betas=(beta1, beta2),
            eps=tiny,
            weight_decay=decay,
            step=step,
            exp_avg=tree.zeros_like(params),
            exp_avg_sq=tree.zeros_like(params),
        )

    def per_element() -> Transform:
        return _adam(name, decoupled, rate, (beta1, beta2), tiny, decay, by_element=True)

    settings = {
        "name": name,
        "lr": rate,
        "betas": (beta1, beta2),
        "eps": tiny,
        "weight_decay": decay,
    }
    return Transform(
        init=init,
        update=_update(decoupled, by_element),
        begin_task=_restarted,
        settings=settings,
        per_element=per_element,
        follows=_followed,
    )


def _update(
    decoupled: bool, by_element: bool
) -> Callable[[Updates, AdamState, Params, Context], tuple[Updates, AdamState]]:
    """The `update` of Adam, or of AdamW if its weight decay is `decoupled`."""
    count = _count_each if by_element else _count_together

    def update(
        updates: Updates, state: AdamState, params: Params, context: Context
    ) -> tuple[Updates, AdamState]:
        beta1, beta2 = state.betas
        step, step_size, root = count(state)

        def moved(m, v, p, step_size, root):
            move = -step_size * m / (v.sqrt() / root + state.eps)
            return move - state.lr * state.weight_decay * p if decoupled else move

        gradient = updates
        if not decoupled:
            gradient = tree.map(lambda g, p: g + state.weight_decay * p, updates, params)
        exp_avg = tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.exp_avg, gradient)
        exp_avg_sq = tree.map(
            lambda v, g: beta2 * v + (1 - beta2) * g * g, state.exp_avg_sq, gradient
        )
        moves = tree.map(moved, exp_avg, exp_avg_sq, params, step_size, root)
        return moves, state._replace(step=step, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)

    return update


def _restarted(state: AdamState, params: Params) -> AdamState:
    """The state as a task begins: moments and counts are 0."""
    return state._replace(
        step=tree.zeros_like(state.step),
        exp_avg=tree.zeros_like(state.exp_avg),
        exp_avg_sq=tree.zeros_like(state.exp_avg_sq),
    )


def _followed(state: AdamState) -> AdamState:
    """Moments follow their parameters, and so do counts that are kept element by element."""
    names = follows_nothing(state)
    if isinstance(state.step, tuple):
        first, second = state.step
        names = names._replace(step=(tree.names(first), tree.names(second)))
    return names._replace(
        exp_avg=tree.names(state.exp_avg),
        exp_avg_sq=tree.names(state.exp_avg_sq),
    )


def _count_together(state: AdamState) -> tuple[Scalar, Params, Params]:
    """The step, and for each element lr / (1 - beta1^step) and sqrt(1 - beta2^step)."""
    beta1, beta2 = state.betas
    step = state.step + 1
    step_size = state.lr / (1 - beta1**step)
    root = (1 - beta2**step).sqrt()
    return (
        step,
        tree.map(lambda _: step_size, state.exp_avg),
        tree.map(lambda _: root, state.exp_avg),
    )


def _count_each(state: AdamState) -> tuple[tuple[Params, Params], Params, Params]:
    """As `_count_together`, element by element."""

    def counted(counts: Params, beta: Scalar) -> Params:
        return tree.map(lambda c: beta * c + (1 - beta), counts)

    first = counted(state.step[0], state.betas[0])
    second = counted(state.step[1], state.betas[1])
    return (first, second), tree.map(lambda c: state.lr / c, first), tree.map(torch.sqrt, second)
