"""Learning-rate schedules: transforms that scale the updates of the optimiser before them by a
factor of the step.

    chain(sgd(0.1), schedules.cosine(steps=1000))

Because an optimiser's rate multiplies its whole update, this is the same as scheduling `lr`. Steps
count from 0 within a task; `carry` counts through. The names and formulas are those of
`torch.optim.lr_scheduler`, stepped once a batch.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from clfunc import tree
from clfunc.types import Context, Key, Number, Params, Scalar, State, Transform, Updates, scalar


class ScheduleState(NamedTuple):
    step: Scalar
    numbers: State


def _schedule(name: str, factor: Callable[..., Scalar], numbers: dict[str, Scalar]) -> Transform:
    """Scale updates by `factor(step, **numbers)`."""

    def init(key: Key, params: Params) -> ScheduleState:
        step = torch.zeros((), dtype=torch.float64, device=key.device)
        return ScheduleState(step=step, numbers=dict(numbers))

    def update(
        updates: Updates, state: ScheduleState, params: Params, context: Context
    ) -> tuple[Updates, ScheduleState]:
        updates = tree.scale(updates, factor(state.step, **state.numbers))
        return updates, state._replace(step=state.step + 1)

    def begin_task(state: ScheduleState, params: Params) -> ScheduleState:
        return state._replace(step=torch.zeros_like(state.step))

    return Transform(
        init=init,
        update=update,
        begin_task=begin_task,
        settings={"name": name} | numbers,
    )


def constant(factor: Number, steps: Number) -> Transform:
    """`factor` during the first `steps` steps, 1 from then on (ConstantLR: a plain warm-up).

    Args:
        factor: >= 0; 1 changes nothing.
        steps: Number of steps, >= 0.

    Raises:
        ValueError: A number out of its range.

    >>> from clfunc import chain, schedules, sgd
    >>> tx = chain(sgd(0.1), schedules.constant(factor=0.1, steps=100))
    """

    def value(count: Scalar, factor: Scalar, steps: Scalar) -> Scalar:
        return torch.where(count < steps, factor, 1.0)

    numbers = {
        "factor": scalar(factor, "factor", 0),
        "steps": scalar(steps, "steps", 0),
    }
    return _schedule("constant", value, numbers)


def step(every: Number, factor: Number = 0.1) -> Transform:
    """`factor ** (count // every)` (StepLR).

    Args:
        every: Number of steps, >= 1.
        factor: >= 0; 1 changes nothing.

    Raises:
        ValueError: A number out of its range.

    >>> from clfunc import chain, schedules, sgd
    >>> tx = chain(sgd(0.1), schedules.step(every=1000))
    """

    def value(count: Scalar, every: Scalar, factor: Scalar) -> Scalar:
        return factor ** torch.floor(count / every)

    numbers = {
        "every": scalar(every, "every", 1),
        "factor": scalar(factor, "factor", 0),
    }
    return _schedule("step", value, numbers)


def cosine(steps: Number, floor: Number = 0.0) -> Transform:
    """Half a cosine from 1 to `floor` over `steps` steps, `floor` after them (CosineAnnealingLR).

    Args:
        steps: Number of steps, >= 1.
        floor: Share of lr that is left, in [0, 1]; 1 changes nothing.

    Raises:
        ValueError: A number out of its range.

    >>> from clfunc import chain, schedules, sgd
    >>> tx = chain(sgd(0.1), schedules.cosine(steps=1000))
    """

    def value(count: Scalar, steps: Scalar, floor: Scalar) -> Scalar:
        share = torch.clamp(count / steps, max=1.0)
        return floor + (1 - floor) * (1 + torch.cos(math.pi * share)) / 2

    numbers = {
        "steps": scalar(steps, "steps", 1),
        "floor": scalar(floor, "floor", 0, 1),
    }
    return _schedule("cosine", value, numbers)
