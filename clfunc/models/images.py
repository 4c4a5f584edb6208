"""What the models of images share: the shape of an image, a convolution that keeps its size,
pooling.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from clfunc.types import Inputs, Params


def image_shape(inputs: int | Sequence[int]) -> tuple[int, int, int]:
    """(channels, height, width) of `(height, width)` or of itself.

    ValueError for what is no image.
    """
    shape = (inputs,) if isinstance(inputs, int) else tuple(inputs)
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(
            f"inputs must be an image, (height, width) or (channels, height, width), given {shape}"
        )
    channels, height, width = shape if len(shape) == 3 else (1, *shape)
    return channels, height, width


def as_images(x: Inputs, shape: tuple[int, int, int], like: Tensor) -> Tensor:
    """Examples as `[batch, channels, height, width]` of the parameters' dtype.

    Grey ones may lack the axis of channels.
    """
    return x.reshape(x.shape[0], *shape).to(like.dtype)


def convolved(
    x: Tensor, layer: Params, stride: int = 1, dtype: torch.dtype | None = None
) -> Tensor:
    """An odd kernel over an image padded by half of it: the size stays, or is divided by the stride
    and rounded up.

    With a `dtype` as in `layers.weighted`.
    """
    weight = layer["weight"]
    how = {"stride": stride, "padding": weight.shape[-1] // 2}
    if dtype is None:
        return conv2d(x, weight, layer["bias"], **how)
    return (
        conv2d(x.to(dtype), weight.to(dtype), **how).to(weight.dtype) + layer["bias"][:, None, None]
    )


def max_pooled(x: Tensor) -> Tensor:
    """The largest of each 2x2 square; an odd last row or column is left out.

    A reshape and `amax`, because the gradient of `max_pool2d` scatters, which may compile wrongly
    (torch 2.13, CPU).
    """
    batch, channels, height, width = x.shape
    even = x[:, :, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(batch, channels, height // 2, 2, width // 2, 2).amax((3, 5))
