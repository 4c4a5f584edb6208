"""Self-normalized resets [1] as a transform: a unit starts afresh when it has been silent for
longer than is its habit.

A unit is silent at a step if its features are <= 0 on the whole batch; a silence is a run of such
steps. After each step of the inner optimiser, for each unit i, with age_i the length of its present
silence and threshold_i its limit:

    age_i <- age_i + 1 if silent, else 0;   reset i if age_i >= threshold_i, and then age_i <- 0
    silences_i[a] <- silences_i[a] + 1 for a silence of a steps that ended, in firing or in a reset

When `refresh_period` tasks have passed, with A_i the lengths of at least 1 that were seen since the
last time:

    limit       = min a >= 1 with P(A_i >= a) <= rejection_percentile
    threshold_i = limit if limit <= threshold_i, else 2 threshold_i, at most max_threshold;   silences_i <- 0

A limit above the threshold says that more than the share allowed were cut short by resets, so that
the threshold was too low to tell. Of a unit with no silence every P is 0 and its limit 1: one that
always fired is reset at its first silence.

What a reset is says `clfunc.units.resets`; whatever in the inner optimiser's state is shaped like
the parameters is cleared there. As in [2] Adam's count of steps is kept, and ages carry across
tasks.

Paper: eta -> rejection_percentile, a_i -> age, tau_max -> max_threshold. [1] tests P(A_i >= age) at
each step, with all that was seen; thresholds that last, their doubling and leaving out the silences
of length 0 are from [2]. Departs from [2]: the limit is [1]'s, which is one step above [2]'s
quantile min a with P(A_i > a) <= eta (so a unit that is always silent for a steps is not reset at
the end of each); times are counted in batches, not examples. Examples of weight 0 count as any.

Many units may be reset at once, so every step draws a number for each weight that feeds a unit.
Only weights in `params` are reset: parked heads keep their columns. Units that `context.used` marks
are never reset. Without task boundaries, or inside `carry`, thresholds stay as they start: write
`reset_silent(model, carry(tx))`.

[1] Farias & Jozefiak 2024, arXiv:2410.20098   [2] its code, ajozefiak/SelfNormalizedResets
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
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
    Settings,
    State,
    Transform,
    Updates,
    scalar,
)
from clfunc.units import resets


class Silence(NamedTuple):
    """What is known of the units of a group."""

    age: Int[Tensor, " units"]  # steps of silence
    threshold: Float[Tensor, " units"]
    silences: Int[Tensor, "units lengths"]  # how many of each length have ended
    replaced: Scalar  # resets so far


class ResetSilentState(NamedTuple):
    inner: State
    key: Key
    step: Scalar
    tasks: Scalar  # begun
    rejection_percentile: Scalar
    refresh_period: Scalar
    units: dict[str, Silence]


def reset_silent(
    model: Model,
    inner: Transform,
    *,
    rejection_percentile: Number = 0.05,
    first_threshold: Number = 100,
    refresh_period: Number = 1,
    max_threshold: int = 1000,
) -> Transform:
    """`inner`, and after each of its steps a reset of the units that are silent for too long.

    Args:
        model: Whose units; of an activation that can be silent, as relu is.
        inner: Any transform; its memory of the units that are reset is cleared.
        rejection_percentile: Share of a unit's silences that may be as long as one it is reset for,
            in [0, 1); 0 resets none.
        first_threshold: Steps of silence for which a unit is reset before its silences are known,
            in [1, max_threshold].
        refresh_period: Tasks between refreshes of the thresholds, a whole number >= 1.
        max_threshold: No threshold is above it, a static number of steps >= 1; memory grows with
            it.

    Raises:
        ValueError: A number out of its range, or a group of units without wires.

    >>> from clfunc import mlp, reset_silent, sgd, til
    >>> model = mlp(64, (16,), til(5, classes=10))
    >>> tx = reset_silent(model, sgd(0.1), max_threshold=200)
    """
    if not isinstance(max_threshold, int) or max_threshold < 1:
        raise ValueError(
            f"max_threshold must be a whole number of at least 1, given {max_threshold}"
        )
    eta = scalar(rejection_percentile, "rejection_percentile", 0, 1, below=True)
    every = scalar(refresh_period, "refresh_period", 1)
    first = scalar(first_threshold, "first_threshold", 1, max_threshold)
    resets.check_wires(model, "reset_silent")

    def init(key: Key, params: Params) -> ResetSilentState:
        none = torch.zeros((), dtype=torch.int64, device=key.device)
        units = {group: _newborn(n, max_threshold, first, none) for group, n in model.units.items()}
        return ResetSilentState(
            inner=inner.init(key, params),
            key=fold_in(key, 0),
            step=none,
            tasks=none.clone(),
            rejection_percentile=eta,
            refresh_period=every,
            units=units,
        )

    hooks = passing(inner)

    def begin_task(state: ResetSilentState, params: Params) -> ResetSilentState:
        return hooks["begin_task"](_refreshed(state), params)

    settings: Settings = {
        "name": "reset_silent",
        "place": "last",
        "model": of_part(model, model.apply),
        "inner": of_part(inner, inner.update),
        "rejection_percentile": eta,
        "first_threshold": first,
        "refresh_period": every,
        "max_threshold": max_threshold,
    }
    return Transform(
        init=init,
        update=_update(model, inner),
        settings=settings,
        **(hooks | {"begin_task": begin_task}),
    )


def _update(
    model: Model, inner: Transform
) -> Callable[[Updates, ResetSilentState, Params, Context], tuple[Updates, State]]:
    """The `update` of `reset_silent`."""

    def update(
        updates: Updates, state: ResetSilentState, params: Params, context: Context
    ) -> tuple[Updates, State]:
        updates, new = inner.update(updates, state.inner, params, context)

        units, choices = {}, {}
        for group, known in state.units.items():
            free = (context.used[group] == 0) & (state.rejection_percentile > 0)
            units[group], choices[group] = listen(known, silent(context.features[group]), free)

        shapes = resets.row_shapes(model, params, model.units)
        rows = resets.noise(state.key, state.step, shapes, tree.leaves(params)[0].dtype)
        updates, new = resets.rewrite(model, params, updates, inner, new, choices, rows)

        return updates, state._replace(inner=new, step=state.step + 1, units=units)

    return update


def _refreshed(state: ResetSilentState) -> ResetSilentState:
    """The state as one more task begins, with new thresholds where they are due."""
    due = (state.tasks > 0) & (state.tasks % state.refresh_period == 0)
    fresh = {}
    for group, known in state.units.items():
        fresh[group] = refreshed(known, state.rejection_percentile)
    units = tree.map(lambda new, old: torch.where(due, new, old), fresh, state.units)
    return state._replace(tasks=state.tasks + 1, units=units)


def _newborn(n: int, longest: int, threshold: Scalar, none: Tensor) -> Silence:
    """`n` units that have not lived."""
    silences = torch.zeros(n, longest + 1, dtype=torch.int32, device=none.device)
    return Silence(
        age=none.expand(n).clone(),
        threshold=threshold.to(none.device).expand(n).clone(),
        silences=silences,
        replaced=none.clone(),
    )


def silent(feature: Float[Tensor, "batch units *spatial"]) -> Bool[Tensor, " units"]:
    """Which units are nowhere above 0."""
    return (feature <= 0).movedim(1, 0).flatten(1).all(1)


def listen(
    known: Silence, quiet: Bool[Tensor, " units"], free: Bool[Tensor, " units"]
) -> tuple[Silence, resets.Choice]:
    """A group after one more batch, and which of its units are reset.

    Only those that are `free` may be.
    """
    age = torch.where(quiet, known.age + 1, 0)
    reset = quiet & (age >= known.threshold) & free

    ended = ~quiet | reset
    longest = known.silences.shape[1] - 1
    length = torch.where(reset, age, known.age).clamp(max=longest)
    hit = length[:, None] == torch.arange(longest + 1, device=age.device)

    units = Silence(
        age=torch.where(reset, 0, age),
        threshold=known.threshold,
        silences=known.silences + (hit & ended[:, None]),
        replaced=known.replaced + reset.sum(),
    )
    return units, resets.marked(reset)


def refreshed(known: Silence, share: Scalar) -> Silence:
    """A group with thresholds by what was seen of it, which is then forgotten."""
    seen = (
        known.silences[:, 1:].flip(1).cumsum(1).flip(1)
    )  # [i, a - 1]: silences of at least a steps
    limit = 1 + (seen > share * seen[:, :1]).sum(1)
    doubled = (2 * known.threshold).clamp(max=seen.shape[1])
    threshold = torch.where(limit <= known.threshold, limit.to(doubled.dtype), doubled)
    return known._replace(threshold=threshold, silences=torch.zeros_like(known.silences))
