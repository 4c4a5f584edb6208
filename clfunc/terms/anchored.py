"""A pull of each weight towards where it was when earlier tasks ended, by its importance for them.

    penalty = factor * strength * sum_t sum_i A_t,i (params_i - params_t,i)^2

`A_t` is what an importance (a Fisher, MAS) finds in the review of task t. The sum over tasks needs
two copies of the params: `importance`, the sum of A_t, and `mean`, the mean of params_t weighted by
A_t; the penalty is the same up to a constant. With a `decay` there is one anchor instead, the params
of the last task: `importance <- decay * importance + A_t;  mean <- params_t`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.settings import check_whole
from clfunc.terms.by_task import declared, learning, no_lessons
from clfunc.types import Batch, Context, Key, Model, Number, Params, Scalar, State, Term, scalar

# (params, context, key, place) -> the sum over the batch, and what its mean is taken over. `place`
# is a number for each example of the task.
Importance = Callable[[Params, Context, Key, Tensor], tuple[Params, Scalar]]
Lesson = tuple[Params, Params]  # A_t and params_t


class AnchoredState(NamedTuple):
    strength: Scalar
    decay: State  # a number; () where each task has an anchor of its own
    key: Key
    importance: Params
    mean: Params
    found: Params  # of the task under review, a sum over its examples
    weight: Scalar  # what the mean of that is taken over
    reviewed: Tensor  # examples of the task so far
    lessons: State  # each task's A_t and params_t; () where none can be forgotten


def anchored(
    name: str,
    importance: Importance,
    strength: Number,
    *,
    factor: float,
    decay: Number | None,
    examples: int | None,
    at_once: int | None,
    num_tasks: int | None,
    settings: dict[str, Any],
) -> Term:
    """The term of an importance.

    Args:
        name: Of the term.
        importance: See `Importance`.
        strength: Of the pull, >= 0.
        factor: What a paper multiplies the strength by.
        decay: Share of the importance of earlier tasks that a task's end keeps, in [0, 1]; None for
            an anchor for each task.
        examples: How many examples of a task are looked at, >= 1; None for all.
        at_once: Most examples in a batch of the review, >= 1; None for those of a step.
        num_tasks: Number of tasks that can be forgotten; None for none.
        settings: What else decides the importance.

    Raises:
        ValueError: A number out of its range.
    """
    number = scalar(strength, "strength", 0)
    kept = () if decay is None else scalar(decay, "decay", 0, 1)
    for count, what in ((examples, "examples"), (at_once, "at_once")):
        if count is not None:
            check_whole(count, what)

    def init(key: Key, params: Params, model: Model) -> AnchoredState:
        zero = tree.zeros_like(params)
        none = torch.zeros((), dtype=torch.float64, device=key.device)
        lessons = no_lessons((zero, params), num_tasks)
        sums = dict.fromkeys(("importance", "mean", "found"), zero)
        numbers = {"strength": number, "weight": none, "reviewed": none.to(torch.int64)}
        return AnchoredState(key=key, decay=kept, lessons=lessons, **numbers, **sums)

    def penalty(s: AnchoredState, params: Params) -> Scalar:
        drift = tree.sub(params, s.mean)
        return factor * s.strength * tree.vdot(s.importance, tree.mul(drift, drift))

    def review(s: AnchoredState, params: Params, context: Context) -> AnchoredState:
        batch, place = _counted(context.batch, s.reviewed, examples)
        found, weight = importance(params, context._replace(batch=batch), s.key, place)
        return s._replace(
            found=tree.add(s.found, found),
            weight=s.weight + weight,
            reviewed=s.reviewed + (batch.weight > 0).sum(),
        )

    about = {
        "strength": number,
        "decay": None if decay is None else kept,
        "examples": examples,
        "at_once": at_once,
        **declared(num_tasks),
    }
    return Term(
        name=name,
        init=init,
        penalty=penalty,
        review=review,
        settings=about | settings,
        **learning(_lesson, _learn, _nothing, num_tasks),
    )


def _counted(batch: Batch, before: Tensor, examples: int | None) -> tuple[Batch, Tensor]:
    """The batch without what comes after so many `examples`, and a number for each example."""
    order = before + (batch.weight > 0).cumsum(0) - 1
    if examples is not None:
        batch = batch._replace(weight=torch.where(order < examples, batch.weight, 0.0))
    return batch, order.clamp(min=0)


def _lesson(s: AnchoredState, params: Params) -> Lesson:
    """The mean importance of the task and its params; 0 without a review."""
    return tree.scale(s.found, 1 / torch.where(s.weight > 0, s.weight, 1.0)), params


def _learn(s: AnchoredState, lesson: Lesson) -> AnchoredState:
    found, params = lesson
    is_online = isinstance(s.decay, Tensor)
    before = tree.scale(s.importance, s.decay) if is_online else s.importance

    def mean(a: Tensor, m: Tensor, f: Tensor, p: Tensor) -> Tensor:
        total = a + f
        return torch.where(total > 0, (a * m + f * p) / torch.where(total > 0, total, 1.0), p)

    return s._replace(
        importance=tree.add(before, found),
        mean=params if is_online else tree.map(mean, before, s.mean, found, params),
        found=tree.zeros_like(s.found),
        weight=torch.zeros_like(s.weight),
        reviewed=torch.zeros_like(s.reviewed),
    )


def _nothing(s: AnchoredState) -> AnchoredState:
    zero = tree.zeros_like(s.importance)
    none = torch.zeros_like(s.weight)
    return s._replace(
        importance=zero, found=zero, weight=none, reviewed=torch.zeros_like(s.reviewed)
    )
