"""A plain convolutional network: blocks of convolution and pooling, then linear layers, with its
wires.

    h = pool(gate * activation(norm(conv(h))))      block by block, groups conv1, conv2, ...; pool halves the image
    h = gate * activation(norm(linear(h)))          after the flatten, groups hidden1, hidden2, ...

A unit of a convolution is a channel. The flatten is channel by channel, so unit c of the last block
feeds the columns `c * H * W` to `(c + 1) * H * W - 1` of the first linear layer: its wire's
`spread` is H * W.
"""

from collections.abc import Callable, Sequence

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
    dropout,
    gated,
    head_wire,
    layer_wires,
    weighted,
)
from clfunc.models.norms import drawing, group_count, norm_wires, normalised, of_task, owning_head
from clfunc.types import Head, Inputs, InputSpec, Key, Model, Output, Params, Settings, TaskId, Wire


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
    """Blocks `conv1`, ..., each convolution, norm, activation, gate, 2x2 max pool; then layers
    `hidden1`, ... and the head.

    Args:
        inputs: Shape of an image, `(height, width)` or `(channels, height, width)`.
        hidden: Width of each linear layer after the flatten; at least one.
        head: From `clfunc.models.heads`; its state belongs to the algorithm.
        channels: Channels of each block; at least one block, and no more than the image can be
            halved.
        kernel: Side of the convolutions, odd; they are padded to keep the image's size.
        activation: One of `clfunc.models.layers.activations`.
        norm: `layer` or `group` (the linear layers: over all units either way), None for none; see
            `clfunc.models.norms`.
        per_task_norm: Each task has gains and biases of its own.
        dropout_rate: Share of the linear layers' units dropped in training, in [0, 1); 0 drops
            none.
        dtype: Of the parameters, and so of the computation; torch's default if not given.
        compute_dtype: `bfloat16` multiplies the hidden layers' weights in it, and leaves all else
            (parameters, gates, norms, the head) in `dtype`; None multiplies in `dtype` too.

    `init` draws from torch's own distribution for both kinds of layer, U(-1/sqrt(fan_in),
    1/sqrt(fan_in)).

    Raises:
        ValueError: No image or one too small, no width or one below 1, an even kernel, an unknown
            activation, norm or dtype, a rate out of range.

    >>> from clfunc import convnet, til
    >>> model = convnet((8, 8), (16,), til(5, classes=10), channels=(4,))
    >>> model.units
    {'conv1': 4, 'hidden1': 16}
    """
    act = activation_named(activation)
    image = image_shape(inputs)
    check_widths("hidden", hidden)
    check_widths("channels", channels)
    check_rate(dropout_rate)
    _check_kernel(kernel, image)
    spread = _pixels_left(image, len(channels))
    head = owning_head(head, norm, per_task_norm)
    dtype = dtype or torch.get_default_dtype()
    products = compute_dtype_named(compute_dtype)
    shapes = _shapes(image[0], channels, hidden, kernel, spread)
    units = {name: shape[0] for name, shape in shapes.items()}

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
        init=drawing(shapes, norm, head, hidden[-1], dtype),
        apply=_forward(image, shapes, head, act, norm, products, dropout_rate),
        wires=_wires(shapes, head, spread) + norm_wires(norm, {name: name for name in units}, head),
        units=units,
        head=head,
        stochastic=dropout_rate > 0,
        settings=settings,
        inputs=InputSpec(image, dtype),
    )


def _forward(
    image: tuple[int, int, int],
    shapes: dict[str, tuple[int, ...]],
    head: Head,
    act: Callable[[Tensor], Tensor],
    norm: str | None,
    products: torch.dtype | None,
    dropout_rate: float,
) -> Callable[..., Output]:
    """The `apply` of a convolutional network."""
    convs = {name: shape[0] for name, shape in shapes.items() if len(shape) == 4}
    groups = {name: group_count(norm, width) for name, width in convs.items()}

    def apply(
        params: Params,
        x: Inputs,
        task: TaskId,
        *,
        gates: dict[str, Tensor] | None = None,
        gate_position: str = "post_act",
        key: Key | None = None,
    ) -> Output:
        params = of_task(head, params, task)
        features: dict[str, Tensor] = {}
        h = as_images(x, image, params["head"]["weight"])
        for layer, name in enumerate(shapes):
            gate = None if gates is None else gates[name]
            if name in convs:
                h = convolved(h, params[name], dtype=products)
                h = normalised(params, name, h, gate, groups[name])
                features[name] = gated(act, h, gate, gate_position)
                h = max_pooled(features[name])
            else:
                h = weighted(rearrange(h, "b ... -> b (...)"), params[name], products)
                h = normalised(params, name, h, gate)
                features[name] = gated(act, h, gate, gate_position)
                h = dropout(features[name], dropout_rate, key, layer)
        return Output(head.apply(params["head"], h, task), features)

    return apply


def _check_kernel(kernel: int, image: tuple[int, int, int]) -> None:
    """Raise ValueError for a kernel that no convolution of this image can have."""
    if not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be an odd number of at least 1, given {kernel}")
    if kernel > 2 * max(image[1:]):
        raise ValueError(
            f"kernel must be below twice the image's {max(image[1:])} pixels, given {kernel}"
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
    """The shape of each layer's weight: [out, in, kernel, kernel], then [out, in]."""
    shapes: dict[str, tuple[int, ...]] = {}
    fan_in = colours
    for i, width in enumerate(channels, 1):
        shapes[f"conv{i}"] = (width, fan_in, kernel, kernel)
        fan_in = width
    fan_in = fan_in * spread
    for i, width in enumerate(hidden, 1):
        shapes[f"hidden{i}"] = (width, fan_in)
        fan_in = width
    return shapes


def _wires(shapes: dict[str, tuple[int, ...]], head: Head, spread: int) -> tuple[Wire, ...]:
    """Wires of all layers, one after the other, and of the head."""
    wires: list[Wire] = []
    pre: str | None = None
    width = 0
    for name, shape in shapes.items():
        # `hidden1` multiplies pooled features, which are not those of its `pre`
        after_flatten = name == "hidden1"
        linear = len(shape) == 2 and not after_flatten
        wires += layer_wires(name, pre, name, shape, spread if after_flatten else 1, linear=linear)
        pre = name
        width = shape[0]
    return (*wires, head_wire(head, str(pre), width))
