"""What forgetting a task costs later tasks under hard attention, and two ways to make up for it:
backups and replay.

A later task may rest on weights that the forgotten one has moved, and taking its updates off
changes them under it. With M_u the weights into units that task u could move, those not between
units that tasks before u used,

    backup_u     what the weights M_u would be without u. It starts as they were before u, and each batch of later tasks trains
                 it too, on loss(where(M_u, backup_u, params)), as hard attention does: what a task
                 but u has claimed stays
    compensate   params <- where(M_u and between units of a remaining task, backup_u, params)
    repair       the same weights descend on examples kept of each remaining task, by their labels and by the logits that the
                 network gave at the task's end [1]

Weights between units of a task before u are not in M_u, so neither changes what those compute.

[1] Buzzega et al. 2020, arXiv:2004.07211 (DER++)
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from clfunc import tree
from clfunc.bank import repeated
from clfunc.hard_attention.embeddings import EmbeddingsState
from clfunc.hard_attention.gates import Units
from clfunc.losses import weighted_mean
from clfunc.types import Batch, Context, Key, Model, Params, Scalar, State, Transform
from clfunc.units import masks
from clfunc.unlearning.records import Records, check_in, in_place


class Backups(NamedTuple):
    """One a task, `[tasks, ...]`, of the parameters that tasks share."""

    params: Params
    opt: State
    reach: Params  # Bool: M, the weights that the task could move
    free: Params  # Bool: the part of M that the task in training may move


class Memory(NamedTuple):
    """The last examples of each task, and of the task in training."""

    working: Batch  # [size, ...], weight 0 where there is none yet
    bank: Batch  # [tasks, size, ...]
    logits: Tensor  # [tasks, size, classes], as they were when the task ended


def logits_of(
    model: Model, params: Params, gates: Units, head: State, x: Tensor, task: Tensor
) -> Tensor:
    """The logits of a network with these gates, as its head's state masks them."""
    return model.head.mask(head, model.apply(params, x, task, gates=gates).logits, task)


def batch_loss(
    model: Model, params: Params, gates: Units, head: State, batch: Batch
) -> Callable[[Params], Tensor]:
    """The loss on a batch, of parameters that tasks share; `params` has the others."""

    def loss(shared: Params) -> Tensor:
        logits = logits_of(model, params | shared, gates, head, batch.x, batch.task)
        return model.head.loss(logits, batch.y, batch.weight)

    return loss


def between(model: Model, params: Params, units: Units) -> Params:
    """For each row of `units` `[n, units]`, which weights lie between marked units: Bool `[n,
    ...]`.
    """
    marked = tree.map(lambda m: m.to(torch.float32), units)
    weights = vmap(lambda row: masks.of_weights(model, params, row))(marked)
    return tree.map(lambda w: w > 0, weights)


def movable(model: Model, params: Params, before: Units) -> Params:
    """M: the weights into units that each task could move, by the units in use when it began, Bool
    `[tasks, ...]`.
    """
    every = between(model, params, tree.map(torch.ones_like, before))
    taken = between(model, params, before)
    return tree.map(lambda e, t: e & ~t, every, taken)


def no_backups(tx: Transform, key: Key, shared: Params, num_tasks: int) -> Backups:
    """Backups of no task yet."""
    params = repeated(tree.zeros_like(shared), num_tasks)
    nowhere = tree.map(lambda p: torch.zeros_like(p, dtype=torch.bool), params)
    return Backups(
        params=params,
        opt=repeated(tx.init(key, shared), num_tasks),
        reach=nowhere,
        free=tree.clone(nowhere),
    )


def begin(
    model: Model,
    tx: Transform,
    backups: Backups,
    params: Params,
    before: Units,
    attend: EmbeddingsState,
    task: Tensor,
) -> Backups:
    """Backups as a task begins: their optimisers restart, and a weight may move that no other task
    has claimed.

    Args:
        model: Its wires say which weights lie between units.
        tx: The optimiser of the backups.
        backups: Of all tasks.
        params: Of the network.
        before: Units in use when each task began, `[tasks, units]`.
        attend: The state of hard attention.
        task: The task that begins, 0-d.
    """
    number = torch.arange(len(attend.met), device=task.device)
    mask = tree.map(lambda e: (e > 0) & attend.met[:, None], attend.rows)
    apart = (number[:, None] != number)[:, :, None]
    others = tree.map(lambda m: (m & apart).any(1), mask)
    waiting = attend.met & (number != task)

    def open_to(m: Tensor, taken: Tensor) -> Tensor:
        return m & ~taken & tree.expand_last(waiting, m.ndim)

    every = movable(model, params, before)
    claimed = between(model, params, others)
    reach = {group: every[group] for group in backups.params}
    taken = {group: claimed[group] for group in backups.params}
    return Backups(
        params=backups.params,
        opt=vmap(tx.begin_task)(backups.opt, backups.params),
        reach=reach,
        free=tree.map(open_to, reach, taken),
    )


def end(backups: Backups, start: Params, task: Tensor, new: Tensor) -> Backups:
    """Backups as a task ends: its own begins where the task did, if it is `new`."""
    params = tree.where(new, tree.put(backups.params, task, start), backups.params)
    return backups._replace(params=params)


def train(
    tx: Transform, loss: Callable[[Params], Tensor], backups: Backups, shared: Params, task: Tensor
) -> Backups:
    """One step of every task's backup on the `loss` of parameters that tasks share."""

    def one(backup: Params, opt: State, reach: Params, free: Params) -> tuple[Params, State]:
        gradient = grad(lambda b: loss(tree.map(torch.where, reach, b, shared)))(backup)
        updates, opt = tx.update(gradient, opt, backup, Context({}, task, {}))
        return tree.map(lambda b, u, f: b + torch.where(f, u, 0), backup, updates, free), opt

    params, opt = vmap(one)(backups.params, backups.opt, backups.reach, backups.free)
    return backups._replace(params=params, opt=opt)


def lost(reach: Params, forgotten: Tensor, users: Params) -> Params:
    """The weights that a forgotten task could move and a remaining one uses."""

    def one(m: Tensor, u: Tensor) -> Tensor:
        moved = m & tree.expand_last(forgotten, m.ndim)
        return moved.any(0) & u.any(0)

    return tree.map(one, reach, users)


def restored(
    params: Params, backups: Params, reach: Params, forgotten: Tensor, users: Params
) -> Params:
    """`params` with a backup in the place of each weight lost: that of the first forgotten task
    that could move it.
    """

    def one(p: Tensor, b: Tensor, m: Tensor, here: Tensor) -> Tensor:
        asked = m & tree.expand_last(forgotten, m.ndim)
        first = asked & (asked.cumsum(0) == 1)
        return torch.where(here, torch.where(first, b, 0).sum(0), p)

    return tree.map(one, params, backups, reach, lost(reach, forgotten, users))


def descended(
    loss: Callable[[Params], Tensor], params: Params, region: Params, lr: Scalar, steps: int
) -> Params:
    """`params` after this many steps of gradient descent on `loss`, of the weights in `region`
    only.
    """
    for _ in range(steps):
        gradient = grad(loss)(params)
        params = tree.map(lambda p, g, r: torch.where(r, p - lr * g, p), params, gradient, region)
    return params


def credited(records: Records, change: Params, users: Params) -> Records:
    """Records with a change of shared parameters added to the record of the first task that uses
    each weight.
    """

    def one(row: Tensor, c: Tensor, u: Tensor) -> Tensor:
        first = u & (u.cumsum(0) == 1)
        return row + torch.where(first, c.to(row.dtype), 0)

    rows = dict(check_in(records).bank.rows)
    for group, changed in change.items():
        rows[group] = tree.map(one, rows[group], changed, users[group])
    return in_place(records, rows)


def no_examples(
    params: Params, inputs: tuple[int, ...], classes: int, num_tasks: int, size: int
) -> Memory:
    """Room for `size` examples of each task."""
    like = tree.leaves(params)[0]
    task = torch.zeros((), dtype=torch.int64, device=like.device)
    working = Batch(
        x=like.new_zeros((size, *inputs)),
        y=task.expand(size).clone(),
        task=task,
        weight=like.new_zeros(size),
    )
    return Memory(
        working=working,
        bank=repeated(working, num_tasks),
        logits=like.new_zeros((num_tasks, size, classes)),
    )


def remember(memory: Memory, batch: Batch) -> Memory:
    """The working examples with those of the batch, as many as there is room for, instead of the
    oldest.
    """
    old = memory.working
    size = old.weight.shape[0]

    def latest(new: Tensor, kept: Tensor) -> Tensor:
        return torch.cat([new.to(kept.dtype), kept])[:size]

    working = Batch(
        x=latest(batch.x.reshape(-1, *old.x.shape[1:]), old.x),
        y=latest(batch.y, old.y),
        task=batch.task.to(torch.int64),
        weight=latest(batch.weight, old.weight),
    )
    return memory._replace(working=working)


def keep_examples(memory: Memory, logits: Tensor, task: Tensor) -> Memory:
    """Keep the working examples as the task's, with the network's logits for them.

    Begin with none again.
    """
    return Memory(
        working=tree.zeros_like(memory.working),
        bank=tree.put(memory.bank, task, memory.working),
        logits=tree.put(memory.logits, task, logits),
    )


def without(memory: Memory, forgotten: Tensor) -> Memory:
    """Keep no example of a forgotten task."""

    def kept(condition: Tensor, values: Params) -> Params:
        return tree.where(condition, values, tree.zeros_like(values))

    return Memory(
        working=kept(~tree.take(forgotten, memory.working.task), memory.working),
        bank=kept(~forgotten, memory.bank),
        logits=kept(~forgotten, memory.logits),
    )


def replay_loss(
    model: Model, banked: Params, head: State, memory: Memory, tasks: Tensor, distillation: Scalar
) -> Callable[[Params], Tensor]:
    """The mean over tasks of the loss on the examples kept of each, of parameters that tasks share.

    For one task it is the loss by its labels + distillation * mean squared distance from the logits
    stored.

    Args:
        model: The network.
        banked: The groups that each task has for itself, rows `[tasks, ...]`.
        head: The head's state.
        memory: The examples.
        tasks: The tasks that count, Bool[tasks].
        distillation: Weight of the distance.
    """

    def one(shared: Params, row: Params, kept: Batch, stored: Tensor, task: Tensor) -> Tensor:
        gates = {group: (e > 0).to(e.dtype) for group, e in row["embedding"].items()}
        logits = logits_of(model, row | shared, gates, head, kept.x, task)
        # -inf: logits of classes not seen
        finite = logits.isfinite() & stored.isfinite()
        apart = torch.where(finite, logits - stored, 0.0)
        far = weighted_mean((apart**2).mean(1), kept.weight)
        return model.head.loss(logits, kept.y, kept.weight) + distillation * far

    def loss(shared: Params) -> Tensor:
        number = torch.arange(len(tasks), device=tasks.device)
        of_each = vmap(one, in_dims=(None, 0, 0, 0, 0))
        each = of_each(shared, banked, memory.bank, memory.logits, number)
        return torch.where(tasks, each, 0.0).sum() / tasks.sum().clamp(min=1)

    return loss
