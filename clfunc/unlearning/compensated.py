"""A wrapper of `amnesiac(hat(...))` that makes up for what forgetting a task costs later tasks: see
`compensation`.

Backups train beside the network and replace what is subtracted. Repair descends on the last
examples of each remaining task. Either may be left out. The change that they make is recorded for
the first task that uses the weight, so that the start plus all records stays the parameters.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from clfunc import tree
from clfunc.compose import bank_of, lift
from clfunc.hard_attention import gates as attention
from clfunc.hard_attention.embeddings import EmbeddingsState
from clfunc.random import fold_in
from clfunc.settings import declares
from clfunc.types import (
    Algorithm,
    Batch,
    Key,
    Metrics,
    Model,
    Number,
    Params,
    Scalar,
    State,
    Task,
    Transform,
    scalar,
)
from clfunc.unlearning import compensation as repair
from clfunc.unlearning.forget_sets import filled


class CompensatedState(NamedTuple):
    inner: State  # of amnesiac
    before: attention.Units  # [tasks, units]: in use when the task began
    backups: State  # repair.Backups; () without compensation
    memory: State  # repair.Memory; () without repair
    repair_lr: Scalar
    distillation: Scalar


class _Parts(NamedTuple):
    """What the hooks of a compensated algorithm share."""

    inner: Algorithm
    model: Model
    tx: Transform
    num_tasks: int
    compensate: bool
    repair_steps: int

    def shared(self, params: Params) -> Params:
        """The groups of the parameters that tasks share."""
        banked = ("embedding", *self.model.head.owns)
        return {group: part for group, part in params.items() if group not in banked}


def compensated(
    inner: Algorithm,
    model: Model,
    tx: Transform,
    *,
    num_tasks: int,
    compensate: bool = False,
    repair_steps: int = 0,
    repair_lr: Number = 0.01,
    distillation: Number = 0.5,
    buffer_size: int = 100,
) -> Algorithm:
    """`inner`, whose `unlearn` also compensates and repairs.

    Args:
        inner: `amnesiac(hat(model, tx, num_tasks=num_tasks), num_tasks=num_tasks)`.
        model: As `hat` has it.
        tx: The optimiser of the backups.
        num_tasks: Number of tasks, >= 1.
        compensate: Train backups, and put them in place of what is subtracted.
        repair_steps: Steps of gradient descent on kept examples after each unlearning; 0 keeps
            none.
        repair_lr: Learning rate of these steps, > 0.
        distillation: Weight of the stored logits beside the labels, >= 0.
        buffer_size: Examples of each task to keep, its last ones, >= 1.

    Raises:
        ValueError: A number out of its range, or backups with an optimiser that resets units.
    """
    lr = scalar(repair_lr, "repair_lr", 0, above=True)
    weight = scalar(distillation, "distillation", 0)
    _check(tx, compensate, repair_steps, buffer_size)
    parts = _Parts(
        inner=inner,
        model=model,
        tx=tx,
        num_tasks=num_tasks,
        compensate=compensate,
        repair_steps=repair_steps,
    )

    def init(key: Key) -> tuple[Params, CompensatedState]:
        params, state = inner.init(key)
        common = parts.shared(params)
        rows = state.inner.attention.rows
        backups: State = ()
        memory: State = ()
        if compensate:
            backups = repair.no_backups(tx, fold_in(key, 1), common, num_tasks)
        if repair_steps:
            memory = _no_examples(parts, common, buffer_size)
        return params, CompensatedState(
            inner=state,
            before=tree.zeros_like(rows),
            backups=backups,
            memory=memory,
            repair_lr=lr,
            distillation=weight,
        )

    settings = inner.settings | {
        "name": "compensated",
        "compensate": compensate,
        "repair_steps": repair_steps,
        "repair_lr": lr,
        "distillation": weight,
        "buffer_size": buffer_size,
    }
    lifted = lift(inner)
    return lifted._replace(
        init=init,
        step=_step(parts, lifted),
        begin_task=_begin_task(parts, lifted),
        end_task=_end_task(parts, lifted),
        unlearn=_unlearn(parts, lifted) if compensate or repair_steps else lifted.unlearn,
        settings=settings,
    )


def _no_examples(parts: _Parts, params: Params, size: int) -> repair.Memory:
    """Room for examples of the model's inputs."""
    inputs = parts.model.settings["inputs"]
    shape = (inputs,) if isinstance(inputs, int) else tuple(inputs)
    return repair.no_examples(params, shape, parts.model.head.classes, parts.num_tasks, size)


def _attention(state: CompensatedState) -> EmbeddingsState:
    """The state of hard attention, in the state of amnesiac, in this one."""
    return state.inner.inner.attention


def _step(parts: _Parts, lifted: Algorithm) -> Callable[..., tuple[Params, State, Metrics]]:
    def step(
        params: Params, state: CompensatedState, batch: Batch
    ) -> tuple[Params, CompensatedState, Metrics]:
        moved, after, metrics = lifted.step(params, state, batch)
        if parts.compensate:
            attend = _attention(state)
            s = attention.gate_scale("paper", attend.step, attend.steps_per_epoch, attend.s_max)
            gates = attention.gates(params["embedding"], s)
            head = state.inner.inner.head
            loss = repair.batch_loss(parts.model, params, gates, head, batch)
            common = parts.shared(params)
            backups = repair.train(parts.tx, loss, state.backups, common, batch.task)
            after = after._replace(backups=backups)
        if parts.repair_steps:
            after = after._replace(memory=repair.remember(state.memory, batch))
        return moved, after, metrics

    return step


def _begin_task(parts: _Parts, lifted: Algorithm) -> Callable[..., tuple[Params, State]]:
    def begin_task(
        params: Params, state: CompensatedState, task: Task
    ) -> tuple[Params, CompensatedState]:
        params, state = lifted.begin_task(params, state, task)
        attend = _attention(state)
        again = tree.take(attend.met, task.id)
        used = tree.put(state.before, task.id, attend.used)
        before = tree.where(again, state.before, used)
        if parts.compensate:
            backups = repair.begin(
                parts.model, parts.tx, state.backups, params, before, attend, task.id
            )
            state = state._replace(backups=backups)
        return params, state._replace(before=before)

    return begin_task


def _end_task(parts: _Parts, lifted: Algorithm) -> Callable[..., tuple[Params, State]]:
    def end_task(params: Params, state: CompensatedState) -> tuple[Params, CompensatedState]:
        attend = _attention(state)
        memory = state.memory
        params, state = lifted.end_task(params, state)
        if parts.compensate:
            record = parts.shared(state.inner.records.working)
            start = tree.map(lambda p, r: (p - r).to(p.dtype), parts.shared(params), record)
            new = ~tree.take(attend.met, attend.current)
            backups = repair.end(state.backups, start, attend.current, new)
            state = state._replace(backups=backups)
        if parts.repair_steps:
            x = memory.working.x
            logits = parts.inner.predict(params, state.inner, x, attend.current)
            kept = repair.keep_examples(memory, logits, attend.current)
            state = state._replace(memory=kept)
        return params, state

    return end_task


def _unlearn(parts: _Parts, lifted: Algorithm) -> Callable[..., tuple[Params, State]]:
    undo = lifted.unlearn
    assert undo is not None  # amnesiac has one

    def unlearn(
        params: Params, state: CompensatedState, asked: Tensor
    ) -> tuple[Params, CompensatedState]:
        asked = filled(asked, parts.num_tasks)
        undone, after = undo(params, state, asked)
        rows = bank_of(parts.inner).rows(undone, after.inner)
        attend = _attention(after)
        masks = tree.map(lambda e: (e > 0) & attend.met[:, None], rows["embedding"])
        reach = parts.shared(repair.movable(parts.model, params, state.before))
        users = parts.shared(repair.between(parts.model, params, masks))

        repaired = parts.shared(undone)
        if parts.compensate:
            repaired = repair.restored(repaired, state.backups.params, reach, asked, users)
        if parts.repair_steps:
            memory = repair.without(state.memory, asked)
            after = after._replace(memory=memory)
            head = after.inner.inner.head
            loss = repair.replay_loss(
                parts.model, rows, head, memory, attend.met, state.distillation
            )
            region = repair.lost(reach, asked, users)
            repaired = repair.descended(loss, repaired, region, state.repair_lr, parts.repair_steps)

        change = tree.sub(repaired, parts.shared(undone))
        records = repair.credited(after.inner.records, change, users)
        after = after._replace(inner=after.inner._replace(records=records))
        return tree.where(asked.any(), (undone | repaired, after), (params, state))

    return unlearn


def _check(tx: Transform, compensate: bool, repair_steps: int, buffer_size: int) -> None:
    """Raise ValueError for arguments that do not fit together."""
    resetting = declares(tx.settings, "place", "last")
    if compensate and resetting is not None:
        raise ValueError(
            f"amnesiac_hat cannot train backups with what resets units, given {resetting}"
        )
    if not isinstance(repair_steps, int) or repair_steps < 0 or buffer_size < 1:
        raise ValueError(
            f"repair_steps must be at least 0 and buffer_size 1,"
            f" given {repair_steps} and {buffer_size}"
        )
