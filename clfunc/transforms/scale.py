"""Transforms that multiply or add, and whose state is a number."""

from torch import Tensor

from clfunc import tree
from clfunc.types import Context, Key, Number, Params, Scalar, Settings, Transform, Updates, scalar


def scale(factor: Number) -> Transform:
    """Multiply updates by a factor.

    Args:
        factor: Any number; 1 changes nothing.

    >>> from clfunc import chain, scale, sgd
    >>> tx = chain(sgd(0.1), scale(0.5))
    """
    number = scalar(factor, "factor")

    def init(key: Key, params: Params) -> Scalar:
        return number

    def update(
        updates: Updates, state: Scalar, params: Params, context: Context
    ) -> tuple[Updates, Scalar]:
        return tree.scale(updates, state), state

    settings: Settings = {
        "name": "scale",
        "factor": number,
    }
    return Transform(init=init, update=update, settings=settings)


def add_decayed_weights(weight_decay: Number) -> Transform:
    """Add `weight_decay * params`: an L2 penalty when it stands before an optimiser.

    Args:
        weight_decay: >= 0; 0 changes nothing.

    Raises:
        ValueError: A negative number.

    >>> from clfunc import add_decayed_weights, chain, sgd
    >>> tx = chain(add_decayed_weights(1e-4), sgd(0.1))
    """
    number = scalar(weight_decay, "weight_decay", 0)

    def init(key: Key, params: Params) -> Scalar:
        return number

    def update(
        updates: Updates, state: Scalar, params: Params, context: Context
    ) -> tuple[Updates, Scalar]:
        def decayed(u: Tensor, p: Tensor) -> Tensor:
            return u + state * p

        return tree.map(decayed, updates, params), state

    settings: Settings = {
        "name": "add_decayed_weights",
        "weight_decay": number,
    }
    return Transform(init=init, update=update, settings=settings)
