"""Freezing, entry by entry: mask what moves, not what pushes.

A mask on the gradient does not freeze a weight, because momentum, Adam's moments and weight decay move it all the same.
So a mask that promises freezing stands after the optimiser: `chain(adam(), mask_updates(mask))`.
"""

import torch
from torch import Tensor

from clfunc import tree
from clfunc.types import Context, Key, Params, State, Transform, Updates


def mask_updates(mask: Params) -> Transform:
    """Keep updates where `mask > 0`, put exactly 0 elsewhere.

    Args:
        mask: Like the parameters, or some of their groups (a group left out moves freely); each leaf broadcasts to its
            parameter. A float tensor, a bool tensor, or a plain bool.

    Raises:
        ValueError: At `init`: the mask names a group or parameter that there is not.
    """
    mask = tree.map(lambda m: m if isinstance(m, Tensor) else torch.tensor(m), mask)
    entries, shape = tree.flatten(mask)

    def init(key: Key, params: Params) -> State:
        _check_names(mask, params)
        return tuple(
            entries
        )  # flat, and so never taken for an optimiser's memory, which `map_like` may clear

    def update(
        updates: Updates, state: State, params: Params, context: Context
    ) -> tuple[Updates, State]:
        return _select(tree.unflatten(state, shape), updates), state

    return Transform(init, update, settings={"name": "mask_updates"})


def _check_names(mask: Params, params: Params, within: str = "the parameters") -> None:
    if isinstance(mask, Tensor):
        return
    unknown = sorted(set(mask) - set(params))
    if unknown:
        raise ValueError(f"mask names {unknown[0]!r}, but {within} are {', '.join(params)}")
    for name, part in mask.items():
        _check_names(part, params[name], f"the parameters of {name}")


def _select(mask: Params, updates: Updates) -> Updates:
    if isinstance(mask, Tensor):
        return tree.map(lambda u: torch.where(mask > 0, u, torch.zeros_like(u)), updates)
    return {name: _select(mask[name], u) if name in mask else u for name, u in updates.items()}
