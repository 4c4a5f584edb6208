"""An algorithm that records what it adds to the parameters, by task and by forget set. It cannot
forget by itself.

Its state has the fields of `RecordedState`. A wrapper may add fields: hooks replace only the ones
that they name.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.compose import bank_of, lift
from clfunc.types import Algorithm, Batch, Key, Metrics, Params, State, Task
from clfunc.unlearning import records
from clfunc.unlearning.forget_sets import ForgetSet, touched
from clfunc.unlearning.records import Records


class RecordedState(NamedTuple):
    inner: State
    records: Records
    forgotten: Tensor  # Bool[tasks + sets]; a task that trains again is no longer forgotten


def recorded(
    inner: Algorithm,
    *,
    num_tasks: int,
    forget_sets: Sequence[ForgetSet] = (),
    precision: str = "params",
) -> Algorithm:
    """`inner`, with a record of every change of the parameters; it trains as `inner` does, bit for
    bit.

    Args:
        inner: Any algorithm that trains on one task at a time.
        num_tasks: Tasks to keep a record of, >= 1.
        forget_sets: Examples with a record of their own.
        precision: Of the records, see `records.blank`.
    """
    lifted = lift(inner)
    bank = bank_of(lifted)
    count = num_tasks + len(forget_sets)

    def init(key: Key) -> tuple[Params, RecordedState]:
        params, state = inner.init(key)
        return params, RecordedState(
            inner=state,
            records=records.blank(params, num_tasks, len(forget_sets), precision),
            forgotten=torch.zeros(count, dtype=torch.bool, device=key.device),
        )

    def step(params: Params, state: State, batch: Batch) -> tuple[Params, State, Metrics]:
        moved, state, metrics = lifted.step(params, state, batch)
        if not forget_sets:
            return moved, _added(state, params, moved), metrics
        hit = touched(forget_sets, batch)
        again = torch.cat([torch.zeros_like(state.forgotten[:num_tasks]), hit])
        state = state._replace(
            records=records.add_step(state.records, params, moved, hit),
            forgotten=state.forgotten & ~again,
        )
        return moved, state, metrics

    def begin_task(params: Params, state: State, task: Task) -> tuple[Params, State]:
        # the groups of another task are parked, which is no change
        before = params | tree.take(bank.rows(params, state), task.id)
        params, state = lifted.begin_task(params, state, task)
        begun = torch.arange(count, device=task.id.device) == task.id
        state = state._replace(
            records=records.check_out(state.records, task.id),
            forgotten=state.forgotten & ~begun,
        )
        return params, _added(state, before, params)

    def end_epoch(params: Params, state: State, metrics: Metrics) -> tuple[Params, State]:
        moved, state = lifted.end_epoch(params, state, metrics)
        return moved, _added(state, params, moved)

    def end_task(params: Params, state: State) -> tuple[Params, State]:
        moved, state = lifted.end_task(params, state)
        state = _added(state, params, moved)
        return moved, state._replace(records=records.check_in(state.records))

    return lifted._replace(
        init=init,
        step=step,
        begin_task=begin_task,
        end_epoch=end_epoch,
        end_task=end_task,
    )


def _added(state: State, before: Params, after: Params) -> State:
    """The state with a change of the parameters added to the working record."""
    return state._replace(records=records.add(state.records, before, after))
