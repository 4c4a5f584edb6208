"""Plasticity: pure functions of features and weights that tell whether a network can still learn.

Features are `[batch, units, *spatial]`, post-activation. Of a unit, the mean goes over examples and
positions:

    dormant_share = share of units with  mean|h_i| <= tau * mean_k mean|h_k|                        [1]
    dead_share    = share of units that are 0 everywhere

Of the matrix whose rows are examples (and positions) and whose columns are units, with singular
values s_1 >= s_2 >= ...:

    stable_rank    = sum_i s_i^2 / s_1^2                                                            [2]
    effective_rank = exp(-sum_i p_i log p_i),  p_i = s_i / sum_k s_k                                [3]
    srank          = min k with  s_1 + ... + s_k >= share * sum_i s_i                               [4]

Ranks lie between 1 and the matrix's smaller side; none changes under scaling or rotation. A matrix
of zeros has rank 0, and all its units are dormant and dead. Where a feature is not finite the ranks
are NaN (a diverged run fails by itself).

[1] Sokar et al. 2023, arXiv:2302.12902   [2] Rudelson & Vershynin 2007   [3] Roy & Vetterli 2007,
EUSIPCO
[4] Kumar et al. 2021, arXiv:2010.14498; Dohare et al. 2024 (Nature 632) call it the stable rank
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad

from clfunc import tree
from clfunc.compose import Network
from clfunc.types import Batch, Logits, Params, Updates

Features = Float[Tensor, "batch units *spatial"]
Measure = Float[Tensor, ""]


def dormant_share(features: Features, tau: float | Tensor = 0.025) -> Measure:
    """Share of units whose mean activation is at most `tau` (>= 0.

    0.025 is the paper's) of their layer's mean.
    """
    activity = _matrix(features).abs().mean(0)
    return _share(activity <= tau * activity.mean(), features)


def dead_share(features: Features) -> Measure:
    """Share of units that are exactly 0 on every example: for relu and its like, which can be."""
    return _share((_matrix(features) == 0).all(0), features)


def stable_rank(features: Features) -> Measure:
    """How many directions the squared singular values fill, in units of the largest.

    Never above the rank.
    """
    return _of_spectrum(_stable_rank, features)


def effective_rank(features: Features) -> Measure:
    """The exponential of the entropy of the singular values: n where n of them are equal and the
    rest 0.
    """
    return _of_spectrum(_effective_rank, features)


def srank(features: Features, share: float | Tensor = 0.99) -> Measure:
    """How many singular values make up `share` (in (0, 1); 0.99 is the paper's) of their sum."""
    return _of_spectrum(lambda s: _srank(s, share), features)


def weight_magnitude(params: Params) -> Measure:
    """Mean of |w| over every entry of every leaf.

    It grows where plasticity is lost (Dohare et al. 2024).
    """
    leaves = tree.leaves(params)
    total = torch.stack([leaf.abs().sum() for leaf in leaves]).sum()
    return total / sum(leaf.numel() for leaf in leaves)


def gradient_norm(gradient: Updates) -> Measure:
    """Euclidean norm of the whole gradient.

    It vanishes where plasticity is lost (Abbas et al. 2023).
    """
    return tree.global_norm(gradient)


def measure(features: Mapping[str, Tensor], params: Params) -> dict[str, Tensor]:
    """Everything of every unit group, and the weights of every parameter group.

    Names are `dormant.hidden1`, `weight_magnitude.head` and so on.
    """
    found: dict[str, Tensor] = {}
    for group, h in features.items():
        ranks = _of_spectrum(_ranks, h)
        found[f"dormant.{group}"] = dormant_share(h)
        found[f"dead.{group}"] = dead_share(h)
        found[f"stable_rank.{group}"] = ranks[0]
        found[f"effective_rank.{group}"] = ranks[1]
        found[f"srank.{group}"] = ranks[2]
    for group, part in params.items():
        found[f"weight_magnitude.{group}"] = weight_magnitude(part)
    return found


def probe(
    network: Network, loss_of: Callable[[Logits, Batch], Tensor], params: Params, batch: Batch
) -> dict[str, Tensor]:
    """Plasticity on a batch, without dropout, and the norm of the gradient of the loss there.

    Args:
        network: As an algorithm runs it.
        loss_of: `(masked logits, batch) -> 0-d`.
        params: All params.
        batch: Examples; those of weight 0 change no measure.
    """

    def loss_fn(params):
        output = network.forward(params, batch, None)
        logits = network.mask(output.logits, batch.task)
        return loss_of(logits, batch), output.features

    gradient, features = grad(loss_fn, has_aux=True)(params)
    # rows of zeros change no measure
    seen = tree.where(batch.weight > 0, features, tree.zeros_like(features))
    return measure(seen, params) | {"gradient_norm": gradient_norm(gradient)}


def _ranks(s: Tensor) -> Tensor:
    """All three ranks, of one decomposition."""
    return torch.stack([_stable_rank(s), _effective_rank(s), _srank(s)])


def _stable_rank(s: Tensor) -> Tensor:
    return (s / s[0]).square().sum()


def _effective_rank(s: Tensor) -> Tensor:
    return torch.special.entr(s / s.sum()).sum().exp()


def _srank(s: Tensor, share: float | Tensor = 0.99) -> Tensor:
    return 1 + (s.cumsum(0) < share * s.sum()).to(s.dtype).sum()


def _matrix(features: Tensor) -> Tensor:
    """`[examples and positions, units]`."""
    return features.movedim(1, -1).flatten(0, -2)


def _share(units: Tensor, like: Tensor) -> Tensor:
    return units.to(like.dtype).mean()


def _of_spectrum(rank: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """`rank` of the singular values, largest first.

    0 of a matrix of zeros, NaN of one that is not finite.
    """
    matrix = _matrix(features)
    finite = matrix.isfinite().all()
    s = torch.linalg.svdvals(torch.where(finite, matrix, 0.0))
    some = s[0] > 0
    found = torch.where(some, rank(torch.where(some, s, 1.0)), 0.0)
    return torch.where(finite, found, torch.nan)
