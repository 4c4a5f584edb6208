"""HAT's hard attention, piece by piece: how its gates harden, what that does to gradients, what is
kept of each task.

Serra et al. 2018, arXiv:1801.01423, section 2. An embedding is one number a unit, held by unit
group.
"""

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from clfunc.random import fold_in, normal, uniform
from clfunc.types import Key, Number, Scalar, choice

Units: TypeAlias = dict[str, Tensor]  # unit group -> one value a unit
ANNEALS = ("paper", "official", "constant")
INIT_MODES = ("N01", "U-11", "U01", "U-10", "last", "dense", "sparse")
TEST_MASKS = ("step", "sigmoid")
POSITIONS = ("post_act", "pre_act")


class Gating(NamedTuple):
    """How gates start, harden and act. The defaults are the paper's; `hat` takes one as `gates`.

    Args:
        anneal: `paper`, `official` or `constant`, see `gate_scale`.
        test_mask: `step` or `sigmoid`, see `masks`.
        clamp_threshold: Bound on |s e| in eq. 4, > 0; 50 is the paper's.
        embedding_clamp: Bound on |e| after a step, > 0; 6 is the authors'.
        task_embedding_init_mode: See `draw_embedding`.
        gate_position: The gate multiplies the activation (`post_act`) or the input of the
            activation (`pre_act`).

    >>> Gating(test_mask="sigmoid").clamp_threshold
    50.0
    """

    anneal: str = "paper"
    test_mask: str = "step"
    clamp_threshold: Number = 50.0
    embedding_clamp: Number = 6.0
    task_embedding_init_mode: str = "N01"
    gate_position: str = "post_act"


def gate_scale(anneal: str, step: Tensor, steps_per_epoch: Tensor, s_max: Scalar) -> Scalar:
    """The gate's scale s at a step of the task (from 0): from 1/s_max at an epoch's first batch
    towards s_max.

    `paper` (eq. 3) reaches s_max at the last batch, and is s_max where an epoch has one; `official`
    (the authors' code) stops one batch short of it; `constant` is s_max.
    """
    if anneal == "constant":
        return s_max
    batch = (step % steps_per_epoch).to(torch.float64)
    whole = steps_per_epoch.to(torch.float64)
    reaches = torch.where(whole > 1, batch / torch.clamp(whole - 1, min=1), 1.0)
    share = reaches if anneal == "paper" else batch / whole
    return 1 / s_max + (s_max - 1 / s_max) * share


def gates(embedding: Units, s: Scalar) -> Units:
    """sigmoid(s * embedding): how open each unit is (eq. 1)."""
    return {group: torch.sigmoid(s * e) for group, e in embedding.items()}


def masks(test_mask: str, embedding: Units, s_max: Scalar) -> Units:
    """What a trained task uses: `step`, 1 where the embedding is above 0, else 0.

    Or `sigmoid`, the gates at s_max.
    """
    if test_mask == "sigmoid":
        return gates(embedding, s_max)
    return {group: (e > 0).to(e.dtype) for group, e in embedding.items()}


def compensate(
    gradient: Units, embedding: Units, s: Scalar, s_max: Scalar, clamp_threshold: Scalar
) -> Units:
    """The embedding's gradient as if the gate had not hardened (eq.

    4): exact where |s e| <= clamp_threshold.
    """

    def one(q: Tensor, e: Tensor) -> Tensor:
        steep = torch.cosh(clamped(s * e, clamp_threshold)) + 1
        return q * (s_max / s) * steep / (torch.cosh(e) + 1)

    return {group: one(gradient[group], e) for group, e in embedding.items()}


def clamped(x: Tensor, bound: Scalar) -> Tensor:
    """`x` within [-bound, bound]."""
    limit = bound.to(x.dtype)
    return torch.minimum(torch.maximum(x, -limit), limit)


def sharpness(embedding: Units, s_max: Scalar) -> Scalar:
    """How decided the gates are at s_max: the mean of |2 gate - 1|, from 0 (all half open) to 1
    (all open or shut).
    """
    decided = []
    for gate in gates(embedding, s_max).values():
        decided.append((2 * gate - 1).abs())
    return torch.cat(decided).mean()


def draw_embedding(
    mode: str, key: Key, units: dict[str, int], num_tasks: int, dtype: torch.dtype
) -> Units:
    """Embeddings of all tasks, `[tasks, units]` by group, in at least float32.

    `N01` standard normal; `U-11`, `U01`, `U-10` uniform; `dense` all 1 (open), `sparse` all 0 (a
    mask shut, a gate half open); `last` as N01 for the first task trained, while later ones start
    where the one before ended.
    """
    choice(mode, "task_embedding_init_mode", INIT_MODES)
    dtype = torch.promote_types(dtype, torch.float32)

    def draw(key: Key, width: int) -> Tensor:
        shape = (num_tasks, width)
        if mode in ("dense", "sparse"):
            return torch.full(shape, float(mode == "dense"), dtype=dtype, device=key.device)
        if mode in ("N01", "last"):
            return normal(key, shape, dtype=dtype)
        low, high = {"U-11": (-1.0, 1.0), "U01": (0.0, 1.0), "U-10": (-1.0, 0.0)}[mode]
        return uniform(key, shape, low, high, dtype=dtype)

    drawn = {}
    for i, (group, width) in enumerate(units.items()):
        drawn[group] = draw(fold_in(key, i), width)
    return drawn
