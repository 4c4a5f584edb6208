"""A residual network [1], with its wires: one unit group for each stage's stream, one for the
inside of each block.

    stream = gate * activation(stem(x))                                             group stage1
    inner  = gate * activation(conv1(stream))                                       group stage1_block1, ...
    stream = gate * activation(conv2(inner) + shortcut(stream))                     group stage1

A stage's stream is one group of units, since the additions tie them: its gate stands after each
addition, so that a unit with gate 0 is 0 all along the stage. The first block of every later stage
halves the image: its conv1 and its shortcut, a 1x1 convolution in place of the identity, take every
second pixel and lead from the stage before. Then come the mean over the image, linear layers if
any, and the head. With a norm, every convolution has its own, before the activation or addition.

Departs from [1]: normalisation is per example (`clfunc.models.norms`), convolutions have biases,
the stem is 3x3.

[1] He et al. 2016, arXiv:1512.03385
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clfunc.models.heads import settings_of
from clfunc.models.images import as_images, convolved, image_shape
from clfunc.models.layers import (
    activation_named,
    check_widths,
    compute_dtype_named,
    gated,
    head_wire,
    layer_wires,
    weighted,
)
from clfunc.models.norms import drawing, group_count, norm_wires, normalised, of_task, owning_head
from clfunc.types import Head, Inputs, InputSpec, Key, Model, Output, Params, Settings, TaskId, Wire


class _Layer(NamedTuple):
    """What a layer is made of: the groups at its ends and its weight's shape."""

    pre: str | None
    post: str
    shape: tuple[int, ...]


def resnet(
    inputs: int | Sequence[int],
    hidden: Sequence[int],
    head: Head,
    *,
    channels: Sequence[int] = (16, 32),
    blocks: int = 1,
    activation: str = "relu",
    norm: str | None = None,
    per_task_norm: bool = False,
    dtype: torch.dtype | None = None,
    compute_dtype: str | None = None,
) -> Model:
    """Stages of residual blocks, the mean over the image, then layers `hidden1`, ... and the head.

    Args:
        inputs: Shape of an image, `(height, width)` or `(channels, height, width)`.
        hidden: Width of each linear layer after the mean; may be empty.
        head: From `clfunc.models.heads`; its state belongs to the algorithm.
        channels: Channels of each stage; at least one.
        blocks: Blocks of each stage, >= 1.
        activation: One of `clfunc.models.layers.activations`.
        norm: `layer` or `group` (the linear layers: over all units either way), None for none; see
            `clfunc.models.norms`.
        per_task_norm: Each task has gains and biases of its own.
        dtype: Of the parameters, and so of the computation; torch's default if not given.
        compute_dtype: `bfloat16` multiplies the hidden layers' weights in it, and leaves all else
            (parameters, gates, norms, the head) in `dtype`; None multiplies in `dtype` too.

    The features of a stage are those of its last block, and groups are in the order in which
    features are computed: the last one feeds the head. `init` draws from torch's own distribution,
    U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    Raises:
        ValueError: No image, no stage, a width or number of blocks below 1, an unknown activation,
            norm or compute_dtype.

    >>> from clfunc import resnet, til
    >>> model = resnet((8, 8), (), til(5, classes=10), channels=(4, 8))
    >>> list(model.units)
    ['stage1_block1', 'stage1', 'stage2_block1', 'stage2']
    """
    act = activation_named(activation)
    image = image_shape(inputs)
    check_widths("hidden", hidden, empty=True)
    check_widths("channels", channels)
    _check_blocks(blocks)
    head = owning_head(head, norm, per_task_norm)
    dtype = dtype or torch.get_default_dtype()
    products = compute_dtype_named(compute_dtype)
    units = _units(channels, blocks, hidden)
    layers = _layers(image[0], channels, blocks, hidden)
    shapes = {name: layer.shape for name, layer in layers.items()}
    last = list(units)[-1]

    settings: Settings = {
        "name": "resnet",
        "inputs": list(image),
        "hidden": list(hidden),
        "channels": list(channels),
        "blocks": blocks,
        "activation": activation,
        "norm": norm,
        "per_task_norm": per_task_norm,
        "dtype": str(dtype),
        "compute_dtype": compute_dtype,
        "head": settings_of(head),
    }
    return Model(
        init=drawing(shapes, norm, head, units[last], dtype),
        apply=_forward(
            image, layers, units, _blocks(len(channels), blocks), head, act, products, norm
        ),
        wires=_wires(layers, norm, head, last, units[last]),
        units=units,
        head=head,
        settings=settings,
        inputs=InputSpec(image, dtype),
    )


def _forward(
    image: tuple[int, int, int],
    layers: dict[str, _Layer],
    units: dict[str, int],
    blocks: list[tuple[str, str]],
    head: Head,
    act: Callable[[Tensor], Tensor],
    products: torch.dtype | None,
    norm: str | None,
) -> Callable[..., Output]:
    """The `apply` of a residual network."""
    groups = {name: group_count(norm, layer.shape[0]) for name, layer in layers.items()}
    linear = [name for name in units if name.startswith("hidden")]

    def apply(
        params: Params,
        x: Inputs,
        task: TaskId,
        *,
        gates: dict[str, Tensor] | None = None,
        gate_position: str = "post_act",
        key: Key | None = None,
    ) -> Output:
        def gate_of(group: str) -> Tensor | None:
            return None if gates is None else gates[group]

        def made(name: str, h: Tensor, stride: int = 1) -> Tensor:
            """The convolution of this name, normalised."""
            h = convolved(h, params[name], stride, products)
            return normalised(params, name, h, gate_of(layers[name].post), groups[name])

        def active(group: str, h: Tensor) -> Tensor:
            return gated(act, h, gate_of(group), gate_position)

        params = of_task(head, params, task)
        features: dict[str, Tensor] = {}
        h = active("stage1", made("stem", as_images(x, image, params["head"]["weight"])))
        for stage, inner in blocks:
            first = f"{inner}_shortcut" in layers
            identity = made(f"{inner}_shortcut", h, 2) if first else h
            features[inner] = active(inner, made(f"{inner}_conv1", h, 2 if first else 1))
            h = active(stage, made(f"{inner}_conv2", features[inner]) + identity)
            features[stage] = h
        h = h.mean((2, 3))
        for name in linear:
            h = weighted(h, params[name], products)
            h = active(name, normalised(params, name, h, gate_of(name)))
            features[name] = h
        in_order = {name: features[name] for name in units}
        return Output(head.apply(params["head"], h, task), in_order)

    return apply


def _check_blocks(blocks: int) -> None:
    """Raise ValueError unless this is a number of blocks."""
    if not isinstance(blocks, int) or blocks < 1:
        raise ValueError(f"blocks must be a number of at least 1, given {blocks}")
    if blocks > 1000:
        raise ValueError(f"blocks must be at most 1000, given {blocks}")


def _wires(
    layers: dict[str, _Layer], norm: str | None, head: Head, last: str, width: int
) -> tuple[Wire, ...]:
    """Wires of all layers, of the head, which `width` units of the group `last` feed, and of the
    norms.
    """
    wires: list[Wire] = []
    for name, layer in layers.items():
        # the first linear layer multiplies a mean over the image, not the features of its `pre`
        linear = layer.pre is not None and layer.pre.startswith("hidden")
        wires += layer_wires(name, *layer, linear=linear)
    posts = {name: layer.post for name, layer in layers.items()}
    return (
        *wires,
        head_wire(head, last, width, linear=last.startswith("hidden")),
        *norm_wires(norm, posts, head),
    )


def _blocks(stages: int, blocks: int) -> list[tuple[str, str]]:
    """Each block's stage and inner group, in order."""
    found = []
    for s in range(1, stages + 1):
        for b in range(1, blocks + 1):
            found.append((f"stage{s}", f"stage{s}_block{b}"))
    return found


def _units(channels: Sequence[int], blocks: int, hidden: Sequence[int]) -> dict[str, int]:
    """The width of each unit group, in forward order."""
    units: dict[str, int] = {}
    for s, width in enumerate(channels, 1):
        for b in range(1, blocks + 1):
            units[f"stage{s}_block{b}"] = width
        units[f"stage{s}"] = width
    for i, width in enumerate(hidden, 1):
        units[f"hidden{i}"] = width
    return units


def _layers(
    colours: int, channels: Sequence[int], blocks: int, hidden: Sequence[int]
) -> dict[str, _Layer]:
    layers = {"stem": _Layer(None, "stage1", (channels[0], colours, 3, 3))}
    pre, width = "stage1", channels[0]
    for stage, inner in _blocks(len(channels), blocks):
        new = channels[int(stage.removeprefix("stage")) - 1]
        layers[f"{inner}_conv1"] = _Layer(pre, inner, (new, width, 3, 3))
        layers[f"{inner}_conv2"] = _Layer(inner, stage, (new, new, 3, 3))
        if stage != pre:
            layers[f"{inner}_shortcut"] = _Layer(pre, stage, (new, width, 1, 1))
        pre, width = stage, new
    for i, new in enumerate(hidden, 1):
        layers[f"hidden{i}"] = _Layer(pre, f"hidden{i}", (new, width))
        pre, width = f"hidden{i}", new
    return layers
