"""Amnesiac unlearning [1], by task [2]: record what training on each task adds to the parameters,
and subtract it to forget.

    at each step of task t:   record[t] <- record[t] + (params after - params before)
    unlearn(u):               params <- params - record[u];   record[u] <- 0

`forget_sets` declares examples of a task that may have to be forgotten without it
(`clfunc.unlearning.forget_sets`). A step on a batch that holds one of them is recorded for its set.
The record of a task is then its own and those of its sets.

Records are of what was applied, after masks, resets and clamps. So the start plus all records is
the parameters, and to unlearn every task gives the start, but for rounding (see
`clfunc.unlearning.records`). A task's own groups are forgotten with it: its head, its embedding,
its norms; so are the classes seen (`cil`) and HAT's cumulative masks.

Unlearning some tasks does not give what training without them would have: later updates were
computed from parameters that the forgotten task had shaped. Under `hat` earlier tasks keep their
very bits, as its later ones' updates are 0 where those live.

Departs from [2]: a task that returns adds to its record, rather than starting another; heads are
recorded by task; a second request for a task changes nothing.

[1] Graves et al. 2021, arXiv:2010.10981   [2] CLArena's AmnesiacFinetuning
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.compose import bank_of, check_forgettable, optimizer_of, with_optimizer
from clfunc.settings import find, of_part
from clfunc.types import Algorithm, Key, Params, Settings, State, choice
from clfunc.unlearning import records
from clfunc.unlearning.forget_sets import ForgetSet, declared, filled, tasks_of
from clfunc.unlearning.recorded import recorded
from clfunc.unlearning.records import Records


class AmnesiacState(NamedTuple):
    inner: State
    records: Records
    forgotten: Tensor  # Bool[tasks + sets]; a task that trains again is no longer forgotten
    start: State  # the optimiser's state at the start; () where it is kept


def amnesiac(
    inner: Algorithm,
    *,
    num_tasks: int,
    forget_sets: Sequence[ForgetSet] = (),
    record: bool = True,
    optimizer_state: str = "keep",
    precision: str = "params",
) -> Algorithm:
    """`inner`, which can also `unlearn(params, state, asked)`; it trains as `inner` does, bit for
    bit.

    `asked` has an entry for each task and then for each declared set (`forget_sets.mask` makes
    one); it may stop short.

    Args:
        inner: Any algorithm that trains on one task at a time.
        num_tasks: Tasks to keep a record of, >= 1, as many as `inner` has heads for. A record is as
            large as the parameters.
        forget_sets: Examples that may have to be forgotten without their task; each set costs a
            record, and an addition at every step.
        record: False keeps no records, and nothing can be unlearned.
        optimizer_state: On unlearning, `keep` the optimiser's state, or `reset` it to the start's,
            all but its rates. A task that begins restarts it anyway, unless it is carried.
        precision: Of the records: `params`, the number type of the parameters, or `float64`.

    Raises:
        ValueError: A wrong word or count, an `inner` that mixes tasks, can unlearn, or has a term
            that remembers tasks and cannot forget one; a forget set that does not exist.
    """
    choice(optimizer_state, "optimizer_state", ("keep", "reset"))
    choice(precision, "precision", records.PRECISIONS)
    head = _head(inner, num_tasks, len(forget_sets) > 0)
    settings: Settings = {
        "name": "amnesiac",
        "inner": of_part(inner, inner.step),
        "num_tasks": num_tasks,
        "records": record,
        "optimizer_state": optimizer_state,
        "precision": precision,
        "forget_sets": declared(forget_sets, num_tasks, head),
    }
    if not record:
        return inner._replace(unlearn=None, settings=settings)

    recording = recorded(inner, num_tasks=num_tasks, forget_sets=forget_sets, precision=precision)
    bank = bank_of(recording)
    tasks = tasks_of(forget_sets)

    def init(key: Key) -> tuple[Params, AmnesiacState]:
        params, state = recording.init(key)
        start = optimizer_of(state) if optimizer_state == "reset" else ()
        return params, AmnesiacState(
            inner=state.inner,
            records=state.records,
            forgotten=state.forgotten,
            start=start,
        )

    def unlearn(
        params: Params, state: AmnesiacState, asked: Tensor
    ) -> tuple[Params, AmnesiacState]:
        asked = filled(asked, num_tasks + len(forget_sets))
        by_task = asked[:num_tasks]
        # a task takes its sets along
        asked = asked | torch.cat([by_task, *(by_task[task, None] for task in tasks)])

        rows = bank.rows(params, state)
        less, rows = records.subtract(state.records, params, rows, asked, tasks)
        less, after = bank.restore(less, state, rows, by_task)

        if optimizer_state == "reset":
            after = with_optimizer(after, state.start, keep="lr")
        after = after._replace(
            records=records.clear(state.records, asked),
            forgotten=state.forgotten | asked,
        )
        return tree.where(asked.any(), (less, after), (params, state))

    return recording._replace(init=init, unlearn=unlearn, settings=settings)


def _head(inner: Algorithm, num_tasks: int, in_part: bool) -> Settings | None:
    """The settings of the head, None where no model has any. Raise ValueError for a bad `inner`."""
    if not isinstance(num_tasks, int) or num_tasks < 1:
        raise ValueError(f"num_tasks must be a whole number of at least 1, given {num_tasks!r}")
    check_forgettable(inner.settings, in_part=in_part)
    if inner.unlearn is not None:
        raise ValueError(
            f"amnesiac wraps what cannot unlearn yet, given {inner.settings.get('name')}, which can"
        )
    head = find(inner.settings, "head")
    if head and len(head["classes"]) != num_tasks:
        raise ValueError(
            f"num_tasks must be {len(head['classes'])}, as many as inner has heads for,"
            f" given {num_tasks}"
        )
    return head
