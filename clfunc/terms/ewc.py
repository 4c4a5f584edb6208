"""Elastic weight consolidation (EWC) [1]: each weight is held by the Fisher information that the
tasks before have of it.

    at the end of task t   F_t = 1/N sum over its examples of the diagonal Fisher at params_t
    penalty = strength / 2 * sum_t sum_i F_t,i (params_i - params_t,i)^2

Paper: lambda -> strength. The sum over tasks needs two copies of the params: `importance`, the sum
of F_t, and `mean`, the mean of params_t weighted by F_t; the penalty is the same up to a constant.
The Fisher of an example is taken without dropout over the classes that count, by `fisher` [2]:

    exact       sum_c p_c (d log p_c / d params)^2, the mean over the network's own labels
    predicted   (d log p_c / d params)^2 for the class c of the largest logit
    empirical   the same for the example's label

[1] Kirkpatrick et al. 2017, arXiv:1612.00796   [2] van de Ven 2025, arXiv:2502.11756
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.terms.by_task import learning, no_lessons
from clfunc.terms.fisher import FISHERS, fisher_of
from clfunc.types import Context, Key, Model, Number, Params, Scalar, State, Term, choice, scalar

Lesson = tuple[Params, Params]  # F_t and params_t


class EWCState(NamedTuple):
    strength: Scalar
    importance: Params  # sum_t F_t
    mean: Params  # sum_t F_t params_t / sum_t F_t
    fisher: Params  # of the task under review, a sum over its examples
    examples: Scalar  # the weight of those in that sum
    lessons: State  # each task's F_t and params_t; () where none can be forgotten


def ewc(
    strength: Number = 1.0,
    *,
    fisher: str = "exact",
    at_once: int | None = None,
    num_tasks: int | None = None,
    name: str = "ewc",
) -> Term:
    """A pull towards the weights of earlier tasks, by their Fisher information.

    Args:
        strength: Of the pull, >= 0; 0 is none. What is good spans 1 to 1e10 by the protocol.
        fisher: `exact`, `predicted` or `empirical`.
        at_once: Most examples in a batch of the review, >= 1; None for those of a step. Layers
            other than linear ones take memory for each example and class.
        num_tasks: Keep the Fisher and the params of each of so many tasks, so that a task can be
            forgotten: two copies of the params a task. None keeps their sums alone.
        name: Of the term.

    Raises:
        ValueError: A number out of its range, or an unknown Fisher.

    >>> from clfunc import dil, finetuning, mlp, sgd, terms
    >>> model = mlp(64, (16,), dil(5, classes=10))
    >>> algorithm = finetuning(model, sgd(0.1), terms=(terms.ewc(100.0),))
    """
    number = scalar(strength, "strength", 0)
    choice(fisher, "fisher", FISHERS)
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once must be at least 1, given {at_once}")

    def init(key: Key, params: Params, model: Model) -> EWCState:
        zero = tree.zeros_like(params)
        none = torch.zeros((), dtype=torch.float64, device=key.device)
        lessons = no_lessons((zero, params), num_tasks)
        return EWCState(number, zero, params, fisher=zero, examples=none, lessons=lessons)

    def penalty(s: EWCState, params: Params) -> Scalar:
        drift = tree.sub(params, s.mean)
        return s.strength / 2 * tree.vdot(s.importance, tree.mul(drift, drift))

    def review(s: EWCState, params: Params, context: Context) -> EWCState:
        more = fisher_of(params, context, fisher)
        examples = s.examples + context.batch.weight.sum()
        return s._replace(fisher=tree.add(s.fisher, more), examples=examples)

    settings = {
        "strength": number,
        "fisher": fisher,
        "at_once": at_once,
        "num_tasks": num_tasks,
        "remembers": num_tasks is None,
        "needs": "classes",
        "forgets": None if num_tasks is None else "tasks",
    }
    return Term(
        name=name,
        init=init,
        penalty=penalty,
        review=review,
        settings=settings,
        **learning(_lesson, _learn, _nothing, num_tasks),
    )


def _lesson(s: EWCState, params: Params) -> Lesson:
    """The mean Fisher of the task and its params; without a review it is of no importance."""
    return tree.scale(s.fisher, 1 / torch.where(s.examples > 0, s.examples, 1.0)), params


def _learn(s: EWCState, lesson: Lesson) -> EWCState:
    fisher, params = lesson

    def mean(a: Tensor, m: Tensor, f: Tensor, p: Tensor) -> Tensor:
        total = a + f
        return torch.where(total > 0, (a * m + f * p) / torch.where(total > 0, total, 1.0), p)

    return s._replace(
        importance=tree.add(s.importance, fisher),
        mean=tree.map(mean, s.importance, s.mean, fisher, params),
        fisher=tree.zeros_like(s.fisher),
        examples=torch.zeros_like(s.examples),
    )


def _nothing(s: EWCState) -> EWCState:
    zero = tree.zeros_like(s.importance)
    none = torch.zeros_like(s.examples)
    return s._replace(importance=zero, fisher=zero, examples=none)
