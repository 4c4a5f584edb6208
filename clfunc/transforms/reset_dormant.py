"""ReDo [1] as a transform: from time to time every dormant unit starts afresh.

At step t (from 0) of the inner optimiser, if t > 0 and t is a multiple of `period`, in each group
of units, with h the features that the gradient was taken with:

    score_i = mean |h_i| / (mean_k mean |h_k| + 1e-9);   reset every unit with score_i <= threshold

where the mean of a unit goes over examples and positions, and that over k over the units of its
group. A reset unit's incoming weights are drawn anew, its bias and its outgoing weights are 0 (see
`clfunc.units.resets`), and whatever in the inner optimiser's state is shaped like the parameters is
cleared there. As in [2] Adam's count of steps is kept: a cleared weight's first steps are up to (1
- beta1) / sqrt(1 - beta2) times lr, about 3 by default.

Paper: tau -> threshold. Departs from [2]: incoming weights are drawn as the model was,
U(-1/sqrt(fan_in), 1/sqrt(fan_in)), not Xavier's, and the score is of the training batch, not of
another, larger one. Examples of weight 0 count as any.

All units may be dormant at once, so every step draws a number for each weight that feeds a unit,
although few are used. Only weights in `params` are reset: parked heads keep their columns. Units
that `context.used` marks are never reset.

[1] Sokar et al. 2023, arXiv:2302.12902   [2] its code, google/dopamine
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from clfunc import tree
from clfunc.compose import passing
from clfunc.random import fold_in
from clfunc.settings import of_part
from clfunc.types import (
    Context,
    Key,
    Model,
    Number,
    Params,
    Scalar,
    State,
    Transform,
    Updates,
    scalar,
)
from clfunc.units import resets

_EPS = 1e-9


class ResetDormantState(NamedTuple):
    inner: State
    key: Key
    step: Scalar
    period: Scalar
    threshold: Scalar
    replaced: dict[str, Scalar]  # resets so far, by group


def reset_dormant(
    model: Model, inner: Transform, *, period: Number = 1000, threshold: Number = 0.025
) -> Transform:
    """`inner`, and every `period` steps a reset of all dormant units.

    Args:
        model: Whose units.
        inner: Any transform; its memory of the units that are reset is cleared.
        period: Steps between resets, a whole number >= 1; 1000 is the paper's.
        threshold: Score of a unit, 1 being its layer's mean, up to which it is dormant; 0 resets
            units that are dead on the batch, below 0 none; 0.025 is the paper's.

    Raises:
        ValueError: A number out of its range, or a group of units without wires.

    >>> from clfunc import mlp, reset_dormant, sgd, til
    >>> model = mlp(64, (16,), til(5, classes=10))
    >>> tx = reset_dormant(model, sgd(0.1), period=500)
    """
    every, tau = scalar(period, "period", 1), scalar(threshold, "threshold")
    resets.check_wires(model, "reset_dormant")

    def init(key: Key, params: Params) -> ResetDormantState:
        none = torch.zeros((), dtype=torch.int64, device=key.device)
        replaced = {group: none.clone() for group in model.units}
        return ResetDormantState(
            inner.init(key, params), fold_in(key, 0), none, every, tau, replaced
        )

    def update(
        updates: Updates, state: ResetDormantState, params: Params, context: Context
    ) -> tuple[Updates, State]:
        updates, new = inner.update(updates, state.inner, params, context)

        due = (state.step > 0) & (state.step % state.period == 0)
        gone = {
            group: due
            & (score(context.features[group]) <= state.threshold)
            & (context.used[group] == 0)
            for group in model.units
        }
        choices = {group: resets.marked(reset) for group, reset in gone.items()}
        shapes = resets.row_shapes(model, params, model.units)
        rows = resets.noise(state.key, state.step, shapes, tree.leaves(params)[0].dtype)
        updates, new = resets.rewrite(model, params, updates, inner, new, choices, rows)

        replaced = {group: state.replaced[group] + reset.sum() for group, reset in gone.items()}
        return updates, state._replace(inner=new, step=state.step + 1, replaced=replaced)

    settings = {
        "name": "reset_dormant",
        "place": "last",
        "model": of_part(model, model.apply),
        "inner": of_part(inner, inner.update),
        "period": every,
        "threshold": tau,
    }
    return Transform(
        init=init,
        update=update,
        settings=settings,
        **passing(inner),
    )


def score(feature: Float[Tensor, "batch units *spatial"]) -> Float[Tensor, " units"]:
    """Mean activity of each unit, in units of its layer's."""
    activity = feature.abs().movedim(1, 0).flatten(1).mean(1)
    return activity / (activity.mean() + _EPS)
