"""How useful a unit is: by how active it is, how strong its outgoing weights are, and how slowly it
can change.

    activity   mean over the batch of |feature|, or of |feature - centre|
    outgoing   mean of |weight| over all weights that the unit feeds, of all its consumers
    incoming   mean of |weight| over all weights that feed the unit

    | utility                | activity | outgoing | incoming |
    |------------------------|----------|----------|----------|
    | weight                 |          | times    |          |
    | contribution           | plain    | times    |          |
    | zero_contribution      | centred  | times    |          |
    | adaptation             |          |          | 1 / it   |
    | adaptable_contribution | centred  | times    | over it  |
    | feature_by_input       | centred  |          | over it  |

Means where the papers have sums rank the units of a layer the same. Where a map is flattened
(`spread` > 1), activity and weight are multiplied position by position, then averaged over
positions.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from clfunc import tree
from clfunc.types import Model, Params, Wire
from clfunc.units.resets import into, out_of


class Utility(NamedTuple):
    """What is multiplied."""

    activity: str = ""
    outgoing: bool = False
    incoming: bool = False


utilities = {
    "weight": Utility(outgoing=True),
    "contribution": Utility("plain", outgoing=True),
    "zero_contribution": Utility("centred", outgoing=True),
    "adaptation": Utility(incoming=True),
    "adaptable_contribution": Utility("centred", outgoing=True, incoming=True),
    "feature_by_input": Utility("centred", incoming=True),
}


def utility_of(
    name: str,
    model: Model,
    params: Params,
    group: str,
    feature: Float[Tensor, "batch units positions"],
    centre: Float[Tensor, " units"],
) -> Float[Tensor, " units"]:
    """The utility of this name of each unit of a group, on one batch."""
    parts = utilities[name]
    around = feature - centre[:, None] if parts.activity == "centred" else feature
    activity = around.abs().mean(0) if parts.activity else torch.ones_like(feature[0])
    value = outgoing(model, params, group, activity) if parts.outgoing else activity.mean(1)
    return value / incoming(model, params, group) if parts.incoming else value


def outgoing(
    model: Model, params: Params, group: str, activity: Float[Tensor, "units positions"]
) -> Float[Tensor, " units"]:
    """Mean of |weight| times activity over all that a unit feeds, each consumer counting by its
    weights.
    """
    leaves = dict(tree.items(params))
    total = torch.zeros_like(activity[:, 0])
    count = 0
    for name, wire in out_of(model, group):
        strength = _strength(wire, leaves[name])
        fits = activity.shape[1] == wire.spread
        each = activity if fits else activity.mean(1, keepdim=True)
        number = leaves[name].numel() // strength.numel()
        total = total + (strength * each).mean(1) * number
        count = count + number
    return total / count


def _strength(wire: Wire, leaf: Tensor) -> Float[Tensor, "units positions"]:
    """Mean |weight| from each unit and position."""
    first = leaf.abs().movedim(wire.pre_axis or 0, 0).flatten(1).mean(1)
    return first.reshape(-1, wire.spread)


def incoming(model: Model, params: Params, group: str) -> Float[Tensor, " units"]:
    """Mean of |weight| over all that feeds a unit (not its bias or gain); eps where that is 0."""
    leaves = dict(tree.items(params))
    rows = []
    for name, wire in into(model, group):
        if wire.reset == "draw":
            strength = leaves[name].abs().movedim(wire.post_axis or 0, 0)
            rows.append(strength.flatten(1))
    mean = torch.cat(rows, 1).mean(1)
    return torch.where(mean > 0, mean, torch.finfo(mean.dtype).eps)
