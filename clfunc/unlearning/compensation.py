"""What forgetting a task costs later tasks under hard attention, and two ways to make up for it: backups and replay.

A later task may rest on weights that the forgotten one has moved, and taking its updates off changes them under it. With M_u
the weights into units that task u could move, those not between units that tasks before u used,

    backup_u     what the weights M_u would be without u. It starts as they were before u, and each batch of later tasks trains
                 it too, on loss(where(M_u, backup_u, params)), as hard attention does: what a task but u has claimed stays
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
from clfunc.hard_attention.embeddings import EmbeddingsState
from clfunc.hard_attention.gates import Units
from clfunc.losses import weighted_mean
from clfunc.types import Batch, Context, Key, Model, Params, Scalar, State, Transform
from clfunc.units import masks
from clfunc.unlearning.records import Records, check_in, in_place


class Backups(NamedTuple):
    """One a task, `[tasks, ...]`: of the parameters that tasks share."""

    params: Params
    opt: State
    reach: Params  # M, and what of it the task in training may move
    free: Params


class Memory(NamedTuple):
    """The last examples of each task, `[tasks, size, ...]`; the working ones, `[size, ...]`, ride along."""

    working: Batch  # as many as there are room for, weight 0 where there is none yet
    bank: Batch
    logits: Tensor  # [tasks, size, classes], as they were when the task ended


def logits_of(
    model: Model, params: Params, gates: Units, head: State, x: Tensor, task: Tensor
) -> Tensor:
    """Of a network with these gates, as its head's state masks them."""
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
    """For each row of `units` `[n, units]`, which weights lie between marked units: Bool `[n, ...]`."""
    marked = tree.map(lambda m: m.to(torch.float32), units)
    return tree.map(lambda w: w > 0, vmap(lambda row: masks.of_weights(model, params, row))(marked))


def movable(model: Model, params: Params, before: Units) -> Params:
    """M: the weights into units that each task could move, by the units in use when it began, Bool `[tasks, ...]`."""
    every, taken = (
        between(model, params, units) for units in (tree.map(torch.ones_like, before), before)
    )
    return tree.map(lambda e, t: e & ~t, every, taken)


def no_backups(tx: Transform, key: Key, shared: Params, units: Units) -> Backups:
    """Backups of no task yet; `units` are `[tasks, units]`."""
    num_tasks = len(tree.leaves(units)[0])

    def rows(leaf: Tensor) -> Tensor:
        return leaf.expand(num_tasks, *leaf.shape).clone()

    params = tree.map(rows, tree.zeros_like(shared))
    nowhere = tree.map(lambda p: torch.zeros_like(p, dtype=torch.bool), params)
    opt = tree.map(rows, tx.init(key, shared))
    return Backups(params, opt, nowhere, tree.clone(nowhere))


def begin(
    model: Model,
    tx: Transform,
    backups: Backups,
    params: Params,
    before: Units,
    attend: EmbeddingsState,
    task: Tensor,
) -> Backups:
    """Backups as a task begins: their optimisers restart, and what may move is what no other task has claimed."""
    own = tree.map(lambda e: (e > 0) & attend.met[:, None], attend.rows)
    apart = ~torch.eye(len(attend.met), dtype=torch.bool, device=task.device)[:, :, None]
    others = tree.map(lambda m: (m & apart).any(1), own)
    waiting = attend.met & (torch.arange(len(attend.met), device=task.device) != task)

    def open_to(m: Tensor, taken: Tensor) -> Tensor:
        return m & ~taken & tree.expand_last(waiting, m.ndim)

    reach, taken = movable(model, params, before), between(model, params, others)
    reach, taken = ({group: part[group] for group in backups.params} for part in (reach, taken))
    opt = vmap(tx.begin_task)(backups.opt, backups.params)
    return Backups(backups.params, opt, reach, tree.map(open_to, reach, taken))


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


def lost(reach: Params, gone: Tensor, users: Params) -> Params:
    """The weights that a task of `gone` could move and a remaining one uses."""
    return tree.map(
        lambda m, u: (m & tree.expand_last(gone, m.ndim)).any(0) & u.any(0), reach, users
    )


def restored(params: Params, backups: Params, reach: Params, gone: Tensor, users: Params) -> Params:
    """`params` with a backup in the place of each weight lost: that of the first task of `gone` that could move it."""

    def one(p: Tensor, b: Tensor, m: Tensor, here: Tensor) -> Tensor:
        asked = m & tree.expand_last(gone, m.ndim)
        return torch.where(here, torch.where(asked & (asked.cumsum(0) == 1), b, 0).sum(0), p)

    return tree.map(one, params, backups, reach, lost(reach, gone, users))


def descended(
    loss: Callable[[Params], Tensor], params: Params, region: Params, lr: Scalar, steps: int
) -> Params:
    """`params` after this many steps of gradient descent on `loss`, of the weights in `region` only."""
    for _ in range(steps):
        gradient = grad(loss)(params)
        params = tree.map(lambda p, g, r: torch.where(r, p - lr * g, p), params, gradient, region)
    return params


def credited(records: Records, change: Params, users: Params) -> Records:
    """Records with a change of shared parameters added to those of the first task that uses each weight."""

    def one(row: Tensor, c: Tensor, u: Tensor) -> Tensor:
        return row + torch.where(u & (u.cumsum(0) == 1), c.to(row.dtype), 0)

    rows = check_in(records).bank.rows
    rows = rows | tree.map(one, {group: rows[group] for group in change}, change, users)
    return in_place(records, rows)


def no_examples(
    params: Params, inputs: tuple[int, ...], classes: int, num_tasks: int, size: int
) -> Memory:
    """Room for `size` examples of each task."""
    like = tree.leaves(params)[0]
    whole = torch.zeros((), dtype=torch.int64, device=like.device)
    working = Batch(
        like.new_zeros((size, *inputs)), whole.expand(size).clone(), whole, like.new_zeros(size)
    )
    bank = tree.map(lambda leaf: leaf.new_zeros((num_tasks, *leaf.shape)), working)
    return Memory(working, bank, like.new_zeros((num_tasks, size, classes)))


def remember(memory: Memory, batch: Batch) -> Memory:
    """The working examples, and those of the batch that there is room for, instead of the oldest."""
    x, y, _, weight = memory.working[:4]
    size = weight.shape[0]
    fresh = (
        batch.x.reshape(-1, *x.shape[1:]).to(x.dtype),
        batch.y.to(y.dtype),
        batch.weight.to(weight.dtype),
    )
    x, y, weight = (
        torch.cat([new, old])[:size] for new, old in zip(fresh, (x, y, weight), strict=True)
    )
    return memory._replace(working=Batch(x, y, batch.task.to(torch.int64), weight))


def keep_examples(memory: Memory, logits: Tensor, task: Tensor) -> Memory:
    """Keep the working examples as the task's, with what the network says of them now; begin with none again."""
    bank, kept = (
        tree.put(a, task, b) for a, b in ((memory.bank, memory.working), (memory.logits, logits))
    )
    return Memory(tree.zeros_like(memory.working), bank, kept)


def without(memory: Memory, gone: Tensor) -> Memory:
    """Keep no example of the tasks of `gone`."""
    kept, stored = (tree.where(~gone, a, tree.zeros_like(a)) for a in (memory.bank, memory.logits))
    working = tree.where(
        ~tree.take(gone, memory.working.task), memory.working, tree.zeros_like(memory.working)
    )
    return Memory(working, kept, stored)


def replay_loss(
    model: Model, own: Params, head: State, memory: Memory, tasks: Tensor, distillation: Scalar
) -> Callable[[Params], Tensor]:
    """The mean over `tasks` (Bool[tasks]) of the loss on what is kept of each, of parameters that tasks share.

    Of one task: loss by its labels + distillation * mean squared distance from the logits stored.
    """

    def one(shared: Params, own: Params, kept: Batch, stored: Tensor, task: Tensor) -> Tensor:
        gates = {group: (e > 0).to(e.dtype) for group, e in own["embedding"].items()}
        logits = logits_of(model, own | shared, gates, head, kept.x, task)
        apart = torch.where(
            logits.isfinite() & stored.isfinite(), logits - stored, 0.0
        )  # -inf: of classes not seen
        far = weighted_mean((apart**2).mean(1), kept.weight)
        return model.head.loss(logits, kept.y, kept.weight) + distillation * far

    def loss(shared: Params) -> Tensor:
        number = torch.arange(len(tasks), device=tasks.device)
        each = vmap(one, in_dims=(None, 0, 0, 0, 0))(
            shared, own, memory.bank, memory.logits, number
        )
        return torch.where(tasks, each, 0.0).sum() / tasks.sum().clamp(min=1)

    return loss
