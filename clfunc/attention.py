"""HAT's hard attention, piece by piece: how its gates harden, what the hardening does to gradients, where embeddings start.

Serra et al. 2018, arXiv:1801.01423, section 2. An embedding is one number a unit, by unit group.
"""

import torch
from torch import Tensor

from clfunc.random import fold_in, normal, uniform
from clfunc.types import Key, Scalar

Units = dict[str, Tensor]  # unit group -> one value a unit
anneals = ("paper", "official", "constant")
init_modes = ("N01", "U-11", "U01", "U-10", "last", "dense", "sparse")


def gate_scale(anneal: str, step: Scalar, steps_per_epoch: Scalar, s_max: Scalar) -> Scalar:
    """The gate's scale s at a step of the task (from 0): from 1/s_max at an epoch's first batch towards s_max.

    `paper` (eq. 3) reaches s_max at the last batch, and is s_max where an epoch has one; `official` (the authors' code)
    stops one batch short of it; `constant` is s_max.
    """
    if anneal == "constant":
        return s_max
    batch, whole = (step % steps_per_epoch).to(torch.float64), steps_per_epoch.to(torch.float64)
    reaches = torch.where(whole > 1, batch / torch.clamp(whole - 1, min=1), 1.0)
    share = reaches if anneal == "paper" else batch / whole
    return 1 / s_max + (s_max - 1 / s_max) * share


def gates(embedding: Units, s: Scalar) -> Units:
    """sigmoid(s * embedding), in at least float32."""
    return {group: torch.sigmoid(s * e) for group, e in embedding.items()}


def step_mask(embedding: Units) -> Units:
    """1 where the embedding is above 0, else 0: the gate in the limit of a large s."""
    return {group: (e > 0).to(e.dtype) for group, e in embedding.items()}


def compensate(gradient: Units, embedding: Units, s: Scalar, s_max: Scalar, clamp_threshold: Scalar) -> Units:
    """The embedding's gradient as if the gate had not hardened (eq. 4): exact where |s e| <= clamp_threshold."""

    def one(q: Tensor, e: Tensor) -> Tensor:
        bound = clamp_threshold.to(e.dtype)
        steep = torch.cosh(torch.minimum(torch.maximum(s * e, -bound), bound)) + 1
        return q * (s_max / s) * steep / (torch.cosh(e) + 1)

    return {group: one(gradient[group], e) for group, e in embedding.items()}


def draw_embedding(mode: str, key: Key, units: dict[str, int], num_tasks: int, dtype: torch.dtype) -> Units:
    """Embeddings of all tasks, `[tasks, units]` by group: N(0, 1), uniform, all on (`dense`, 1) or all off (`sparse`, 0).

    `last` draws N(0, 1) for the first task; later ones start from the one before.
    """

    def draw(key: Key, width: int) -> Tensor:
        shape = (num_tasks, width)
        if mode in ("dense", "sparse"):
            return torch.full(shape, float(mode == "dense"), dtype=dtype, device=key.device)
        if mode in ("N01", "last"):
            return normal(key, shape, dtype=dtype)
        low, high = {"U-11": (-1.0, 1.0), "U01": (0.0, 1.0), "U-10": (-1.0, 0.0)}[mode]
        return uniform(key, shape, low, high, dtype=dtype)

    return {group: draw(fold_in(key, i), width) for i, (group, width) in enumerate(units.items())}
