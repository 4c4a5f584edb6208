"""Continual backpropagation [1, 2] as a transform: now and then the least useful mature unit of
each layer starts afresh.

After each step of the inner optimiser, for each group of units, with h the features that the
gradient was taken with and W the weights after the step:

    age    <- age + 1
    mean   <- decay mean + (1 - decay) h,   utility <- decay utility + (1 - decay) y(h, mean / (1 - decay^age), W)
    budget <- budget + rate * #{age > threshold};   k = floor(budget);   budget <- budget - k
    reset the k mature units of the lowest utility / (1 - decay^age), of equals the first

A reset unit's incoming weights are drawn as at the start; its bias, outgoing weights, age, utility
and mean are 0; and the inner optimiser forgets it: whatever in its state is shaped like the
parameters is cleared there, and Adam counts its steps for each weight. Choices are made in all
groups first, from the same weights. See `clfunc.units.utility` for y, `clfunc.units.resets` for
resets.

Paper: rho -> replacement_rate, m -> maturity_threshold, eta -> utility_decay_rate, c -> budget.
Departs from [2]'s code: true Adam rather than its AdamGnT (whose step has no bias corrections);
momentum is cleared with the other memory, where [2] leaves it to move a zeroed weight; equal
utilities go by index. Examples of weight 0 count as any in the means over a batch.

Only weights in `params` are reset. Where each task has its own head, a reset unit's column is
zeroed in the working head; the parked heads keep theirs, so what earlier tasks read from that unit
changes. Units that `context.used` marks are never reset.

[1] Dohare et al. 2024, doi:10.1038/s41586-024-07711-7   [2] its code, shibhansh/loss-of-plasticity
[3] Dohare et al. 2023, arXiv:2306.13812
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clfunc import tree
from clfunc.compose import passing
from clfunc.random import fold_in
from clfunc.settings import of_part
from clfunc.transforms.chain import by_element
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
    choice,
    scalar,
)
from clfunc.units import resets
from clfunc.units.resets import Choice
from clfunc.units.utility import utilities, utility_of

ESTIMATES = ("debiased", "plain", "lagged")
BUDGETS = ("eligible", "total", "one")


class Units(NamedTuple):
    """What is known of the units of a group."""

    age: Int[Tensor, " units"]  # steps since the last reset
    utility: Float[Tensor, " units"]
    mean: Float[Tensor, " units"]  # of the feature
    seen: Float[
        Tensor, " units"
    ]  # 1 - decay^age, as a running mean of ones: what running means have seen
    budget: Scalar  # resets due, float64
    replaced: Scalar  # resets so far


class ReinitState(NamedTuple):
    inner: State
    key: Key
    step: Scalar
    replacement_rate: Scalar
    maturity_threshold: Scalar
    utility_decay_rate: Scalar
    units: dict[str, Units]


class Rule(NamedTuple):
    """The static settings of `reinit`."""

    utility: str
    estimate: str
    budget: str
    accumulate: bool
    bias_transfer: bool
    slots: dict[str, int]  # by group


def reinit(
    model: Model,
    inner: Transform,
    *,
    replacement_rate: Number = 1e-4,
    maturity_threshold: Number = 100,
    utility_decay_rate: Number = 0.99,
    utility: str = "adaptable_contribution",
    accumulate: bool = True,
    bias_transfer: bool = False,
    estimate: str = "debiased",
    budget: str = "eligible",
    slots: int | None = None,
) -> Transform:
    """`inner`, and after each of its steps a reset of the least useful units, at a given rate.

    Args:
        model: Whose units.
        inner: Any transform; its memory of the units that are reset is cleared.
        replacement_rate: Share of the mature units of a layer reset at each step, in [0, 1]; 0
            resets none.
        maturity_threshold: A unit of this age, in steps, or younger is not reset, >= 0.
        utility_decay_rate: Of the running means, in [0, 1).
        utility: weight, contribution, zero_contribution, adaptation, adaptable_contribution,
            feature_by_input, or random.
        accumulate: Save up fractions of a unit; if False, less than one unit is one with that
            probability, and more than one is rounded down.
        bias_transfer: Add `mean * outgoing weight` of a reset unit to its consumers' biases, as [3]
            and not [1].
        estimate: How running means are read: debiased ([2]), plain ([1], not divided by `1 -
            decay^age`), or lagged ([3], debiased, but as they were before this step).
        budget: `eligible` units times the rate ([2], MLP); the `total` times the rate, once any is
            eligible ([2], convolutions); or `one` unit at most at each step, when more than one is
            due ([1]; where more than one falls due at every step, the budget grows without end).
        slots: Most resets at one step in a layer, a static number that members of a sweep share;
            what it puts off stays in the budget. By default all that can fall due, which is 1 at
            published rates; needed where the rate is a tensor.

    Raises:
        ValueError: A number out of its range, a word that is not listed, `slots` missing, or
            `accumulate=False` beside `one`; at init, a bias that `bias_transfer` needs and there is
            not.

    >>> from clfunc import mlp, reinit, sgd, til
    >>> model = mlp(64, (16,), til(5, classes=10))
    >>> tx = reinit(model, sgd(0.1), replacement_rate=1e-3)
    """
    rate = scalar(replacement_rate, "replacement_rate", 0, 1)
    threshold = scalar(maturity_threshold, "maturity_threshold", 0)
    decay = scalar(utility_decay_rate, "utility_decay_rate", 0, 1, below=True)
    most = _most(model, replacement_rate, slots)
    rule = Rule(utility, estimate, budget, accumulate, bias_transfer, most)
    _check(rule, model)
    inner = by_element(inner)

    def init(key: Key, params: Params) -> ReinitState:
        _check_biases(rule, model, params)
        like = tree.leaves(params)[0]
        units = {group: newborn(n, like) for group, n in model.units.items()}
        return ReinitState(
            inner=inner.init(key, params),
            key=fold_in(key, 0),
            step=torch.zeros((), dtype=torch.int64, device=key.device),
            replacement_rate=rate,
            maturity_threshold=threshold,
            utility_decay_rate=decay,
            units=units,
        )

    settings = {
        "name": "reinit",
        "place": "last",
        "model": of_part(model, model.apply),
        "inner": of_part(inner, inner.update),
        "replacement_rate": rate,
        "maturity_threshold": threshold,
        "utility_decay_rate": decay,
        **rule._asdict(),
    }
    return Transform(
        init=init,
        update=_update(rule, model, inner),
        settings=settings,
        **passing(inner),
    )


def _update(
    rule: Rule, model: Model, inner: Transform
) -> Callable[[Updates, ReinitState, Params, Context], tuple[Updates, ReinitState]]:
    """The `update` of `reinit`."""

    def update(
        updates: Updates, state: ReinitState, params: Params, context: Context
    ) -> tuple[Updates, ReinitState]:
        updates, new = inner.update(updates, state.inner, params, context)
        moved = tree.add(params, updates)

        drawn = draw(rule, model, state, params)
        # all choices before all resets
        units, choices, means = _choices(rule, model, state, moved, context, drawn)
        transfer = means if rule.bias_transfer else None
        updates, new = resets.rewrite(model, params, updates, inner, new, choices, drawn, transfer)

        return updates, state._replace(inner=new, step=state.step + 1, units=units)

    return update


def _choices(
    rule: Rule,
    model: Model,
    state: ReinitState,
    weights: Params,
    context: Context,
    drawn: dict[str, Tensor],
) -> tuple[dict[str, Units], dict[str, Choice], dict[str, Tensor]]:
    """Every group after one more batch, its units to reset, and their mean features."""
    units, choices, means = {}, {}, {}
    for group in model.units:
        known, score, means[group] = measure(rule, model, group, state, weights, context, drawn)
        units[group], choices[group] = choose(rule, group, state, known, score, context, drawn)
    return units, choices, means


def measures(state: ReinitState) -> dict[str, Tensor]:
    """Ages, utilities and the number of resets so far, by group, for a probe."""
    found = {}
    for group, units in state.units.items():
        found[f"age.{group}"] = units.age
        found[f"utility.{group}"] = units.utility
        found[f"replaced.{group}"] = units.replaced
    return found


def newborn(n: int, like: Tensor) -> Units:
    """`n` units that have not lived, in the dtype of the parameters."""
    zeros = like.new_zeros(n)
    none = torch.zeros((), dtype=torch.int64, device=like.device)
    return Units(
        age=zeros.to(torch.int64),
        utility=zeros,
        mean=zeros.clone(),
        seen=zeros.to(torch.float64),
        budget=none.to(torch.float64),
        replaced=none,
    )


def draw(rule: Rule, model: Model, state: ReinitState, params: Params) -> dict[str, Tensor]:
    """The random numbers of one step, in [0, 1): rows for the weights, and what else the rule asks
    for.
    """
    shapes: dict[str, tuple[int, ...]] = resets.row_shapes(model, params, rule.slots)
    if rule.utility == "random":
        shapes |= {f"utility {group}": (n,) for group, n in model.units.items()}
    if not rule.accumulate:
        shapes |= {f"chance {group}": () for group in model.units}
    return resets.noise(state.key, state.step, shapes, tree.leaves(params)[0].dtype)


def measure(
    rule: Rule,
    model: Model,
    group: str,
    state: ReinitState,
    weights: Params,
    context: Context,
    drawn: dict[str, Tensor],
) -> tuple[Units, Tensor, Tensor]:
    """A group after one more batch, the score that its units are chosen by, and their mean feature
    as it is read.
    """
    old = state.units[group]
    eta = state.utility_decay_rate
    lagged = rule.estimate == "lagged"
    feature = context.features[group]
    feature = feature.reshape(*feature.shape[:2], -1)  # [batch, units, positions]
    age = old.age + 1
    seen = eta * old.seen + (1 - eta)
    share = 1.0 if rule.estimate == "plain" else seen.to(feature.dtype)

    mean = eta * old.mean + (1 - eta) * feature.mean((0, 2))
    centre = (old.mean if lagged else mean) / share
    if rule.utility == "random":
        return old._replace(age=age, mean=mean, seen=seen), drawn[f"utility {group}"], centre
    now = utility_of(rule.utility, model, weights, group, feature, centre)
    utility = eta * old.utility + (1 - eta) * now
    score = (old.utility if lagged else utility) / share

    return old._replace(age=age, utility=utility, mean=mean, seen=seen), score, centre


def choose(
    rule: Rule,
    group: str,
    state: ReinitState,
    units: Units,
    score: Tensor,
    context: Context,
    drawn: dict[str, Tensor],
) -> tuple[Units, Choice]:
    """The units of a group that are reset now, and the group after it."""
    eligible = (units.age > state.maturity_threshold) & (context.used[group] == 0)
    units, count = due(
        rule,
        units,
        state.replacement_rate,
        eligible,
        rule.slots[group],
        drawn.get(f"chance {group}"),
    )
    choice = resets.lowest(torch.where(eligible, score, torch.inf), rule.slots[group], count)
    # a score may be infinite too, or not a number
    choice = choice._replace(reset=choice.reset & eligible)

    def cleared(values: Tensor) -> Tensor:
        return torch.where(choice.reset, 0, values)

    units = units._replace(
        age=cleared(units.age),
        utility=cleared(units.utility),
        mean=cleared(units.mean),
        seen=cleared(units.seen),
        replaced=units.replaced + choice.reset.sum(),
    )
    return units, choice


def due(
    rule: Rule, units: Units, rate: Scalar, eligible: Tensor, slots: int, chance: Tensor | None
) -> tuple[Units, Tensor]:
    """How many units are to be reset now, and the budget that is left."""
    number = eligible.sum()
    share = rate * (torch.where(number > 0, len(eligible), 0) if rule.budget == "total" else number)
    if chance is not None:
        whole = torch.where(share < 1, (chance < share).to(share.dtype), share.floor())
        return units, torch.minimum(whole, number).clamp(max=slots)
    saved = units.budget + share
    whole = (saved > 1).to(saved.dtype) if rule.budget == "one" else saved.floor()
    count = torch.minimum(whole, number).clamp(max=slots)
    return units._replace(budget=saved - count), count


def _most(model: Model, rate: Number, slots: int | None) -> dict[str, int]:
    """The most resets at one step, by group."""
    if slots is None and isinstance(rate, Tensor):
        raise ValueError(
            "slots must be given where replacement_rate is a tensor: the most resets in a layer at one step"
        )
    if slots is not None and (not isinstance(slots, int) or slots < 1):
        raise ValueError(f"slots must be a whole number of at least 1, given {slots}")
    return {
        group: min(n, slots or max(1, math.ceil(float(rate) * n)))
        for group, n in model.units.items()
    }


def _check(rule: Rule, model: Model) -> None:
    words = {"utility": (*utilities, "random"), "estimate": ESTIMATES, "budget": BUDGETS}
    for name, known in words.items():
        choice(getattr(rule, name), name, known)
    if rule.budget == "one" and not rule.accumulate:
        raise ValueError(
            "budget='one' saves up what is due: leave accumulate=True, or give another budget"
        )
    resets.check_wires(model, "reinit")


def _check_biases(rule: Rule, model: Model, params: Params) -> None:
    names = {name for name, _ in tree.items(params)}
    for group in model.units if rule.bias_transfer else ():
        for name, _ in resets.out_of(model, group):
            if resets.bias_of(name) not in names:
                raise ValueError(
                    f"bias_transfer needs a bias beside {name}: give bias_transfer=False"
                )
