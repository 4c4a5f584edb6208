"""Freezing, entry by entry: mask what moves, not what pushes.

A mask on the gradient does not freeze a weight, because momentum, Adam's moments and weight decay
move it all the same. So a mask that promises freezing stands after the optimiser: `chain(adam(),
mask_updates(mask))`.
"""

import torch
from torch import Tensor

from clfunc import tree
from clfunc.settings import digest
from clfunc.types import Context, Key, Params, Settings, State, Transform, Updates


def mask_updates(mask: Params) -> Transform:
    """Keep updates where `mask > 0`, put exactly 0 elsewhere.

    Args:
        mask: Like the parameters, or some of their groups (a group that the mask leaves out moves
            freely). Each leaf broadcasts to its parameter: a float tensor, a bool tensor, or a
            plain bool.

    Raises:
        ValueError: At `init`: the mask names a group or parameter that the parameters do not have.

    >>> from clfunc import chain, mask_updates, sgd
    >>> tx = chain(sgd(0.1), mask_updates({"hidden1": False}))
    """
    mask = tree.map(_as_tensor, mask)

    def init(key: Key, params: Params) -> State:
        _check_names(mask, params)
        return mask

    def update(
        updates: Updates, state: State, params: Params, context: Context
    ) -> tuple[Updates, State]:
        return _select(state, updates), state

    settings: Settings = {
        "name": "mask_updates",
        "mask": digest(mask),
    }
    return Transform(init=init, update=update, settings=settings)


def _as_tensor(leaf: Tensor | bool) -> Tensor:
    return leaf if isinstance(leaf, Tensor) else torch.tensor(leaf)


def _check_names(mask: Params, params: Params, within: str = "the parameters") -> None:
    """Raise ValueError where the mask names what the parameters do not have."""
    if isinstance(mask, Tensor):
        return
    unknown = sorted(set(mask) - set(params))
    if unknown:
        raise ValueError(f"mask names {unknown[0]!r}, but {within} are {', '.join(params)}")
    for name, part in mask.items():
        _check_names(part, params[name], f"the parameters of {name}")


def _select(mask: Params, updates: Updates) -> Updates:
    """Updates where the mask is above 0, and zeros elsewhere."""
    if isinstance(mask, Tensor):
        return tree.map(lambda u: torch.where(mask > 0, u, torch.zeros_like(u)), updates)
    selected = dict(updates)
    for name, part in mask.items():
        selected[name] = _select(part, updates[name])
    return selected
