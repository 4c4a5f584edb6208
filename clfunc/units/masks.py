"""From masks over units to masks over weights, through a model's wires.

A weight lies between the unit that feeds it and the unit that it feeds, so what holds of units
(used, reset, important) is carried to weights by one of three aggregations: `min` (both), `max`
(either), `mean`. A weight with one end only (the first layer's, a bias) takes that end's value; the
head's weights, which feed the logits, take none.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from clfunc import tree
from clfunc.types import Model, Params, Wire, choice

AGGREGATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "min": torch.minimum,
    "max": torch.maximum,
    "mean": lambda a, b: (a + b) / 2,
}


def aggregation_named(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """`min`, `max` or `mean` of two tensors; ValueError lists those there are."""
    return AGGREGATIONS[choice(name, "aggregate", AGGREGATIONS)]


def along(units: Tensor, axis: int, ndim: int, spread: int = 1) -> Tensor:
    """`units` `[n]`, each repeated `spread` times, placed on `axis` of `ndim`: broadcasts against
    the weight.
    """
    repeated = units[:, None].expand(-1, spread).reshape(-1) if spread > 1 else units
    return repeated.reshape((1,) * axis + (-1,) + (1,) * (ndim - axis - 1))


def of_weight(
    wire: Wire, ndim: int, units: Mapping[str, Tensor], aggregate: str = "min"
) -> Tensor | None:
    """The mask of one weight of `ndim` axes, against which it broadcasts.

    None for one that feeds no unit (the head's).
    """
    if wire.post is None or wire.post_axis is None:
        return None
    post = along(units[wire.post], wire.post_axis, ndim)
    if wire.pre is None or wire.pre_axis is None:
        return post
    pre = along(units[wire.pre], wire.pre_axis, ndim, wire.spread)
    return aggregation_named(aggregate)(post, pre)


def of_wires(
    model: Model, params: Params, units: Mapping[str, Tensor], aggregate: str = "min"
) -> dict[str, Tensor]:
    """The masks of all weights that feed a unit, by dotted name.

    Each broadcasts against its weight.
    """
    ndims = {name: leaf.ndim for name, leaf in tree.items(params)}
    found = {}
    for wire in model.wires:
        name = name_of(wire)
        mask = of_weight(wire, ndims[name], units, aggregate)
        if mask is not None:
            found[name] = mask
    return found


def of_weights(
    model: Model, params: Params, units: Mapping[str, Tensor], aggregate: str = "min"
) -> Params:
    """A tree like `params` with each weight's mask, broadcast to its shape.

    0 where no wire leads to a unit.
    """
    found = of_wires(model, params, units, aggregate)

    def mask(name: str, leaf: Tensor) -> Tensor:
        return (
            found[name].to(leaf.dtype).expand(leaf.shape)
            if name in found
            else torch.zeros_like(leaf)
        )

    return tree.map_items(mask, params)


def name_of(wire: Wire) -> str:
    """The weight's dotted name: `hidden1.weight`."""
    return ".".join(wire.path)
