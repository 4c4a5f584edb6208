"""A plain convolutional network: blocks of convolution and pooling, then linear layers, with its wires.

    h = pool(gate * activation(norm(conv(h))))      block by block, groups conv1, conv2, ...; pool halves the image
    h = gate * activation(norm(linear(h)))          after the flatten, groups hidden1, hidden2, ...

A unit of a convolution is a channel. The flatten is channel by channel, so unit c of the last block feeds the columns
`c * H * W` to `(c + 1) * H * W - 1` of the first linear layer: its wire's `spread` is H * W.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from clfunc.models.heads import settings_of
from clfunc.models.images import as_images, convolved, image_shape, max_pooled
from clfunc.models.layers import (
    activation_named,
    check_rate,
    check_widths,
    compute_dtype_named,
    draw_layer,
    dropout,
    gated,
    head_wire,
    layer_wires,
    weighted,
)
from clfunc.models.norms import group_count, norm_wires, normalised, owning_head, start_norms
from clfunc.random import split
from clfunc.types import Head, Inputs, Key, Model, Output, Params, Settings, TaskId, Wire


def convnet(
    inputs: int | Sequence[int],
    hidden: Sequence[int],
    head: Head,
    *,
    channels: Sequence[int] = (32, 64),
    kernel: int = 3,
    activation: str = "relu",
    norm: str | None = None,
    per_task_norm: bool = False,
    dropout_rate: float = 0.0,
    dtype: torch.dtype | None = None,
    compute_dtype: str | None = None,
) -> Model:
    """Blocks `conv1`, ..., each convolution, norm, activation, gate, 2x2 max pool; then layers `hidden1`, ... and the head.

    Args:
        inputs: Shape of an image, `(height, width)` or `(channels, height, width)`.
        hidden: Width of each linear layer after the flatten; at least one.
        head: From `clfunc.models.heads`; its state belongs to the algorithm.
        channels: Channels of each block; at least one block, and no more than the image can be halved.
        kernel: Side of the convolutions, odd; they are padded to keep the image's size.
        activation: One of `clfunc.models.layers.activations`.
        norm: `layer` or `group` (the linear layers: over all units either way), None for none; see `clfunc.models.norms`.
        per_task_norm: Each task has gains and biases of its own.
        dropout_rate: Share of the linear layers' units dropped in training, in [0, 1); 0 drops none.
        dtype: Of the parameters, and so of the computation; torch's default if not given.
        compute_dtype: `bfloat16` multiplies the hidden layers' weights in it, and leaves all else (parameters, gates, norms,
            the head) in `dtype`; None multiplies in `dtype` too.

    `init` draws from torch's own distribution for both kinds of layer, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    Raises:
        ValueError: No image or one too small, no width or one below 1, an even kernel, an unknown activation, norm or dtype, a
            rate out of range.
    """
    act, image = activation_named(activation), image_shape(inputs)
    check_widths("hidden", hidden)
    check_widths("channels", channels)
    check_rate(dropout_rate)
    if not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be an odd number of at least 1, given {kernel}")
    if kernel > 2 * max(image[1:]):
        raise ValueError(
            f"kernel must be below twice the image's {max(image[1:])} pixels, given {kernel}"
        )
    spread = _pixels_left(image, len(channels))
    head = owning_head(head, norm, per_task_norm)
    dtype, products = dtype or torch.get_default_dtype(), compute_dtype_named(compute_dtype)
    convs = {f"conv{i}": width for i, width in enumerate(channels, 1)}
    units = convs | {f"hidden{i}": width for i, width in enumerate(hidden, 1)}
    groups = {name: group_count(norm, width) for name, width in convs.items()}
    shapes = _shapes(image[0], channels, hidden, kernel, spread)

    def init(key: Key) -> Params:
        keys = split(key, len(units) + 1)
        layers = {
            name: draw_layer(keys[i], shape, dtype)
            for i, (name, shape) in enumerate(shapes.items())
        }
        norms = start_norms(norm, units, key.device, dtype)
        return {**layers, **norms, "head": head.init(keys[-1], hidden[-1], dtype)}

    def apply(
        params: Params,
        x: Inputs,
        task: TaskId,
        *,
        gates: dict[str, Tensor] | None = None,
        gate_position: str = "post_act",
        key: Key | None = None,
    ) -> Output:
        features: dict[str, Tensor] = {}
        h = as_images(x, image, params["head"]["weight"])
        for layer, name in enumerate(units):
            gate = None if gates is None else gates[name]
            if name in convs:
                h = normalised(
                    params, name, convolved(h, params[name], dtype=products), gate, groups[name]
                )
                features[name] = gated(act, h, gate, gate_position)
                h = max_pooled(features[name])
            else:
                h = weighted(rearrange(h, "b ... -> b (...)"), params[name], products)
                features[name] = gated(act, normalised(params, name, h, gate), gate, gate_position)
                h = dropout(features[name], dropout_rate, key, layer)
        return Output(head.apply(params["head"], h, task), features)

    settings: Settings = {
        "name": "convnet",
        "inputs": list(image),
        "hidden": list(hidden),
        "channels": list(channels),
        "kernel": kernel,
        "activation": activation,
        "norm": norm,
        "per_task_norm": per_task_norm,
        "dropout_rate": dropout_rate,
        "dtype": str(dtype),
        "compute_dtype": compute_dtype,
        "head": settings_of(head),
    }
    return Model(
        init=init,
        apply=apply,
        wires=_wires(shapes, head, spread) + norm_wires(norm, {name: name for name in units}),
        units=units,
        head=head,
        stochastic=dropout_rate > 0,
        settings=settings,
    )


def _pixels_left(image: tuple[int, int, int], pools: int) -> int:
    """Pixels of the image after this many halvings; ValueError where there are none."""
    height, width = image[1] >> pools, image[2] >> pools
    if not height * width:
        most = min(image[1:]).bit_length() - 1
        raise ValueError(
            f"channels must hold at most {most} blocks for images of {image[1]}x{image[2]}, given {pools}"
        )
    return height * width


def _shapes(
    colours: int, channels: Sequence[int], hidden: Sequence[int], kernel: int, spread: int
) -> dict[str, tuple[int, ...]]:
    """Weight of each layer: [out, in, kernel, kernel], then [out, in]."""
    fans = (colours, *channels), (channels[-1] * spread, *hidden)
    convs = {
        f"conv{i}": (n, m, kernel, kernel)
        for i, (n, m) in enumerate(zip(channels, fans[0], strict=False), 1)
    }
    return convs | {
        f"hidden{i}": (n, m) for i, (n, m) in enumerate(zip(hidden, fans[1], strict=False), 1)
    }


def _wires(shapes: dict[str, tuple[int, ...]], head: Head, spread: int) -> tuple[Wire, ...]:
    names = list(shapes)
    wires: list[Wire] = []
    for (name, shape), pre in zip(shapes.items(), [None, *names], strict=False):
        wires += layer_wires(name, pre, name, shape, spread if name == "hidden1" else 1)
    return (*wires, head_wire(head, names[-1], shapes[names[-1]][0]))
