"""Memory aware synapses (MAS) [1]: each weight is held by how much the network's output depends on
it. It needs no labels.

    at a task's end   A <- A + the mean over its examples of |d |z(x)|^2 / d params|,   anchor <- params
    penalty = strength * sum_i A_i (params_i - anchor_i)^2

Paper: lambda -> strength, Omega -> A. `z` are the logits of the classes that count, without dropout.
The mean is of absolute values, example by example; peers that take it of a batch's mean gradient
compute another method.

[1] Aljundi et al. 2018, arXiv:1711.09601
"""

import torch
from torch import Tensor

from clfunc.terms.anchored import anchored
from clfunc.terms.sensitivity import sensitivity
from clfunc.types import Context, Key, Number, Params, Scalar, Term


def mas(
    strength: Number = 1.0,
    *,
    decay: Number = 1.0,
    examples: int | None = None,
    at_once: int | None = None,
    num_tasks: int | None = None,
    name: str = "mas",
) -> Term:
    """A pull towards the last task's weights, by how much the output depends on them.

    Args:
        strength: Of the pull, >= 0; 0 is none, and the paper's is 1.
        decay: Share of the earlier importance that a task's end keeps, in [0, 1]; the paper's is 1.
        examples: How many examples of each task are looked at, >= 1; None for all.
        at_once: Most examples in a batch of the review, >= 1; None for those of a step.
        num_tasks: Keep the importance and the params of each of so many tasks, so that a task can be
            forgotten: two copies of the params a task. None keeps their sum alone.
        name: Of the term.

    Raises:
        ValueError: A number out of its range.

    >>> from clfunc import dil, finetuning, mlp, sgd, terms
    >>> model = mlp(64, (16,), dil(5, classes=10))
    >>> algorithm = finetuning(model, sgd(0.1), terms=(terms.mas(1.0),))
    """

    def importance(
        params: Params, context: Context, key: Key, place: Tensor
    ) -> tuple[Params, Scalar]:
        found = sensitivity(params, context, _energy, power=1)
        return found, context.batch.weight.sum()

    return anchored(
        name,
        importance,
        strength,
        factor=1.0,
        decay=decay,
        examples=examples,
        at_once=at_once,
        num_tasks=num_tasks,
        settings={"importance": "mas"},
    )


def _energy(logits: Tensor) -> Tensor:
    counted = torch.where(logits.isfinite(), logits, 0.0)
    return (counted * counted).sum()[None]
