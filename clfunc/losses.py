"""Losses as pure functions, and `descend`: the first two thoughts of every step, the gradient and what is made of it."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad_and_value

from clfunc import tree
from clfunc.types import Context, Metrics, Params, State, TaskId, Transform, Updates


def cross_entropy_each(
    logits: Float[Tensor, "batch classes"], y: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Cross-entropy of each example, in nats. Logits may be -inf (a masked class) anywhere but at the label."""
    chosen = y[:, None] == torch.arange(logits.shape[1], device=logits.device)
    # a select and a sum where torch gathers: the gradient of a gather scatters, which compiles wrongly (torch 2.13, CPU)
    return -torch.where(chosen, torch.log_softmax(logits, dim=1), 0.0).sum(1)


def squared_error_each(
    outputs: Float[Tensor, "batch outputs"], y: Float[Tensor, "batch outputs"]
) -> Float[Tensor, " batch"]:
    """Squared error of each example, the mean over outputs."""
    return ((outputs - y) ** 2).mean(1)


def weighted_mean(
    values: Float[Tensor, " batch"], weight: Float[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Mean over the examples whose weight is not 0; 0 where there are none."""
    total = weight.sum()
    return torch.where(weight > 0, values * weight, 0.0).sum() / torch.where(total > 0, total, 1.0)


def cross_entropy(
    logits: Float[Tensor, "batch classes"],
    y: Int[Tensor, " batch"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Weighted mean cross-entropy of a batch, in nats."""
    return weighted_mean(cross_entropy_each(logits, y), weight)


def squared_error(
    outputs: Float[Tensor, "batch outputs"],
    y: Float[Tensor, "batch outputs"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Weighted mean squared error of a batch."""
    return weighted_mean(squared_error_each(outputs, y), weight)


def accuracy(
    logits: Float[Tensor, "batch classes"],
    y: Int[Tensor, " batch"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Weighted share of a batch whose largest logit is the label's, in [0, 1]."""
    return weighted_mean((logits.argmax(1) == y).to(weight.dtype), weight)


def task_cross_entropy(
    logits: Float[Tensor, "batch classes"],
    y: Int[Tensor, " batch"],
    weight: Float[Tensor, " batch"],
    task: Int[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """Mean over the tasks present in a mixed batch of each task's own mean cross-entropy; 0 for an empty batch."""
    size = torch.where(task[:, None] == task, weight, 0.0).sum(
        1
    )  # of the example's task, in this batch
    return weighted_mean(cross_entropy_each(logits, y), weight / torch.where(size > 0, size, 1.0))


LossFn = Callable[[Params], tuple[Tensor, tuple[dict[str, Tensor], Metrics]]]


def descend(
    tx: Transform,
    loss_fn: LossFn,
    params: Params,
    opt: State,
    task: TaskId,
) -> tuple[Updates, State, Metrics]:
    """The updates that `tx` makes of the gradient of `loss_fn`, its new memory, and the metrics.

    `loss_fn(params)` returns `(loss, (features, metrics))`. No unit is gated, and none owned by an earlier task.
    """
    gradient, (loss, (features, metrics)) = grad_and_value(loss_fn, has_aux=True)(params)
    features = {name: feature.detach() for name, feature in features.items()}
    none = {name: feature.new_zeros(feature.shape[1]) for name, feature in features.items()}
    context = Context(features, task, used=none, claims=none, gates=tree.map(torch.ones_like, none))

    updates, opt = tx.update(gradient, opt, params, context)

    return (
        updates,
        opt,
        {"loss": loss.detach()} | {name: value.detach() for name, value in metrics.items()},
    )
