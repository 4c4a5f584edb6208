"""Comparisons of trees: to the bit, and to rounding."""

from typing import Any

import torch
from torch import Tensor

from clfunc import tree

# How far two computations of a step may be apart, as `distance` measures it.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
_INTEGER_OF_SIZE = {8: torch.int64, 4: torch.int32, 2: torch.int16}  # by bytes of a number


def identical(a: Any, b: Any) -> bool:
    """Whether two trees have the same structure, shapes, dtypes and bits.

    Equal bits are more than equal numbers: a NaN is identical to itself, and -0 is not 0.

    >>> import torch
    >>> from clfunc.testing.compare import identical
    >>> nan = torch.tensor(float("nan"))
    >>> identical({"x": nan}, {"x": nan.clone()})
    True
    """
    if tree.structure(a) != tree.structure(b):
        return False
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        if x.dtype != y.dtype or x.shape != y.shape:
            return False
        if not torch.equal(_bits(x), _bits(y)):
            return False
    return True


def _bits(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        return x
    return x.contiguous().view(_INTEGER_OF_SIZE[x.element_size()])


def distance(a: Any, b: Any) -> float:
    """The largest difference between two trees.

    The difference of a leaf is relative to its largest entry, if that is above 1.

    Raises:
        AssertionError: Two leaves have different shapes or dtypes, or one is finite where the other
            is not.

    >>> import torch
    >>> from clfunc.testing.compare import distance
    >>> distance({"x": torch.tensor([1.0, 4.0])}, {"x": torch.tensor([2.0, 4.0])})
    0.25
    """
    worst = 0.0
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape, (
            f"{x.dtype} {list(x.shape)} beside {y.dtype} {list(y.shape)}"
        )
        if x.numel() == 0:
            continue
        x = x.to(torch.float64)
        y = y.to(torch.float64)
        assert torch.equal(x.isfinite(), y.isfinite()), "one is finite where the other is not"
        x = torch.where(x.isfinite(), x, 0.0)
        y = torch.where(y.isfinite(), y, 0.0)
        difference = (x - y).abs().max()
        scale = x.abs().max().clamp(min=1.0)
        worst = max(worst, float(difference / scale))
    return worst
