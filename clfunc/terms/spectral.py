"""Spectral regularisation [1]: the largest singular value of every layer stays near 1, so that the
network stays able to learn.

    penalty = strength * sum_l ((sigma_l^k - 1)^2 + |b_l|^(2k)),   k = 2

with sigma_l the largest singular value of the layer's weights (a convolution's as a matrix, one row
an output) and b_l its biases. `sigma_l = u' W v`, where one step of power iteration after each
training step moves u and v. Paper: lambda -> strength. A head that each task has for itself is left
free.

[1] Lewandowski et al. 2024, arXiv:2406.06811
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clfunc.random import fold_in, normal
from clfunc.types import Context, Key, Model, Number, Params, Scalar, Term, scalar

_ITERATIONS = 30  # of the power iteration before the first step


class SpectralState(NamedTuple):
    strength: Scalar
    left: dict[str, Tensor]  # u of each group, [out]
    right: dict[str, Tensor]  # v of each group, [in]


def spectral(strength: Number = 1e-3, *, name: str = "spectral") -> Term:
    """A pull of the largest singular values towards 1, and of the biases towards 0.

    Args:
        strength: Of the pull, >= 0; 0 is none, and the paper tries 1e-5 to 1e-2.
        name: Of the term.

    Raises:
        ValueError: A strength below 0.

    >>> from clfunc import dil, finetuning, mlp, sgd, terms
    >>> model = mlp(64, (16,), dil(5, classes=10))
    >>> algorithm = finetuning(model, sgd(0.1), terms=(terms.spectral(1e-3),))
    """
    number = scalar(strength, "strength", 0)

    def init(key: Key, params: Params, model: Model) -> SpectralState:
        right = {}
        left = {}
        for place, (group, weight) in enumerate(_matrices(params, model).items()):
            drawn = normal(fold_in(key, place), (weight.shape[1],), dtype=weight.dtype)
            right[group] = _unit(drawn)
            left[group] = _unit(weight @ right[group])
            for _ in range(_ITERATIONS):
                left[group], right[group] = _iterated(weight, left[group])
        return SpectralState(strength=number, left=left, right=right)

    def penalty(s: SpectralState, params: Params) -> Scalar:
        total = torch.zeros_like(s.strength)
        for group, left in s.left.items():
            part = params[group]
            sigma = left @ _matrix(part["weight"]) @ s.right[group]
            total = total + (sigma * sigma - 1) ** 2
            if "bias" in part:
                total = total + (part["bias"] * part["bias"]).sum() ** 2
        return s.strength * total

    def after_step(
        s: SpectralState, before: Params, after: Params, gradient: Params, context: Context
    ) -> SpectralState:
        left, right = {}, {}
        for group, u in s.left.items():
            left[group], right[group] = _iterated(_matrix(after[group]["weight"]), u)
        return s._replace(left=left, right=right)

    settings = {"strength": number}
    return Term(name=name, init=init, penalty=penalty, after_step=after_step, settings=settings)


def _matrices(params: Params, model: Model) -> dict[str, Tensor]:
    """The weights of all layers but those that each task has for itself, as matrices."""
    found = {}
    for group, part in params.items():
        weight = part.get("weight") if isinstance(part, dict) else None
        if weight is not None and weight.ndim > 1 and group not in model.head.per_task:
            found[group] = _matrix(weight)
    return found


def _matrix(weight: Tensor) -> Tensor:
    return weight.flatten(1)


def _iterated(weight: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """One step of power iteration: the new u and v."""
    right = _unit(weight.T @ left)
    return _unit(weight @ right), right


def _unit(vector: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(vector)
    return vector / torch.where(length > 0, length, 1.0)
