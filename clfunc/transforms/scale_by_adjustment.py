"""HAT's adjustment around an optimiser: what earlier tasks use moves less, or not at all.

    push[w] = gradient[w] * rate[w];   updates[w] = inner(push)[w] * rate[w]        (each rate applied once, see below)

The rate of a weight comes from the masks of the two units it joins (`clfunc.hard_attention.rates`),
which an algorithm passes in `context.used`, `.claims` and `.gates`. What a task has for itself (a
head, a norm), and what feeds no unit, has rate 1.

A gradient scaled down moves an adaptive optimiser as far as before (Adam divides the scale out
again), and a gradient of 0 stops neither momentum nor weight decay. So, by default, rates act on
what moves, and weights with rate 0 are frozen in both places; `scale_at="gradients"` and
`freeze="gradients"` are what the papers write.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.compose import passing
from clfunc.hard_attention import rates as adjustment
from clfunc.random import split
from clfunc.settings import of_part
from clfunc.types import (
    Context,
    Key,
    Metrics,
    Model,
    Number,
    Params,
    Scalar,
    Settings,
    State,
    Transform,
    Updates,
    choice,
    scalar,
)

PLACES = ("updates", "gradients")


class AdjustmentState(NamedTuple):
    inner: State
    key: Key
    alpha: State  # () where the mode has none
    epsilon: Scalar
    capacity: Tensor  # mean rate of the weights between units, at the last step


def scale_by_adjustment(
    model: Model,
    inner: Transform,
    mode: str = "hat",
    alpha: Number | None = None,
    epsilon: Number = 0.1,
    *,
    no_reg: bool = False,
    freeze: str = "updates",
    scale_at: str = "updates",
) -> Transform:
    """`inner`, moving each weight by the rate that earlier tasks leave it.

    Args:
        model: Its wires say which units a weight joins.
        inner: The optimiser, whose gradient and updates are adjusted.
        mode: `hat`, `hat_random`, `hat_const_alpha`, `hat_const_1` or `adahat`: see
            `clfunc.hard_attention.rates`.
        alpha: The rate of `hat_const_alpha`, in [0, 1]; the strength of `adahat`, above 0.
        epsilon: Of `adahat`, above 0.
        no_reg: `adahat` without its layers' sparsity.
        freeze: A rate of 0 stops `updates` (and gradients), or `gradients` only.
        scale_at: A rate between 0 and 1 scales `updates` or `gradients`.

    Raises:
        ValueError: An unknown mode or place, a number out of range, an alpha missing.

    >>> from clfunc import mlp, scale_by_adjustment, sgd, til
    >>> model = mlp(64, (16,), til(5, classes=10))
    >>> tx = scale_by_adjustment(model, sgd(0.1), "adahat", alpha=1e-6)
    """
    _check(mode, alpha, freeze, scale_at)
    high = 1.0 if mode == "hat_const_alpha" else float("inf")
    strength = () if alpha is None else scalar(alpha, "alpha", 0, high, above=mode == "adahat")
    tiny = scalar(epsilon, "epsilon", 0, above=True)

    def init(key: Key, params: Params) -> AdjustmentState:
        start, draw = split(key)
        capacity = torch.ones((), dtype=tree.leaves(params)[0].dtype, device=key.device)
        return AdjustmentState(
            inner=inner.init(start, params),
            key=draw,
            alpha=strength,
            epsilon=tiny,
            capacity=capacity,
        )

    hooks = passing(inner)

    def metrics(state: AdjustmentState) -> Metrics:
        return inner.metrics(state.inner) | {"capacity": state.capacity}

    settings: Settings = {
        "name": "scale_by_adjustment",
        "model": of_part(model, model.apply),
        "tx": of_part(inner, inner.update),
        "adjustment_mode": mode,
        "epsilon": tiny,
        "alpha": None if alpha is None else strength,
        "no_reg": no_reg,
        "freeze": freeze,
        "scale_at": scale_at,
    }
    return Transform(
        init=init,
        update=_update(model, inner, mode, no_reg, freeze, scale_at),
        settings=settings,
        **(hooks | {"metrics": metrics}),
    )


def _update(
    model: Model, inner: Transform, mode: str, no_reg: bool, freeze: str, scale_at: str
) -> Callable[[Updates, AdjustmentState, Params, Context], tuple[Updates, State]]:
    """The `update` of `scale_by_adjustment`."""

    def update(
        updates: Updates, state: AdjustmentState, params: Params, context: Context
    ) -> tuple[Updates, State]:
        key, draw = split(state.key) if mode == "hat_random" else (state.key, state.key)
        rates = adjustment.rates(
            model, params, context, draw, mode, state.alpha, state.epsilon, no_reg
        )

        pushed = _scaled(updates, rates, stop=True, scale=scale_at == "gradients")
        moved, new = inner.update(pushed, state.inner, params, context)
        moved = _scaled(moved, rates, stop=freeze == "updates", scale=scale_at == "updates")

        return moved, state._replace(
            inner=new, key=key, capacity=adjustment.capacity(rates, params)
        )

    return update


def _check(mode: str, alpha: Number | None, freeze: str, scale_at: str) -> None:
    """Raise ValueError for words that are not listed, and for an alpha that is missing or that
    means nothing.
    """
    choice(mode, "adjustment_mode", adjustment.MODES)
    choice(freeze, "freeze", PLACES)
    choice(scale_at, "scale_at", PLACES)
    if mode in ("hat_const_alpha", "adahat") and alpha is None:
        raise ValueError(f"adjustment_mode={mode!r} needs alpha, given none: 1e-6 is AdaHAT's own")
    if mode in ("hat", "hat_random", "hat_const_1") and alpha is not None:
        raise ValueError(
            f"adjustment_mode={mode!r} has no alpha, given {alpha}: leave it out, or use adahat"
        )


def _scaled(updates: Updates, rates: dict[str, Tensor], *, stop: bool, scale: bool) -> Updates:
    """Updates times their rates, where those lie between 0 and 1 (`scale`) and where they are 0
    (`stop`).
    """

    def one(name: str, u: Tensor) -> Tensor:
        if name not in rates or not (stop or scale):
            return u
        rate = rates[name]
        moved = u * rate if scale else u
        return torch.where(rate > 0, moved, 0.0 if stop else u)

    return tree.map_items(one, updates)
