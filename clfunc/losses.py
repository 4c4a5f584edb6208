"""Losses as pure functions of logits."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def cross_entropy_each(
    logits: Float[Tensor, "batch classes"],
    y: Int[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """The cross-entropy of each example, in nats.

    Args:
        logits: Any numbers; -inf (a masked class) anywhere but at the label.
        y: The labels, in [0, classes).

    >>> cross_entropy_each(torch.tensor([[0.0, -torch.inf]]), torch.tensor([0])).item() == 0
    True
    """
    chosen = y[:, None] == torch.arange(logits.shape[1], device=logits.device)
    # A select and a sum in place of torch's gather: the gradient of a gather scatters, which
    # compiles wrongly (torch 2.13, CPU).
    return -torch.where(chosen, torch.log_softmax(logits, dim=1), 0.0).sum(1)


def squared_error_each(
    outputs: Float[Tensor, "batch outputs"],
    y: Float[Tensor, "batch outputs"],
) -> Float[Tensor, " batch"]:
    """The squared error of each example, which is the mean over its outputs.

    >>> squared_error_each(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([2.5000])
    """
    return ((outputs - y) ** 2).mean(1)


def weighted_mean(
    values: Float[Tensor, " batch"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """The weighted mean over a batch; 0 if every weight is 0.

    Args:
        values: Any numbers; where the weight is 0 they may be infinite or NaN.
        weight: The weight of each example, >= 0; 0 ignores an example.

    >>> weighted_mean(torch.tensor([1.0, 3.0, torch.inf]), torch.tensor([1.0, 1.0, 0.0]))
    tensor(2.)
    """
    total = weight.sum()
    weighted = torch.where(weight > 0, values * weight, 0.0)
    return weighted.sum() / torch.where(total > 0, total, 1.0)


def cross_entropy(
    logits: Float[Tensor, "batch classes"],
    y: Int[Tensor, " batch"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """The weighted mean cross-entropy of a batch, in nats.

    >>> logits, y = torch.zeros(2, 4), torch.tensor([0, 3])
    >>> round(cross_entropy(logits, y, torch.ones(2)).exp().item(), 4)
    4.0
    """
    return weighted_mean(cross_entropy_each(logits, y), weight)


def squared_error(
    outputs: Float[Tensor, "batch outputs"],
    y: Float[Tensor, "batch outputs"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """The weighted mean squared error of a batch.

    >>> squared_error(torch.ones(2, 1), torch.zeros(2, 1), torch.ones(2))
    tensor(1.)
    """
    return weighted_mean(squared_error_each(outputs, y), weight)


def accuracy(
    logits: Float[Tensor, "batch classes"],
    y: Int[Tensor, " batch"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """The weighted share of the examples whose largest logit is the label's, in [0, 1].

    >>> accuracy(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([1, 0]), torch.ones(2))
    tensor(0.5000)
    """
    return weighted_mean((logits.argmax(1) == y).to(weight.dtype), weight)


def task_cross_entropy(
    logits: Float[Tensor, "batch classes"],
    y: Int[Tensor, " batch"],
    weight: Float[Tensor, " batch"],
    task: Int[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """The mean over the tasks of a mixed batch of each task's weighted mean cross-entropy.

    It is 0 for a batch in which every weight is 0.
    """
    # the total weight of the example's task in this batch
    size = torch.where(task[:, None] == task, weight, 0.0).sum(1)
    share = weight / torch.where(size > 0, size, 1.0)
    return weighted_mean(cross_entropy_each(logits, y), share)
