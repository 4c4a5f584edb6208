"""Amnesiac unlearning [1], by task [2]: record what training on each task adds to the parameters, and take it off to forget.

    at each step of task t:   record[t] <- record[t] + (params after - params before)
    unlearn(u):               params <- params - record[u];   record[u] <- 0

or, for some examples of a task: `forget_sets` declares which may have to be forgotten (see
`clfunc.unlearning.forget_sets`), and a step on a batch that holds one of them is recorded for its set.
The record of a task is then its own record and the records of its sets.

What is recorded is what was applied, after masks, resets and clamps, so that the start plus all records is the parameters, and
to unlearn every task gives the start, but for rounding (see `clfunc.unlearning.records`). What a task has for itself goes with it: its
head, its embedding, its norms. Memory of having been trained goes too: the classes seen (`cil`), HAT's cumulative masks.

Unlearning some tasks does not give what training without them would have: later updates were computed from parameters that the
forgotten task had shaped. Under `hat` earlier tasks keep their very bits, as its later ones' updates are 0 where those live.

Departs from [2]: a task met again adds to its record, rather than starting another; heads are recorded by task; a second
request for a task changes nothing.

[1] Graves et al. 2021, arXiv:2010.10981   [2] CLArena's AmnesiacFinetuning
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.compose import lift
from clfunc.types import (
    Algorithm,
    Batch,
    Key,
    Metrics,
    Params,
    Settings,
    State,
    Task,
    choice,
    nested,
)
from clfunc.unlearning import records
from clfunc.unlearning.forget_sets import ForgetSet, declared, filled, tasks_of, touched
from clfunc.unlearning.records import Records


class AmnesiacState(NamedTuple):
    inner: State
    records: Records
    forgotten: Tensor  # Bool[tasks + sets]; a task that trains again is no longer forgotten
    start: State  # the optimiser's memory at the start; () where it is kept


def amnesiac(
    inner: Algorithm,
    *,
    num_tasks: int,
    forget_sets: Sequence[ForgetSet] = (),
    record: bool = True,
    optimizer_state: str = "keep",
    precision: str = "params",
) -> Algorithm:
    """`inner`, which can also `unlearn(params, state, asked)`; it trains as `inner` does, bit for bit.

    `asked` has an entry for each task and then for each declared set (`forget_sets.mask` makes one); it may stop short.

    Args:
        inner: Any algorithm that trains on one task at a time.
        num_tasks: Tasks to keep a record of, >= 1, as many as `inner` has heads for. A record is as large as the parameters.
        forget_sets: Examples that may have to be forgotten without their task; each set costs a record, and an
            addition at every step.
        record: False keeps no records, and nothing can be unlearned.
        optimizer_state: On unlearning, `keep` the optimiser's memory, or `reset` it to the start's, all but its rates. A
            task that begins restarts it anyway, unless it is carried.
        precision: Of the records: `params`, the number type of the parameters, or `float64`.

    Raises:
        ValueError: A wrong word or count, an `inner` that mixes tasks or can unlearn, a forget set that does not exist.
    """
    choice(optimizer_state, "optimizer_state", ("keep", "reset"))
    choice(precision, "precision", records.PRECISIONS)
    head = _head(inner, num_tasks)
    settings: Settings = {
        "name": "amnesiac",
        "inner": inner.settings,
        "num_tasks": num_tasks,
        "record": record,
    }
    settings |= {
        "optimizer_state": optimizer_state,
        "precision": precision,
        "forget_sets": declared(forget_sets, num_tasks, head),
    }
    if not record:
        return inner._replace(unlearn=None, settings=settings)
    lifted = lift(inner)

    def init(key: Key) -> tuple[Params, AmnesiacState]:
        params, state = inner.init(key)
        blank = records.blank(params, num_tasks, len(forget_sets), precision)
        forgotten = torch.zeros(num_tasks + len(forget_sets), dtype=torch.bool, device=key.device)
        return params, AmnesiacState(
            state, blank, forgotten, _memory(state) if optimizer_state == "reset" else ()
        )

    def step(
        params: Params, state: AmnesiacState, batch: Batch
    ) -> tuple[Params, AmnesiacState, Metrics]:
        moved, state, metrics = lifted.step(params, state, batch)
        if not forget_sets:
            return moved, state._replace(records=records.add(state.records, params, moved)), metrics
        hit = touched(forget_sets, batch)
        told = records.add_step(state.records, params, moved, hit)
        again = torch.cat([torch.zeros_like(state.forgotten[:num_tasks]), hit])
        return moved, state._replace(records=told, forgotten=state.forgotten & ~again), metrics

    def begin_task(
        params: Params, state: AmnesiacState, task: Task
    ) -> tuple[Params, AmnesiacState]:
        before = params | tree.take(
            lifted.own(params, state), task.id
        )  # another's own is parked, which is no change
        params, state = lifted.begin_task(params, state, task)
        told = records.add(records.check_out(state.records, task.id), before, params)
        again = torch.arange(num_tasks + len(forget_sets), device=task.id.device) == task.id
        return params, state._replace(records=told, forgotten=state.forgotten & ~again)

    def end_epoch(
        params: Params, state: AmnesiacState, metrics: Metrics
    ) -> tuple[Params, AmnesiacState]:
        moved, state = lifted.end_epoch(params, state, metrics)
        return moved, state._replace(records=records.add(state.records, params, moved))

    def end_task(params: Params, state: AmnesiacState) -> tuple[Params, AmnesiacState]:
        moved, state = lifted.end_task(params, state)
        return moved, state._replace(
            records=records.check_in(records.add(state.records, params, moved))
        )

    def unlearn(
        params: Params, state: AmnesiacState, asked: Tensor
    ) -> tuple[Params, AmnesiacState]:
        asked = filled(asked, num_tasks + len(forget_sets))
        gone, tasks = asked[:num_tasks], tasks_of(forget_sets)
        asked = asked | torch.cat(
            [gone, *(gone[task, None] for task in tasks)]
        )  # a task takes its sets along

        less, own = records.subtract(state.records, params, lifted.own(params, state), asked, tasks)
        less, after = lifted.restore(less, state, own, gone)

        if optimizer_state == "reset":
            after = after._replace(inner=_with_memory(after.inner, state.start))
        after = after._replace(
            records=records.clear(state.records, asked), forgotten=state.forgotten | asked
        )
        return tree.where(asked.any(), (less, after), (params, state))

    hooks: dict[str, Any] = {
        "begin_task": begin_task,
        "end_epoch": end_epoch,
        "end_task": end_task,
        "unlearn": unlearn,
    }
    return lifted._replace(init=init, step=step, **hooks, settings=settings)


def _head(inner: Algorithm, num_tasks: int) -> Settings | None:
    """The settings of `inner`'s head, None where no model says; ValueError for what cannot be wrapped."""
    if not isinstance(num_tasks, int) or num_tasks < 1:
        raise ValueError(f"num_tasks must be a whole number of at least 1, given {num_tasks!r}")
    if inner.settings.get("name") == "joint":
        raise ValueError(
            "amnesiac records updates by task, and joint mixes tasks in a batch: wrap another"
        )
    if inner.unlearn is not None:
        raise ValueError(
            f"amnesiac wraps what cannot unlearn yet, given {inner.settings.get('name')}, which can"
        )
    head = nested(inner.settings, "head")
    if head and len(head["classes"]) != num_tasks:
        raise ValueError(
            f"num_tasks must be {len(head['classes'])}, as many as inner has heads for, given {num_tasks}"
        )
    return head


def _memory(state: State) -> State:
    """The optimiser's memory, however deep in wrappers."""
    return state.opt if hasattr(state, "opt") else _memory(state.inner)


def _with_memory(state: State, opt: State) -> State:
    if not hasattr(state, "opt"):
        return state._replace(inner=_with_memory(state.inner, opt))
    kept = tree.map_items(
        lambda name, old, now: now if name.split(".")[-1] == "lr" else old, opt, state.opt
    )
    return state._replace(opt=kept)
