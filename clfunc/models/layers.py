"""What the models share: activations by name, torch's own initial distribution, dropout as a
function of a key, wires.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral

import torch
from torch import Tensor
from torch.nn import functional as F

from clfunc import tree
from clfunc.random import split, uniform
from clfunc.types import Head, Key, Params, Wire, choice

activations: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}

_WIDEST = 2**24  # so that no size overflows


def crelu(h: Tensor) -> Tensor:
    """relu(h) and relu(-h) on a new last axis: two outputs a unit, of which one is alive wherever h
    is not 0.
    """
    return torch.stack((F.relu(h), F.relu(-h)), -1)


def activation_named(
    name: str, more: Mapping[str, Callable[[Tensor], Tensor]] | None = None
) -> Callable[[Tensor], Tensor]:
    """The activation of this name, also among `more` that only one model takes.

    ValueError lists those there are.
    """
    known = activations | dict(more or {})
    return known[choice(name, "activation", known)]


def check_widths(name: str, widths: Sequence[int], *, empty: bool = False) -> None:
    """Raise ValueError unless these are widths of layers: whole numbers from 1 up, at least one
    unless `empty`.
    """
    if (not widths and not empty) or not all(isinstance(w, Integral) and w >= 1 for w in widths):
        count = "only widths" if empty else "at least one width"
        raise ValueError(f"{name} must hold {count} of at least 1, given {list(widths)}")
    if widths and max(widths) > _WIDEST:
        raise ValueError(f"{name} must hold widths of at most {_WIDEST}, given {max(widths)}")


def check_rate(rate: float) -> None:
    """Raise ValueError unless this is a rate of dropout."""
    if not 0 <= rate < 1:
        raise ValueError(f"dropout_rate must be in [0, 1), given {rate}")


def compute_dtype_named(name: str | None) -> torch.dtype | None:
    """The dtype in which a model multiplies, None for its parameters' own.

    ValueError lists those there are.
    """
    return (
        None
        if name is None
        else {"bfloat16": torch.bfloat16}[choice(name, "compute_dtype", ("bfloat16",))]
    )


def weighted(x: Tensor, layer: Params, dtype: torch.dtype | None) -> Tensor:
    """A linear layer, multiplied in `dtype` if one is given.

    Its output is in the weights' own, and the bias is added in it.
    """
    weight = layer["weight"]
    if dtype is None:
        return F.linear(x, weight, layer["bias"])
    return F.linear(x.to(dtype), weight.to(dtype)).to(weight.dtype) + layer["bias"]


def gated(act: Callable[[Tensor], Tensor], h: Tensor, gate: Tensor | None, position: str) -> Tensor:
    """`act(h)` times a gate on each unit (axis 1): on the activation (`post_act`) or on what it is
    given (`pre_act`).
    """
    if gate is None:
        return act(h)
    given = act(h) if position == "post_act" else h
    given = given * of_units(gate, given)
    return given if position == "post_act" else act(given)


def of_units(values: Tensor, h: Tensor) -> Tensor:
    """A number for each unit, placed on axis 1 of `h`, in its dtype.

    `values` is `[units]`, or `[batch, units]` where each example has numbers of its own.
    """
    return tree.expand_last(values, values.ndim + h.ndim - 2).to(h.dtype)


def draw_layer(
    key: Key, shape: tuple[int, ...], dtype: torch.dtype, gain: float | None = None
) -> Params:
    """Weight of this shape and bias `[shape[0]]`: from `nn.Linear`'s distribution, U(-b, b) with b
    = 1/sqrt(fan_in).

    With a gain, the weight is Kaiming's (He et al. 2015, arXiv:1502.01852), b = gain
    sqrt(3/fan_in), and the bias 0.
    """
    bound = init_bound(shape, gain)
    first, second = split(key)
    bias = uniform(second, shape[:1], -bound, bound, dtype=dtype)
    return {
        "weight": uniform(first, shape, -bound, bound, dtype=dtype),
        "bias": bias if gain is None else torch.zeros_like(bias),
    }


def init_bound(shape: tuple[int, ...], gain: float | None = None) -> float:
    """Bound of the initial draw of a weight whose first axis is its output: 1/sqrt(fan_in), or
    Kaiming's with a gain.
    """
    return (1.0 if gain is None else gain * math.sqrt(3)) * math.prod(shape[1:]) ** -0.5


def gain_of(weight_init: str, activation: str) -> float | None:
    """Gain of Kaiming's draw for an activation, as `torch.nn.init.calculate_gain`.

    None for torch's own draw.
    """
    choice(weight_init, "weight_init", ("torch", "kaiming"))
    gains = {
        "tanh": 5 / 3,
        "sigmoid": 1.0,
        "identity": 1.0,
        "leaky_relu": math.sqrt(2 / (1 + 0.01**2)),
    }
    return gains.get(activation, math.sqrt(2)) if weight_init == "kaiming" else None


def layer_wires(
    layer: str,
    pre: str | None,
    post: str,
    shape: tuple[int, ...],
    spread: int = 1,
    gain: float | None = None,
    linear: bool = False,
) -> tuple[Wire, Wire]:
    """Wires of a layer's weight of this shape, `[post, pre, ...]`, and of its bias.

    `linear` says that the layer multiplies the flat features of `pre`, or the flat input.
    """
    bound = init_bound(shape, gain)
    return (
        Wire((layer, "weight"), pre, post, spread=spread, bound=bound, linear=linear),
        Wire((layer, "bias"), None, post, pre_axis=None, reset="zero"),
    )


def head_wire(head: Head, pre: str, width: int, spread: int = 1, linear: bool = True) -> Wire:
    """The wire of the head's weight, fed by `width` units; `linear` as in `layer_wires`.

    Its bias has no unit at either end, and so none.
    """
    return Wire(
        path=("head", "weight"),
        pre=pre,
        post=None,
        pre_axis=2 if "head" in head.spec.rows else 1,
        post_axis=None,
        spread=spread,
        bound=init_bound((1, width * spread)),
        linear=linear,
    )


def dropout(x: Tensor, rate: float, key: Key | None, layer: int) -> Tensor:
    """Zero a share `rate` of the entries and scale up the rest.

    The identity without a key. `layer` tells draws apart.
    """
    if key is None or rate == 0.0:
        return x
    kept = uniform(key, tuple(x.shape), at=layer, dtype=torch.float32) >= rate
    return torch.where(kept, x / (1 - rate), torch.zeros_like(x))
