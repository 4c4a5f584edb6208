"""Bounds on updates: by their norm taken together, or value by value."""

import torch

from clfunc import tree
from clfunc.types import Context, Key, Number, Params, Scalar, Transform, Updates, scalar


def clip_by_global_norm(max_norm: Number) -> Transform:
    """Scale updates so that their norm, over all parameters, is at most `max_norm` (>= 0).

    As `torch.nn.utils.clip_grad_norm_`: updates * min(1, max_norm / (norm + 1e-6)).
    """
    bound = scalar(max_norm, "max_norm", 0)

    def init(key: Key, params: Params) -> Scalar:
        return bound

    def update(
        updates: Updates, state: Scalar, params: Params, context: Context
    ) -> tuple[Updates, Scalar]:
        factor = torch.clamp(state / (tree.global_norm(updates) + 1e-6), max=1.0)
        return tree.scale(updates, factor), state

    return Transform(init, update, settings={"name": "clip_by_global_norm", "max_norm": bound})


def clip_by_value(max_value: Number) -> Transform:
    """Clamp every entry of the updates to [-max_value, max_value] (>= 0), as `clip_grad_value_`."""
    bound = scalar(max_value, "max_value", 0)

    def init(key: Key, params: Params) -> Scalar:
        return bound

    def update(
        updates: Updates, state: Scalar, params: Params, context: Context
    ) -> tuple[Updates, Scalar]:
        def clamp(u: torch.Tensor) -> torch.Tensor:
            limit = state.to(u.dtype)
            return torch.minimum(torch.maximum(u, -limit), limit)

        return tree.map(clamp, updates), state

    return Transform(init, update, settings={"name": "clip_by_value", "max_value": bound})
