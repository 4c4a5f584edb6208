"""Normalisation of one example at a time, with no running statistics: over all units, or over
groups of channels.

    normalised(h) = weight * (h - mean) / sqrt(variance + 1e-5) + bias        per example and group, as `F.group_norm`

`layer` [1] takes mean and variance over all units (and the whole image), `group` [2] over groups of
neighbouring channels.

Units under a gate `g` are multiplied by it before, `normalised(g * h)`, and once more where the
model gates its activations. So the statistics, and with them every unit's output, depend only on
units whose gate is not 0. The mean still divides by the number of all units, which is constant.
Without gates every unit counts, also one whose outgoing weights are 0.

Gains and biases are `params["norm"][layer]`, a group of their own, so that a task can have them for
itself (`clfunc.models.heads.with_own`). Under a head for batches that mix tasks they are
`[tasks, units]`, and each example takes its own task's (`of_task`).

[1] Ba et al. 2016, arXiv:1607.06450   [2] Wu & He 2018, arXiv:1803.08494
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from clfunc import tree
from clfunc.bank import repeated
from clfunc.models.heads import with_own
from clfunc.models.layers import draw_layer, of_units
from clfunc.random import split
from clfunc.types import Head, Key, Params, TaskId, Wire

GROUP = 8  # channels in a group, or the next number that divides them
_EPS = 1e-5  # torch's own


def owning_head(
    head: Head, norm: str | None, per_task_norm: bool, names: tuple[str, ...] = ("layer", "group")
) -> Head:
    """The head, which owns the norms too if `per_task_norm`.

    Raises:
        ValueError: A norm that there is not, or `per_task_norm` without one or with a head for a
            single task.
    """
    if norm is not None and norm not in names:
        raise ValueError(f"norm must be {', '.join(names)} or none, given {norm!r}")
    if per_task_norm and norm is None:
        raise ValueError(
            f"per_task_norm needs a norm: give norm={' or '.join(names)}, or per_task_norm=False"
        )
    return with_own(head, ("norm",)) if per_task_norm else head


def group_count(norm: str | None, channels: int) -> int:
    """Groups of channels: one for `layer`, else as many as have the smallest size from 8 up that
    divides them.
    """
    if norm != "group" or channels <= GROUP:
        return 1
    return channels // next(size for size in range(GROUP, channels + 1) if channels % size == 0)


def start_norms(
    norm: str | None, widths: Mapping[str, int], device: torch.device, dtype: torch.dtype
) -> Params:
    """`{"norm": ...}` with gain one and bias zero for each layer; empty where there is no norm."""
    if norm is None:
        return {}

    def start(width: int) -> Params:
        return {
            "weight": torch.ones(width, dtype=dtype, device=device),
            "bias": torch.zeros(width, dtype=dtype, device=device),
        }

    return {"norm": {layer: start(width) for layer, width in widths.items()}}


def drawing(
    shapes: Mapping[str, tuple[int, ...]],
    norm: str | None,
    head: Head,
    fan_in: int,
    dtype: torch.dtype,
    gain: float | None = None,
) -> Callable[[Key], Params]:
    """The `init` of a model: layers with weights of these shapes, their norms, and a head that
    `fan_in` numbers feed.
    """

    def init(key: Key) -> Params:
        keys = split(key, len(shapes) + 1)
        layers = {}
        widths = {}
        for i, (name, shape) in enumerate(shapes.items()):
            layers[name] = draw_layer(keys[i], shape, dtype, gain)
            widths[name] = shape[0]
        norms = start_norms(norm, widths, key.device, dtype)
        if "norm" in head.spec.rows:
            norms = repeated(norms, head.num_tasks)
        return {**layers, **norms, "head": head.init(keys[-1], fan_in, dtype)}

    return init


def norm_wires(norm: str | None, posts: Mapping[str, str], head: Head) -> tuple[Wire, ...]:
    """Wires of the norms, given the unit group that each layer feeds."""
    if norm is None:
        return ()
    axis = 1 if "norm" in head.spec.rows else 0
    wires: list[Wire] = []
    for layer, post in posts.items():
        gain, bias = ("norm", layer, "weight"), ("norm", layer, "bias")
        wires.append(Wire(gain, None, post, pre_axis=None, post_axis=axis, reset="one"))
        wires.append(Wire(bias, None, post, pre_axis=None, post_axis=axis, reset="zero"))
    return tuple(wires)


def of_task(head: Head, params: Params, task: TaskId) -> Params:
    """The params with the norms of the task, or of each example's task, where all are in them."""
    if "norm" not in head.spec.rows:
        return params
    return params | {"norm": tree.take(params["norm"], task)}


def normalised(
    params: Params, layer: str, h: Tensor, gate: Tensor | None = None, groups: int = 1
) -> Tensor:
    """`h` `[batch, units, ...]` under its gate and normalised.

    `h` itself where the parameters hold no norm.
    """
    if "norm" not in params:
        return h
    gain = params["norm"][layer]
    h = h if gate is None else h * of_units(gate, h)
    parts = h.reshape(h.shape[0], groups, h.shape[1] // groups, *h.shape[2:])
    axes = tuple(range(2, parts.ndim))
    centred = parts - parts.mean(axes, keepdim=True)
    unit = centred * torch.rsqrt((centred * centred).mean(axes, keepdim=True) + _EPS)
    return unit.reshape(h.shape) * of_units(gain["weight"], h) + of_units(gain["bias"], h)
