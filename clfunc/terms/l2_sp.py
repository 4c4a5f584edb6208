"""L2-SP [1]: every weight is held near where it was when the last task ended.

    penalty = strength * sum_i (params_i - anchor_i)^2      anchor: the params at the last task's end

Paper: alpha -> 2 strength; its starting point is a pre-trained network, ours what the last task left,
as in the baseline "L2" of [2]. Nothing is held during the first task.

[1] Li et al. 2018, arXiv:1802.01483   [2] Hsu et al. 2018, arXiv:1810.12488
"""

from typing import NamedTuple

import torch

from clfunc import tree
from clfunc.terms.by_task import declared, learning, no_lessons
from clfunc.types import Key, Model, Number, Params, Scalar, State, Term, scalar


class L2SPState(NamedTuple):
    strength: Scalar
    anchor: Params
    ended: Scalar  # 1 once a task has ended, else 0
    lessons: State  # each task's params; () where none can be forgotten


def l2_sp(strength: Number = 0.01, *, num_tasks: int | None = None, name: str = "l2_sp") -> Term:
    """A pull of all shared weights towards those of the last task.

    Args:
        strength: Of the pull, >= 0; 0 is none.
        num_tasks: Keep the params of each of so many tasks, so that a task can be forgotten. None
            keeps the last ones alone.
        name: Of the term.

    Raises:
        ValueError: A number out of its range.

    >>> from clfunc import dil, finetuning, mlp, sgd, terms
    >>> model = mlp(64, (16,), dil(5, classes=10))
    >>> algorithm = finetuning(model, sgd(0.1), terms=(terms.l2_sp(0.1),))
    """
    number = scalar(strength, "strength", 0)

    def init(key: Key, params: Params, model: Model) -> L2SPState:
        none = torch.zeros((), dtype=torch.float64, device=key.device)
        lessons = no_lessons(params, num_tasks)
        return L2SPState(strength=number, anchor=params, ended=none, lessons=lessons)

    def penalty(s: L2SPState, params: Params) -> Scalar:
        drift = tree.sub(params, s.anchor)
        return s.strength * s.ended * tree.vdot(drift, drift)

    def lesson(s: L2SPState, params: Params) -> Params:
        return params

    def learn(s: L2SPState, lesson: Params) -> L2SPState:
        return s._replace(anchor=lesson, ended=torch.ones_like(s.ended))

    def nothing(s: L2SPState) -> L2SPState:
        return s._replace(ended=torch.zeros_like(s.ended))

    settings = {"strength": number} | declared(num_tasks)
    hooks = learning(lesson, learn, nothing, num_tasks)
    return Term(name=name, init=init, penalty=penalty, settings=settings, **hooks)
