"""How well something was forgotten: pure functions of features, accuracies, losses and recorded
updates.

Distances between two networks' features a, b `[examples, units]` on the same examples; 0 where they
agree:

    euclidean = mean_i ||a_i - b_i||_2          manhattan = mean_i sum_j |a_ij - b_ij|
    cosine    = mean_i 1 - a_i.b_i / (||a_i|| ||b_i||)
    cka       = 1 - ||A'B||_F^2 / (||A'A||_F ||B'B||_F),   A, B the features less their means over examples     [1]

    accuracy_gain   = mean over remaining tasks of  accuracy - that of the network that forgot nothing          [2]
    above_chance    = mean over forgotten tasks of  accuracy - 1/classes
    residual        = ||params - start - sum of the updates kept||_2: of what was to be subtracted, what is left

Membership inference by loss [3]: call an example a member (of what was trained on) where its loss <
threshold,

    advantage = P(loss < threshold | member) - P(loss < threshold | not a member)   balanced accuracy = (1 + advantage)/2
    auc       = P(a member's loss < a non-member's) + P(the same)/2                 over pairs; 1/2 tells nothing

[2] measures distances on features averaged over the tasks' subnetworks; these are of whatever features they are given.

[1] Kornblith et al. 2019, arXiv:1905.00414, linear kernel, 1 - its similarity   [2] CLArena's DD and AG (amnesiac HAT)
[3] Yeom et al. 2018, arXiv:1709.01604: adversary 1 with the members' mean loss for threshold
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clfunc import tree
from clfunc.types import Params, Updates

Features = Float[Tensor, "examples units"]
Measure = Float[Tensor, ""]
PerTask = Float[Tensor, " tasks"]
Members = Float[Tensor, " members"]  # losses of examples trained on
Others = Float[Tensor, " others"]


def euclidean(a: Features, b: Features) -> Measure:
    """Mean Euclidean distance of an example's two feature vectors.

    >>> float(euclidean(torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [0.0, 0.0]])))
    2.5
    """
    return torch.linalg.vector_norm(a - b, dim=1).mean()


def manhattan(a: Features, b: Features) -> Measure:
    """Mean sum of absolute differences of an example's two feature vectors."""
    return (a - b).abs().sum(1).mean()


def cosine(a: Features, b: Features) -> Measure:
    """Mean of 1 - cosine, in [0, 2]; a vector of zeros is at 0 from another such and at 1 from any
    other vector.
    """
    norm_a = torch.linalg.vector_norm(a, dim=1)
    norm_b = torch.linalg.vector_norm(b, dim=1)
    unit_a = a / torch.where(norm_a == 0, 1.0, norm_a)[:, None]
    unit_b = b / torch.where(norm_b == 0, 1.0, norm_b)[:, None]
    both_silent = (norm_a == 0) & (norm_b == 0)
    return torch.where(both_silent, 0.0, 1 - (unit_a * unit_b).sum(1)).mean()


def cka(a: Features, b: Features) -> Measure:
    """1 - linear centred kernel alignment, in [0, 1]: 0 up to rotation, shift and scale.

    Features that are the same on every example are at 0 from other such and at 1 from any that
    vary.
    """
    a = _centred(a)
    b = _centred(b)
    constant_a = a.abs().amax() == 0
    constant_b = b.abs().amax() == 0
    norm = (_product(a, a) * _product(b, b)).sqrt()
    similar = _product(a, b) / torch.where(constant_a | constant_b, 1.0, norm)
    return torch.where(constant_a & constant_b, 0.0, 1 - similar).to(torch.float64)


def _centred(features: Features) -> Features:
    """The features less their means over examples, in float64."""
    double = features.to(torch.float64)
    return double - double.mean(0)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """||a'b||_F^2, by the smaller of the two ways: over units, or over examples."""
    examples, units = a.shape
    return ((a @ a.T) * (b @ b.T)).sum() if examples < units else (a.T @ b).square().sum()


distances: dict[str, Callable[[Features, Features], Measure]] = {
    "euclidean": euclidean,
    "cosine": cosine,
    "manhattan": manhattan,
    "cka": cka,
}


def mean_over(values: PerTask, tasks: Bool[Tensor, " tasks"]) -> Measure:
    """Mean over some of the tasks; NaN over none."""
    return torch.where(tasks, values, 0.0).sum() / tasks.sum()


def accuracy_gain(
    accuracy: PerTask, original: PerTask, remaining: Bool[Tensor, " tasks"]
) -> Measure:
    """How much better the tasks that remain are known than by the network that forgot nothing, in
    [-1, 1].
    """
    return mean_over(accuracy - original, remaining)


def above_chance(
    accuracy: PerTask, classes: Float[Tensor, " tasks"], forgotten: Bool[Tensor, " tasks"]
) -> Measure:
    """How much better the forgotten tasks are known than by guessing one of `classes`, in [-1, 1];
    0 is forgotten.
    """
    return mean_over(accuracy - 1 / classes, forgotten)


def membership_advantage(
    members: Members, others: Others, threshold: Tensor | None = None
) -> Measure:
    """How much more often an example is called a member when it is one, in [-1, 1]; 0 where nobody
    can tell.

    `threshold` (0-d) is the members' mean loss if not given. NaN without members, without others,
    or where a loss is NaN.
    """
    if threshold is None:
        threshold = members.mean()
    share_of_members = (members < threshold).to(torch.float64).mean()
    share_of_others = (others < threshold).to(torch.float64).mean()
    return torch.where(_are_known(members, others), share_of_members - share_of_others, torch.nan)


def membership_auc(members: Members, others: Others) -> Measure:
    """Area under the attack's curve over all thresholds: the chance that a member's loss is below
    another's, ties by half.

    NaN without members, without others, or where a loss is NaN.

    >>> float(membership_auc(torch.tensor([0.1, 0.2]), torch.tensor([0.2, 0.9])))
    0.875
    """
    ranked = others.sort().values
    smaller = torch.searchsorted(ranked, members)
    larger = len(others) - torch.searchsorted(ranked, members, right=True)
    won = 0.5 * (len(others) + larger - smaller).to(torch.float64)  # a tie counts by half
    return torch.where(_are_known(members, others), won.mean() / len(others), torch.nan)


def _are_known(members: Members, others: Others) -> Tensor:
    """Whether no loss is NaN, which says that the network has not diverged."""
    return ~(members.isnan().any() | others.isnan().any())


def residual(params: Params, start: Params, kept: Updates) -> Measure:
    """Norm of what a network holds besides its start and the updates that it kept; rounding, where
    all else was subtracted.

    `start` and `kept` (the sum of the recorded updates that were not forgotten) are shaped like
    `params`.
    """
    params, start, kept = (
        tree.map(lambda leaf: leaf.to(torch.float64), part) for part in (params, start, kept)
    )
    left = tree.map(lambda p, s, k: p - s - k, params, start, kept)
    return tree.global_norm(left)
