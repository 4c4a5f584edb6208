"""Ordered L2-init [1]: the weights of each layer keep the distribution that they began with, whichever
weight has which value.

    penalty = strength * sum_l |sort(params_l) - sort(initial_l)|^2

the squared 2-Wasserstein distance between the two sets of numbers of each tensor, times their count.
A head that waits while other tasks train (`til`) is one task's own, and is left free.

[1] Lewandowski et al. 2024, arXiv:2312.00246 (version 2) and arXiv:2406.06811 (version 1)
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.types import Key, Model, Number, Params, Scalar, Term, scalar


class WassersteinState(NamedTuple):
    strength: Scalar
    initial: Params  # each tensor flat and sorted


def wasserstein(strength: Number = 0.01, *, name: str = "wasserstein") -> Term:
    """A pull of each layer's weights towards their initial distribution.

    Args:
        strength: Of the pull, >= 0; 0 is none.
        name: Of the term.

    Raises:
        ValueError: A strength below 0.

    >>> from clfunc import dil, finetuning, mlp, sgd, terms
    >>> model = mlp(64, (16,), dil(5, classes=10))
    >>> algorithm = finetuning(model, sgd(0.1), terms=(terms.wasserstein(1e-3),))
    """
    number = scalar(strength, "strength", 0)

    def init(key: Key, params: Params, model: Model) -> WassersteinState:
        return WassersteinState(strength=number, initial=tree.map(_sorted, params))

    def penalty(s: WassersteinState, params: Params) -> Scalar:
        apart = tree.sub(tree.map(_sorted, params), s.initial)
        return s.strength * tree.vdot(apart, apart)

    return Term(name=name, init=init, penalty=penalty, settings={"strength": number})


def _sorted(leaf: Tensor) -> Tensor:
    return torch.sort(leaf.flatten()).values
