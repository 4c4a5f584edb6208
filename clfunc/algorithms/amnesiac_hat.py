"""AmnesiacHAT [1]: hard attention that can forget a task, and make up for what that costs later ones.

    amnesiac_hat(model, tx, ...) = amnesiac(hat(model, tx, ...), ...), and with `compensate` and `repair_steps` what
    `clfunc.unlearning.compensation` does about weights that a remaining task shares with the forgotten one

Exact: earlier tasks keep their very bits, since later tasks' updates are 0 on their weights. Start plus records is the
parameters, also after compensation and repair, whose changes are recorded for the first task that uses the weight. Units that
the forgotten task alone used are free at once; its embedding and head are those of its start, its kept examples are deleted.
Not exact: what later tasks learned, and which units they chose, came of a network that knew the forgotten task. Compensation
and repair are training, not undoing; and a backup keeps what was added to it by a later task that is itself forgotten.

Departs from [1]: training is `hat`'s, to the bit, where [1] adds the backups' loss to it; one backup a task, where [1] has one
for each pair; all weights that the task could move, where [1] restores those between units that both use; a repair of all
remaining tasks together. Backups cost a forward and a backward pass for each task at every step, and its memory.

[1] CLArena's AmnesiacHAT; Serra et al. 2018, arXiv:1801.01423 (HAT)
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

from torch import Tensor

from clfunc import tree
from clfunc.algorithms.amnesiac import AmnesiacState, amnesiac
from clfunc.algorithms.hat import hat
from clfunc.compose import bank_of, lift
from clfunc.hard_attention import gates as attention
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


class AmnesiacHATState(NamedTuple):
    inner: AmnesiacState
    before: attention.Units  # [tasks, units]: in use when the task began
    backups: State  # repair.Backups; () without compensation
    memory: State  # repair.Memory; () without repair
    repair_lr: Scalar
    distillation: Scalar


def amnesiac_hat(
    model: Model,
    tx: Transform,
    *,
    num_tasks: int,
    s_max: Number = 400.0,
    mask_sparsity_reg_factor: Number = 0.75,
    freeze_head_after: int | None = None,
    optimizer_state: str = "keep",
    precision: str = "params",
    compensate: bool = False,
    repair_steps: int = 0,
    repair_lr: Number = 0.01,
    distillation: Number = 0.5,
    buffer_size: int = 100,
) -> Algorithm:
    """`amnesiac` around `hat`: arguments and errors not listed are as there.

    Args:
        compensate: Train backups, and put them in place of what is taken off.
        repair_steps: Steps of gradient descent on kept examples after each unlearning; 0 keeps none.
        repair_lr: Its rate, > 0; distillation: weight of the stored logits beside the labels, >= 0.
        buffer_size: Examples of each task to keep, its last ones, >= 1.
    """
    given: dict[str, Any] = {"s_max": s_max, "mask_sparsity_reg_factor": mask_sparsity_reg_factor}
    strict = hat(model, tx, num_tasks=num_tasks, freeze_head_after=freeze_head_after, **given)
    inner = amnesiac(
        strict, num_tasks=num_tasks, optimizer_state=optimizer_state, precision=precision
    )
    numbers = scalar(repair_lr, "repair_lr", 0, above=True), scalar(distillation, "distillation", 0)
    _check(tx, compensate, repair_steps, buffer_size)
    lifted = lift(inner)
    undo = cast(Callable[..., Any], lifted.unlearn)

    def shared(params: Params) -> Params:
        return {
            group: part
            for group, part in params.items()
            if group not in ("embedding", *model.head.owns)
        }

    def init(key: Key) -> tuple[Params, AmnesiacHATState]:
        params, state = inner.init(key)
        common, bank, inputs = shared(params), state.inner.attention.rows, model.settings["inputs"]
        shape = (inputs,) if isinstance(inputs, int) else tuple(inputs)
        backups = repair.no_backups(tx, fold_in(key, 1), common, bank) if compensate else ()
        memory = (
            repair.no_examples(common, shape, model.head.classes, num_tasks, buffer_size)
            if repair_steps
            else ()
        )
        return params, AmnesiacHATState(state, tree.zeros_like(bank), backups, memory, *numbers)

    def step(
        params: Params, state: AmnesiacHATState, batch: Batch
    ) -> tuple[Params, AmnesiacHATState, Metrics]:
        moved, after, metrics = lifted.step(params, state, batch)
        if compensate:
            told, attend = state.inner.inner, state.inner.inner.attention
            s = attention.gate_scale("paper", attend.step, attend.steps_per_epoch, attend.s_max)
            loss = repair.batch_loss(
                model, params, attention.gates(params["embedding"], s), told.head, batch
            )
            after = after._replace(
                backups=repair.train(tx, loss, state.backups, shared(params), batch.task)
            )
        if repair_steps:
            after = after._replace(memory=repair.remember(state.memory, batch))
        return moved, after, metrics

    def begin_task(
        params: Params, state: AmnesiacHATState, task: Task
    ) -> tuple[Params, AmnesiacHATState]:
        params, state = lifted.begin_task(params, state, task)
        attend = state.inner.inner.attention
        again = tree.take(attend.met, task.id)
        before = tree.where(again, state.before, tree.put(state.before, task.id, attend.used))
        if compensate:
            backups = repair.begin(model, tx, state.backups, params, before, attend, task.id)
            state = state._replace(backups=backups)
        return params, state._replace(before=before)

    def end_task(params: Params, state: AmnesiacHATState) -> tuple[Params, AmnesiacHATState]:
        attend, memory = state.inner.inner.attention, state.memory
        params, state = lifted.end_task(params, state)
        if compensate:
            start = tree.map(
                lambda p, r: (p - r).to(p.dtype),
                shared(params),
                shared(state.inner.records.working),
            )
            new = ~tree.take(attend.met, attend.current)
            state = state._replace(backups=repair.end(state.backups, start, attend.current, new))
        if repair_steps:
            logits = inner.predict(params, state.inner, memory.working.x, attend.current)
            state = state._replace(memory=repair.keep_examples(memory, logits, attend.current))
        return params, state

    def unlearn(
        params: Params, state: AmnesiacHATState, asked: Tensor
    ) -> tuple[Params, AmnesiacHATState]:
        asked = filled(asked, num_tasks)
        undone, after = undo(params, state, asked)
        own, left = bank_of(inner).rows(undone, after.inner), after.inner.inner
        masks = tree.map(lambda e: (e > 0) & left.attention.met[:, None], own["embedding"])
        reach, users = (
            shared(repair.movable(model, params, state.before)),
            shared(repair.between(model, params, masks)),
        )

        mended = shared(undone)
        if compensate:
            mended = repair.restored(mended, state.backups.params, reach, asked, users)
        if repair_steps:
            after = after._replace(memory=repair.without(state.memory, asked))
            loss = repair.replay_loss(
                model, own, left.head, after.memory, left.attention.met, state.distillation
            )
            region = repair.lost(reach, asked, users)
            mended = repair.descended(loss, mended, region, state.repair_lr, repair_steps)

        records = repair.credited(after.inner.records, tree.sub(mended, shared(undone)), users)
        after = after._replace(inner=after.inner._replace(records=records))
        return tree.where(asked.any(), (undone | mended, after), (params, state))

    settings = inner.settings | {
        "name": "amnesiac_hat",
        "compensate": compensate,
        "repair_steps": repair_steps,
    }
    settings |= {"repair_lr": numbers[0], "distillation": numbers[1], "buffer_size": buffer_size}
    hooks: dict[str, Any] = {"begin_task": begin_task, "end_task": end_task}
    hooks |= {"unlearn": unlearn} if compensate or repair_steps else {}
    return lifted._replace(init=init, step=step, **hooks, settings=settings)


def _check(tx: Transform, compensate: bool, repair_steps: int, buffer_size: int) -> None:
    resets = declares(tx.settings, "place", "last")
    if compensate and resets is not None:
        raise ValueError(
            f"amnesiac_hat cannot train backups with what resets units, given {resets}"
        )
    if not isinstance(repair_steps, int) or repair_steps < 0 or buffer_size < 1:
        raise ValueError(
            f"repair_steps must be at least 0 and buffer_size 1, given {repair_steps} and {buffer_size}"
        )
