"""How much a weight may move after tasks have claimed it: pure functions from cumulative masks to rates in [0, 1].

A rate multiplies a weight's gradient or update. `used` is 1 on a weight both of whose units earlier tasks use (the `min` of
their cumulative masks), 0 where either is free; every function gives 1 on a free weight.

    hat               1 - used                                    frozen [1]
    hat_random        used * U[0, 1) + (1 - used)                 a random rate, drawn anew each step [2]
    hat_const_alpha   used * alpha   + (1 - used)                 [2]
    hat_const_1       1                                           not frozen at all [2]
    adahat            r / (claims + r), r = alpha / (eps + free)  the less, the more tasks have claimed it [2]

`claims` counts the tasks that use both of the weight's units, `free` is the layer's share of still unused mask.

[1] Serra et al. 2018, arXiv:1801.01423, eq. 2   [2] Wang et al. 2024, AdaHAT, ECML PKDD
"""

import torch
from torch import Tensor

from clfunc.types import Scalar


def hat(used: Tensor) -> Tensor:
    return 1 - used


def hat_random(used: Tensor, uniform: Tensor) -> Tensor:
    return used * uniform + (1 - used)


def hat_const_alpha(used: Tensor, alpha: Scalar) -> Tensor:
    return used * alpha + (1 - used)


def hat_const_1(used: Tensor) -> Tensor:
    return torch.ones_like(used)


def adahat(claims: Tensor, free: Scalar, alpha: Scalar, epsilon: Scalar) -> Tensor:
    """`claims` >= 0 of each weight; `free` in [0, 1] of its layer; `alpha`, `epsilon` > 0 (1e-6 and 0.1 in the paper)."""
    rate = alpha / (epsilon + free)
    return rate / (claims + rate)
