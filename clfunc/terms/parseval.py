"""Parseval regularisation [1]: the rows of each square hidden layer stay orthogonal and of one length,
so that gradients pass at their size.

    penalty = strength * (64 / width)^2 * sum_l |W_l W_l' - scale I|^2

over the hidden layers as wide as the layer before. Paper: lambda -> strength, s -> scale, which is
2, the square of relu's gain. Departs: the rows are not divided into groups, and no learnable scale
is added to a layer.

[1] Chung et al. 2024, arXiv:2412.07224
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clfunc.types import Key, Model, Number, Params, Scalar, Term, scalar


class ParsevalState(NamedTuple):
    strength: Scalar
    scale: Scalar
    identity: dict[str, Tensor]  # of each layer that is held


def parseval(strength: Number = 1e-3, scale: Number = 2.0, *, name: str = "parseval") -> Term:
    """A pull of the square hidden layers towards orthogonal ones.

    Args:
        strength: Of the pull, >= 0; 0 is none, and the paper tries 1e-5 to 1e-2.
        scale: The squared length of a row, > 0.
        name: Of the term.

    Raises:
        ValueError: A number out of its range; when the algorithm begins, a network without a square
            hidden layer.

    >>> from clfunc import dil, finetuning, mlp, sgd, terms
    >>> model = mlp(64, (16, 16), dil(5, classes=10))
    >>> algorithm = finetuning(model, sgd(0.1), terms=(terms.parseval(1e-3),))
    """
    number = scalar(strength, "strength", 0)
    length = scalar(scale, "scale", 0, above=True)

    def init(key: Key, params: Params, model: Model) -> ParsevalState:
        identity = {}
        for wire in model.wires:
            if wire.linear and wire.pre is not None and wire.post is not None:
                weight = params[wire.path[0]][wire.path[1]]
                if weight.shape[0] == weight.shape[1]:
                    identity[wire.path[0]] = torch.eye(
                        weight.shape[0], dtype=weight.dtype, device=weight.device
                    )
        if not identity:
            raise ValueError(
                f"{name} holds hidden layers as wide as the one before, and there is none: give"
                " mlp(..., (64, 64), ...), or leave it out"
            )
        return ParsevalState(strength=number, scale=length, identity=identity)

    def penalty(s: ParsevalState, params: Params) -> Scalar:
        total = torch.zeros_like(s.strength)
        for group, identity in s.identity.items():
            weight = params[group]["weight"]
            apart = weight @ weight.T - s.scale.to(weight.dtype) * identity
            total = total + (64 / len(identity)) ** 2 * (apart * apart).sum()
        return s.strength * total

    settings = {"strength": number, "scale": length}
    return Term(name=name, init=init, penalty=penalty, settings=settings)
