"""Transforms that multiply or add, and remember nothing but their numbers."""

from clfunc import tree
from clfunc.types import Context, Key, Number, Params, Scalar, Transform, Updates, scalar


def scale(factor: Number) -> Transform:
    """Multiply updates by `factor` (any number; 1 changes nothing)."""
    number = scalar(factor, "factor")

    def init(key: Key, params: Params) -> Scalar:
        return number

    def update(
        updates: Updates, state: Scalar, params: Params, context: Context
    ) -> tuple[Updates, Scalar]:
        return tree.scale(updates, state), state

    return Transform(init, update, settings={"name": "scale", "factor": number})


def add_decayed_weights(weight_decay: Number) -> Transform:
    """Add `weight_decay * params` (>= 0.

    0 changes nothing): an L2 penalty when it stands before an optimiser.
    """
    number = scalar(weight_decay, "weight_decay", 0)

    def init(key: Key, params: Params) -> Scalar:
        return number

    def update(
        updates: Updates, state: Scalar, params: Params, context: Context
    ) -> tuple[Updates, Scalar]:
        return tree.map(lambda u, p: u + state * p, updates, params), state

    return Transform(init, update, settings={"name": "add_decayed_weights", "weight_decay": number})
