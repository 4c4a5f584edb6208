"""A small quadratic program above a bound, in a fixed number of steps, so that it can be part of a
step of training:

    minimise 1/2 v' P v + q' v   over v >= low

by a primal-dual interior-point method with Mehrotra's predictor and corrector [1]. For up to some
tens of variables it is exact to about 1e-10 of their size; P must be positive definite.

[1] Mehrotra 1992, "On the implementation of a primal-dual interior point method", SIAM J. Optim. 2
"""

import torch
from torch import Tensor

_STEPS = 25
_DONE = 1e-14  # a complementarity, of variables of about 1, below which nothing moves


def solve_above(matrix: Tensor, pull: Tensor, low: Tensor) -> Tensor:
    """The minimiser.

    Args:
        matrix: P, `[n, n]`, float64, symmetric and positive definite.
        pull: q, `[n]`.
        low: 0-d, the bound of all variables.

    Returns:
        `[n]`.

    >>> eye = torch.eye(2, dtype=torch.float64)
    >>> found = solve_above(eye, torch.tensor([1.0, -1.0]).double(), torch.tensor(0.5))
    >>> [round(v, 6) for v in found.tolist()]
    [0.5, 1.0]
    """
    # in units in which the diagonal is 1 and the largest pull too
    unit = matrix.diagonal().rsqrt()
    scaled = matrix * unit * unit[:, None]
    at_low = (pull + low * matrix.sum(1)) * unit
    size = at_low.abs().amax().clamp(min=1e-30)
    at_low = at_low / size

    u = torch.ones_like(at_low)  # how far v is above its bound, and z the force of the bound
    z = torch.ones_like(at_low)
    for _ in range(_STEPS):
        mean = (u * z).mean()
        du, dz = _direction(scaled, at_low, u, z, torch.zeros_like(u))
        ahead = ((u + _length(u, du) * du) * (z + _length(z, dz) * dz)).mean()
        centre = (ahead / mean) ** 3 * mean
        du, dz = _direction(scaled, at_low, u, z, centre - du * dz)
        moves = mean > _DONE
        step = 0.99 * torch.minimum(_length(u, du), _length(z, dz))
        u = torch.where(moves, u + step * du, u)
        z = torch.where(moves, z + step * dz, z)
    return low + u * unit * size


def _direction(
    matrix: Tensor, at_low: Tensor, u: Tensor, z: Tensor, products: Tensor
) -> tuple[Tensor, Tensor]:
    """The moves of u and z towards `matrix @ u + at_low = z` and `u * z = products`."""
    rest = matrix @ u + at_low - z
    du, _ = torch.linalg.solve_ex(matrix + torch.diag(z / u), products / u - z - rest)
    return du, products / u - z - z / u * du


def _length(value: Tensor, move: Tensor) -> Tensor:
    """The longest step, at most 1, that keeps all values at 0 or above."""
    falls = move < 0
    return torch.where(falls, -value / torch.where(falls, move, -1.0), 1.0).amin().clamp(max=1.0)
