"""How much a weight may move after tasks have claimed it: pure functions from cumulative masks to
rates in [0, 1].

A rate multiplies a weight's gradient or update. `used` is 1 on a weight both of whose units earlier
tasks use (the `min` of their cumulative masks), 0 where either is free; every function gives 1 on a
free weight.

    hat               1 - used                                    frozen [1]
    hat_random        used * U[0, 1) + (1 - used)                 a random rate, drawn anew each step [2]
    hat_const_alpha   used * alpha   + (1 - used)                 [2]
    hat_const_1       1                                           not frozen at all [2]
    adahat            r / (claims + r), r = alpha / (eps + free)  the less, the more tasks have claimed it [2]

`claims` counts the tasks that use both of the weight's units, `free` is the layer's share of still
unused mask.

[1] Serra et al. 2018, arXiv:1801.01423, eq. 2   [2] Wang et al. 2024, AdaHAT, ECML PKDD
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.hard_attention import regularisers as sparsity
from clfunc.random import uniform
from clfunc.types import Context, Key, Model, Number, Params, Scalar, State
from clfunc.units import masks

MODES = ("hat", "hat_random", "hat_const_alpha", "hat_const_1", "adahat")


class Rates(NamedTuple):
    """How much weights that earlier tasks use may move. The default is HAT's: not at all; `hat`
    takes one as `rates`.

    Args:
        adjustment_mode: `hat`, `hat_random`, `hat_const_alpha`, `hat_const_1` or `adahat`.
        alpha: The rate of `hat_const_alpha`, in [0, 1]; the strength of `adahat`, > 0. The other
            modes have none.
        epsilon: Keeps the rate of `adahat` finite, > 0.
        no_reg: `adahat` without the free share of a layer.
        no_sum: Under `adahat`, count every task on every weight rather than the tasks that use it.
        freeze: A rate of 0 stops `updates` (and gradients), or `gradients` only.
        scale_at: A rate between 0 and 1 scales `updates` or `gradients`.

    >>> Rates("hat_const_alpha", alpha=0.1).epsilon
    0.1
    """

    adjustment_mode: str = "hat"
    alpha: Number | None = None
    epsilon: Number = 0.1
    no_reg: bool = False
    no_sum: bool = False
    freeze: str = "updates"
    scale_at: str = "updates"


def hat(used: Tensor) -> Tensor:
    return 1 - used


def hat_random(used: Tensor, uniform: Tensor) -> Tensor:
    return used * uniform + (1 - used)


def hat_const_alpha(used: Tensor, alpha: Scalar) -> Tensor:
    return used * alpha + (1 - used)


def hat_const_1(used: Tensor) -> Tensor:
    return torch.ones_like(used)


def adahat(claims: Tensor, free: Scalar, alpha: Scalar, epsilon: Scalar) -> Tensor:
    """`claims` >= 0 of each weight.

    `free` in [0, 1] of its layer; `alpha`, `epsilon` > 0 (1e-6 and 0.1 in the paper).
    """
    rate = alpha / (epsilon + free)
    return rate / (claims + rate)


def pictures(rates: dict[str, Tensor], side: int = 128) -> dict[str, Tensor]:
    """Each weight's rates as an image, units fed by units feeding, of at most `side` a side (means
    where it is larger).
    """

    def image(rate: Tensor) -> Tensor:
        flat = rate.flatten(2).mean(2) if rate.ndim > 2 else rate
        size = (min(flat.shape[0], side), min(flat.shape[1], side))
        return torch.nn.functional.adaptive_avg_pool2d(flat[None], size)[0]

    return {f"rate.{name}": image(rate) for name, rate in rates.items() if rate.ndim > 1}


def rates(
    model: Model,
    params: Params,
    context: Context,
    key: Key,
    mode: str,
    alpha: State,
    epsilon: Scalar,
    no_reg: bool,
) -> dict[str, Tensor]:
    """The rate of every weight that feeds a unit and that tasks share, by dotted name; each
    broadcasts against its weight.

    `key` is what `hat_random` draws from; `alpha` is `()` in a mode that has none; `no_reg` is
    `adahat` with free = 0.
    """
    used = masks.of_wires(model, params, context.used)
    claims = masks.of_wires(model, params, context.claims) if mode == "adahat" else {}
    shapes = {name: tuple(leaf.shape) for name, leaf in tree.items(params)}

    def rate(at: int, name: str, group: str) -> Tensor:
        if mode == "adahat":
            free = sparsity.share(context.gates[group], context.used[group])
            return adahat(claims[name], torch.zeros_like(free) if no_reg else free, alpha, epsilon)
        if mode == "hat_random":
            return hat_random(used[name], uniform(key, shapes[name], at=at, dtype=used[name].dtype))
        if mode == "hat_const_alpha":
            return hat_const_alpha(used[name], alpha)
        return hat(used[name]) if mode == "hat" else hat_const_1(used[name])

    found = {}
    shared = [wire for wire in model.wires if wire.path[0] not in model.head.per_task]
    for at, wire in enumerate(shared):
        if wire.post is not None:
            name = masks.name_of(wire)
            found[name] = rate(at, name, wire.post)
    return found


def measures(rates: dict[str, Tensor], params: Params) -> dict[str, Tensor]:
    """Pictures of the rates, and the capacity, for a probe."""
    return pictures(rates) | {"capacity": capacity(rates, params)}


def capacity(rates: dict[str, Tensor], params: Params) -> Tensor:
    """The mean rate over all weights that have one, in [0, 1]: how much of the network can still
    learn.
    """
    sizes = {name: leaf.numel() for name, leaf in tree.items(params) if name in rates}
    means = [rate.mean() * (sizes[name] / sum(sizes.values())) for name, rate in rates.items()]
    return torch.stack(means).sum()
