"""Synaptic intelligence (SI) [1]: each weight is held by its share in the fall of the loss.

    at each step      path <- path - gradient * (after - before)          the gradient without penalties
    at a task's end   importance <- relu(importance + path / ((params - anchor)^2 + damping))
                      anchor <- params;   path <- 0
    penalty = strength * sum_i importance_i (params_i - anchor_i)^2

Paper: c -> strength, xi -> damping, omega -> path, Omega -> importance. `after - before` is the step
as it was applied, after momentum, masks and clamps, rounding included. `clip` says where a negative
share is cut: of the `total`, as the authors' code does [2]; of each `task` [3]; or nowhere (`none`).

[1] Zenke et al. 2017, arXiv:1703.04200   [2] ganguli-lab/pathint   [3] Chaudhry et al. 2018,
arXiv:1801.10112
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.terms.by_task import declared, learning, no_lessons
from clfunc.types import Context, Key, Model, Number, Params, Scalar, State, Term, choice, scalar

Lesson = tuple[Params, Params]  # a task's share of the importance, and its params
_CLIPS = ("total", "task", "none")


class SIState(NamedTuple):
    strength: Scalar
    damping: Scalar
    path: Params
    importance: Params
    anchor: Params
    lessons: State  # of each task; () where none can be forgotten
    start: State  # the first anchor; () likewise


def si(
    strength: Number = 1.0,
    damping: Number = 0.1,
    *,
    clip: str = "total",
    num_tasks: int | None = None,
    name: str = "si",
) -> Term:
    """A pull towards the last task's weights, by the path that training took.

    Args:
        strength: Of the pull, >= 0; 0 is none.
        damping: Keeps the importance of a weight finite that did not move, > 0; the paper's is 0.1
            on permuted MNIST and 0.001 on split MNIST.
        clip: `total`, `task` or `none`.
        num_tasks: Keep the share and the params of each of so many tasks, so that a task can be
            forgotten: two copies of the params a task. None keeps their sum alone.
        name: Of the term.

    Raises:
        ValueError: A number out of its range, or an unknown `clip`.

    >>> from clfunc import dil, finetuning, mlp, sgd, terms
    >>> model = mlp(64, (16,), dil(5, classes=10))
    >>> algorithm = finetuning(model, sgd(0.1), terms=(terms.si(0.5),))
    """
    number = scalar(strength, "strength", 0)
    xi = scalar(damping, "damping", 0, above=True)
    choice(clip, "clip", _CLIPS)

    def init(key: Key, params: Params, model: Model) -> SIState:
        zero = tree.zeros_like(params)
        lessons = no_lessons((zero, params), num_tasks)
        start = () if num_tasks is None else params
        return SIState(number, xi, zero, zero, anchor=params, lessons=lessons, start=start)

    def penalty(s: SIState, params: Params) -> Scalar:
        drift = tree.sub(params, s.anchor)
        return s.strength * tree.vdot(s.importance, tree.mul(drift, drift))

    def after_step(
        s: SIState, before: Params, after: Params, gradient: Params, context: Context
    ) -> SIState:
        def further(path: Tensor, g: Tensor, new: Tensor, old: Tensor) -> Tensor:
            return path - g * (new - old)

        return s._replace(path=tree.map(further, s.path, gradient, after, before))

    def lesson(s: SIState, params: Params) -> Lesson:
        def share(path: Tensor, p: Tensor, a: Tensor) -> Tensor:
            found = path / ((p - a) ** 2 + s.damping.to(p.dtype))
            return torch.relu(found) if clip == "task" else found

        return tree.map(share, s.path, params, s.anchor), params

    def learn(s: SIState, lesson: Lesson) -> SIState:
        shares, params = lesson
        importance = tree.add(s.importance, shares)
        if clip == "total":
            importance = tree.map(torch.relu, importance)
        return s._replace(path=tree.zeros_like(s.path), importance=importance, anchor=params)

    settings = {
        "strength": number,
        "damping": xi,
        "clip": clip,
        **declared(num_tasks),
    }
    return Term(
        name=name,
        init=init,
        penalty=penalty,
        after_step=after_step,
        settings=settings,
        **learning(lesson, learn, _nothing, num_tasks),
    )


def _nothing(s: SIState) -> SIState:
    zero = tree.zeros_like(s.importance)
    return s._replace(path=zero, importance=zero, anchor=s.start)
