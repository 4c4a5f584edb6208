"""Riemannian walk (RWalk) [1]: each weight is held by a running Fisher information, and by how much its
path lowered the loss for how far it went in the Fisher's measure.

    each step           path <- path - gradient * (after - before);   squares <- squares + gradient^2
    every `period`      score <- score + relu(path / (h F (params - params then)^2 + damping))
                        F <- (1 - alpha) F + alpha squares / period;   path, squares <- 0
    at a task's end     S <- (S + score) / 2;   anchor <- params;   score <- 0
    penalty = strength * sum_i (n(F)_i + n(S)_i) (params_i - anchor_i)^2

`n` maps to [0, 1] by the least and the largest number of all, as at the last task's end; the gradient is
that without penalties. Paper: lambda -> strength, epsilon -> damping, Delta t -> period. F begins as
the first gradient's square. `form` says which text counts: `paper` has h = 1/2; the authors' code,
`official` [2], has h = 1, adds (S + score) / 2 to S, and doubles the first task's score.

[1] Chaudhry et al. 2018, arXiv:1801.10112   [2] facebookresearch/agem
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.settings import check_whole
from clfunc.types import Context, Key, Model, Number, Params, Scalar, Term, choice, scalar

_FORMS = ("paper", "official")


class RWalkState(NamedTuple):
    strength: Scalar
    damping: Scalar
    alpha: Scalar
    path: Params
    squares: Params
    then: Params  # the params a period ago
    fisher: Params
    score: Params  # of the task that trains
    scores: Params  # S
    importance: Params  # n(F) + n(S)
    anchor: Params
    steps: Tensor
    tasks: Tensor  # ended


def rwalk(
    strength: Number = 1.0,
    damping: Number = 1e-3,
    *,
    alpha: Number = 0.9,
    period: int = 10,
    form: str = "paper",
    name: str = "rwalk",
) -> Term:
    """A pull towards the last task's weights, by Fisher information and path.

    Args:
        strength: Of the pull, >= 0; 0 is none.
        damping: Keeps the score of a weight finite that did not move, > 0; the authors' is 1e-3.
        alpha: Share of the last period in the running Fisher, in [0, 1]; the authors' is 0.9.
        period: Steps between two updates of score and Fisher, >= 1; the authors' is 10.
        form: `paper` or `official`.
        name: Of the term.

    Raises:
        ValueError: A number out of its range, or an unknown form.

    >>> from clfunc import dil, finetuning, mlp, sgd, terms
    >>> model = mlp(64, (16,), dil(5, classes=10))
    >>> algorithm = finetuning(model, sgd(0.1), terms=(terms.rwalk(1.0),))
    """
    number = scalar(strength, "strength", 0)
    xi = scalar(damping, "damping", 0, above=True)
    share = scalar(alpha, "alpha", 0, 1)
    check_whole(period, "period")
    choice(form, "form", _FORMS)
    half = 0.5 if form == "paper" else 1.0

    def init(key: Key, params: Params, model: Model) -> RWalkState:
        zero = tree.zeros_like(params)
        none = torch.zeros((), dtype=torch.int64, device=key.device)
        numbers = {"strength": number, "damping": xi, "alpha": share, "steps": none, "tasks": none}
        names = ("path", "squares", "fisher", "score", "scores", "importance")
        return RWalkState(then=params, anchor=params, **numbers, **dict.fromkeys(names, zero))

    def after_step(
        s: RWalkState, before: Params, after: Params, gradient: Params, context: Context
    ) -> RWalkState:
        square = tree.mul(gradient, gradient)
        fisher = tree.where(s.steps == 0, square, s.fisher)
        path = tree.sub(s.path, tree.mul(gradient, tree.sub(after, before)))
        s = s._replace(
            path=path, squares=tree.add(s.squares, square), fisher=fisher, steps=s.steps + 1
        )
        return tree.where(s.steps % period == 0, _counted(s, after, half, period), s)

    def end_task(s: RWalkState, params: Params) -> RWalkState:
        return _ended(s, params, form == "official")

    settings = {
        "strength": number,
        "damping": xi,
        "alpha": share,
        "period": period,
        "form": form,
        "remembers": True,
    }
    return Term(
        name=name,
        init=init,
        penalty=_penalty,
        after_step=after_step,
        end_task=end_task,
        settings=settings,
    )


def _penalty(s: RWalkState, params: Params) -> Scalar:
    drift = tree.sub(params, s.anchor)
    return s.strength * tree.vdot(s.importance, tree.mul(drift, drift))


def _counted(s: RWalkState, params: Params, half: float, period: int) -> RWalkState:
    """The state after a period."""

    def more(score: Tensor, path: Tensor, f: Tensor, now: Tensor, then: Tensor) -> Tensor:
        distance = half * f * (now - then) ** 2 + s.damping.to(f.dtype)
        return score + torch.relu(path / distance)

    mean = tree.scale(s.squares, s.alpha / period)
    zero = tree.zeros_like(s.path)
    return s._replace(
        score=tree.map(more, s.score, s.path, s.fisher, params, s.then),
        fisher=tree.add(tree.scale(s.fisher, 1 - s.alpha), mean),
        path=zero,
        squares=zero,
        then=params,
    )


def _ended(s: RWalkState, params: Params, is_official: bool) -> RWalkState:
    """The state as a task ends."""
    score, before = s.score, tree.zeros_like(s.score)
    if is_official:
        score = tree.scale(score, torch.where(s.tasks == 0, 2.0, 1.0))
        before = s.scores
    scores = tree.add(before, tree.scale(tree.add(s.scores, score), 0.5))
    zero = tree.zeros_like(s.score)
    return s._replace(
        scores=scores,
        importance=tree.add(_normalised(s.fisher), _normalised(scores)),
        anchor=params,
        then=params,
        path=zero,
        squares=zero,
        score=zero,
        tasks=s.tasks + 1,
    )


def _normalised(importance: Params) -> Params:
    """All numbers in [0, 1], by the least and the largest; 0 where all are equal."""
    low = torch.stack([leaf.amin() for leaf in tree.leaves(importance)]).amin()
    high = torch.stack([leaf.amax() for leaf in tree.leaves(importance)]).amax()
    span = torch.where(high > low, high - low, 1.0)
    return tree.map(lambda leaf: (leaf - low) / span, importance)
