"""Bounds on updates: by their norm taken together, or value by value."""

import torch
from torch import Tensor

from clfunc import tree
from clfunc.types import Context, Key, Number, Params, Scalar, Settings, Transform, Updates, scalar


def clip_by_global_norm(max_norm: Number) -> Transform:
    """Scale updates so that their norm, over all parameters, is at most `max_norm`.

    As `torch.nn.utils.clip_grad_norm_`: updates * min(1, max_norm / (norm + 1e-6)).

    Args:
        max_norm: The largest norm, >= 0.

    Raises:
        ValueError: A negative norm.

    >>> from clfunc import chain, clip_by_global_norm, sgd
    >>> tx = chain(clip_by_global_norm(1.0), sgd(0.1))
    """
    bound = scalar(max_norm, "max_norm", 0)

    def init(key: Key, params: Params) -> Scalar:
        return bound

    def update(
        updates: Updates, state: Scalar, params: Params, context: Context
    ) -> tuple[Updates, Scalar]:
        norm = tree.global_norm(updates)
        factor = torch.clamp(state / (norm + 1e-6), max=1.0)
        return tree.scale(updates, factor), state

    settings: Settings = {
        "name": "clip_by_global_norm",
        "max_norm": bound,
    }
    return Transform(init=init, update=update, settings=settings)


def clip_by_value(max_value: Number) -> Transform:
    """Clamp every entry of the updates to [-max_value, max_value], as `clip_grad_value_`.

    Args:
        max_value: The largest absolute value, >= 0.

    Raises:
        ValueError: A negative value.

    >>> from clfunc import chain, clip_by_value, sgd
    >>> tx = chain(clip_by_value(0.5), sgd(0.1))
    """
    bound = scalar(max_value, "max_value", 0)

    def init(key: Key, params: Params) -> Scalar:
        return bound

    def update(
        updates: Updates, state: Scalar, params: Params, context: Context
    ) -> tuple[Updates, Scalar]:
        def clamp(u: Tensor) -> Tensor:
            limit = state.to(u.dtype)
            return torch.minimum(torch.maximum(u, -limit), limit)

        return tree.map(clamp, updates), state

    settings: Settings = {
        "name": "clip_by_value",
        "max_value": bound,
    }
    return Transform(init=init, update=update, settings=settings)
