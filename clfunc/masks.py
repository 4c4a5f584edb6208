"""From masks over units to masks over weights, through a model's wires.

A weight lies between the unit that feeds it and the unit that it feeds, so what holds of units (used, reset, important) is
carried to weights by one of three aggregations: `min` (both), `max` (either), `mean`. A weight with one end only (the first
layer's, a bias) takes that end's value; the head's weights, which feed the logits, take none.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from clfunc import tree
from clfunc.types import Model, Params, Wire

_AGGREGATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "min": torch.minimum,
    "max": torch.maximum,
    "mean": lambda a, b: (a + b) / 2,
}


def aggregation_named(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """`min`, `max` or `mean` of two tensors; ValueError lists those there are."""
    if name not in _AGGREGATIONS:
        raise ValueError(f"aggregation must be one of {', '.join(_AGGREGATIONS)}, given {name!r}")
    return _AGGREGATIONS[name]


def along(units: Tensor, axis: int, ndim: int, spread: int = 1) -> Tensor:
    """`units` `[n]`, each repeated `spread` times, placed on `axis` of `ndim`: broadcasts against the weight."""
    repeated = units[:, None].expand(-1, spread).reshape(-1) if spread > 1 else units
    return repeated.reshape((1,) * axis + (-1,) + (1,) * (ndim - axis - 1))


def of_weight(wire: Wire, leaf: Tensor, units: Mapping[str, Tensor], aggregate: str = "min") -> Tensor | None:
    """The mask of one weight, broadcastable to `leaf`; None for a weight that feeds no unit (the head's)."""
    if wire.post is None or wire.post_axis is None:
        return None
    post = along(units[wire.post], wire.post_axis, leaf.ndim)
    if wire.pre is None or wire.pre_axis is None:
        return post
    pre = along(units[wire.pre], wire.pre_axis, leaf.ndim, wire.spread)
    return aggregation_named(aggregate)(post, pre)


def of_weights(model: Model, params: Params, units: Mapping[str, Tensor], aggregate: str = "min") -> Params:
    """A tree like `params` with each weight's mask, broadcast to its shape; 0 where no wire or no unit says otherwise."""
    wires = {".".join(wire.path): wire for wire in model.wires}

    def mask(name: str, leaf: Tensor) -> Tensor:
        found = of_weight(wires[name], leaf, units, aggregate) if name in wires else None
        return torch.zeros_like(leaf) if found is None else found.to(leaf.dtype).expand(leaf.shape)

    return tree.map_items(mask, params)
