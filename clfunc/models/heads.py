"""Output heads: `til`, `cil`, `dil`, `mtl`, `stl`, `regression`.

| head  | weights                                    | classes that count                              |
|-------|--------------------------------------------|-------------------------------------------------|
| `til` | one head a task; one trains, the rest wait | the task's own                                  |
| `cil` | one over all classes                       | those of the tasks begun so far                 |
| `dil` | one that all tasks share                   | all                                             |
| `mtl` | one head a task, all train together        | each example's own task's                       |
| `stl` | one                                        | all                                             |
| `regression` | one that all tasks share            | none: its outputs are numbers                   |

A task-incremental head is checked out of its bank into `params["head"]` when its task begins, and back in when it ends. So
a step costs the same at 2 tasks and at 200, no other head can move under any optimiser, and a task met again finds its
own head. Classes may be fewer in one task than in another: `classes=(10, 10, 2)`. `with_own` does the same for other groups of
the parameters, under `til`, `cil` and `dil`.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from clfunc import tree
from clfunc.losses import accuracy, cross_entropy, squared_error
from clfunc.random import split, uniform
from clfunc.types import Head, Key, Logits, Metrics, Params, State, TaskId, keep


class BankState(NamedTuple):
    """Task-incremental: all heads (the working one's entry is out of date), whose turn it is, and each task's classes."""

    bank: Params  # [tasks, classes, units], [tasks, classes]
    current: Tensor  # task id of the working head; -1 before the first task
    own: Tensor  # Bool[tasks, classes]


class SeenState(NamedTuple):
    """Class-incremental: each task's classes among all, and those that have been seen."""

    own: Tensor  # Bool[tasks, classes]
    seen: Tensor  # Bool[classes]


class OwnState(NamedTuple):
    """Multi-task: each task's classes."""

    own: Tensor  # Bool[tasks, classes]


class OwningState(NamedTuple):
    """With groups that each task has for itself: those of all tasks (the working one's entries are out of date)."""

    head: State
    bank: Params  # group -> leaves [tasks, ...]
    current: Tensor  # task id of the working groups; -1 before the first task


def til(num_tasks: int, classes: int | Sequence[int]) -> Head:
    """One head a task, of which one trains at a time. Labels are local to the task.

    Args:
        num_tasks: Number of tasks, >= 1.
        classes: Classes of every task, or one count a task; logits are as wide as the largest, -inf past a task's own.

    Raises:
        ValueError: A count below 1, or a sequence of another length than `num_tasks`.
    """
    counts = _counts(num_tasks, classes)
    width = max(counts)

    def init(key: Key, units: int, dtype: torch.dtype) -> Params:
        return _draw(key, (width,), units, dtype)

    def park(key: Key, params: Params) -> BankState:
        weight = params["head"]["weight"]
        bank = _draw(key, (num_tasks, width), weight.shape[-1], weight.dtype)
        current = torch.full((), -1, dtype=torch.int64, device=key.device)
        return BankState(bank, current, _local(counts, key.device))

    def begin_task(params: Params, state: BankState, task: Tensor) -> tuple[Params, BankState]:
        return lookup(params, state, task), state._replace(current=task.to(torch.int64))

    def end_task(params: Params, state: BankState) -> tuple[Params, BankState]:
        return params, state._replace(bank=tree.put(state.bank, state.current, params["head"]))

    def lookup(params: Params, state: BankState, task: TaskId) -> Params:
        parked = tree.take(state.bank, task)
        return {**params, "head": tree.where(task == state.current, params["head"], parked)}

    def own(params: Params, state: BankState) -> Params:
        return {"head": tree.put(state.bank, state.current, params["head"])}

    def restore(
        params: Params, state: BankState, own: Params, gone: Tensor
    ) -> tuple[Params, BankState]:
        bank = {"head": own["head"]}
        return checked_out(params, state.current, bank), state._replace(bank=own["head"])

    def mask(state: BankState, logits: Logits, task: TaskId) -> Logits:
        return _masked(logits, tree.take(state.own, task)) if min(counts) < width else logits

    return _classifier(
        "til",
        width,
        num_tasks,
        init,
        _linear,
        park,
        begin_task,
        end_task,
        lookup,
        mask,
        _settings("til", counts),
        owns=("head",),
        own=own,
        restore=restore,
    )


def cil(num_tasks: int, classes: int | Sequence[int]) -> Head:
    """One head over all classes; the logits of classes not yet seen are -inf. Labels are global.

    Task t owns the labels `sum(classes[:t])` to `sum(classes[:t + 1]) - 1`, in whatever order tasks arrive. Arguments and
    errors as in `til`.
    """
    counts = _counts(num_tasks, classes)

    def init(key: Key, units: int, dtype: torch.dtype) -> Params:
        return _draw(key, (sum(counts),), units, dtype)

    def park(key: Key, params: Params) -> SeenState:
        ends = torch.tensor(counts, device=key.device).cumsum(0)[:, None]
        starts = ends - torch.tensor(counts, device=key.device)[:, None]
        label = torch.arange(sum(counts), device=key.device)
        own = (label >= starts) & (label < ends)
        return SeenState(own, torch.zeros_like(own[0]))

    def begin_task(params: Params, state: SeenState, task: Tensor) -> tuple[Params, SeenState]:
        return params, state._replace(seen=state.seen | tree.take(state.own, task))

    def restore(
        params: Params, state: SeenState, own: Params, gone: Tensor
    ) -> tuple[Params, SeenState]:
        return params, state._replace(seen=state.seen & ~(state.own & gone[:, None]).any(0))

    def mask(state: SeenState, logits: Logits, task: TaskId) -> Logits:
        return _masked(logits, state.seen)

    return _classifier(
        "cil",
        sum(counts),
        num_tasks,
        init,
        _linear,
        park,
        begin_task,
        keep,
        _same,
        mask,
        _settings("cil", counts),
        restore=restore,
    )


def dil(num_tasks: int, classes: int | Sequence[int]) -> Head:
    """One head that all tasks share, as wide as the largest class count. Arguments and errors as in `til`."""
    return _shared("dil", _counts(num_tasks, classes))


def stl(classes: int) -> Head:
    """One head for one task (or for a mixture that shares its labels). `classes` >= 1, else ValueError."""
    return _shared("stl", _counts(1, classes))


def mtl(num_tasks: int, classes: int | Sequence[int]) -> Head:
    """One head a task, all in `params`, for batches that mix tasks; each example takes its own task's head.

    A head whose task is not in the batch gets a zero gradient; `joint` keeps it from moving. Arguments and errors as in
    `til`.
    """
    counts = _counts(num_tasks, classes)
    width = max(counts)

    def init(key: Key, units: int, dtype: torch.dtype) -> Params:
        return _draw(key, (num_tasks, width), units, dtype)

    def apply(head: Params, features: Tensor, task: TaskId) -> Logits:
        every = torch.einsum("bu,tcu->tbc", features, head["weight"]) + head["bias"][:, None]
        member = (
            torch.arange(num_tasks, device=task.device)[:, None] == task
        )  # [tasks, batch], or [tasks, 1]
        return torch.where(member[:, :, None], every, 0.0).sum(0)

    def park(key: Key, params: Params) -> OwnState:
        return OwnState(_local(counts, key.device))

    def mask(state: OwnState, logits: Logits, task: TaskId) -> Logits:
        return _masked(logits, tree.take(state.own, task)) if min(counts) < width else logits

    return _classifier(
        "mtl",
        width,
        num_tasks,
        init,
        apply,
        park,
        keep,
        keep,
        _same,
        mask,
        _settings("mtl", counts),
    )


def regression(num_tasks: int, outputs: int = 1) -> Head:
    """One head of `outputs` (>= 1) numbers that all tasks share, trained by squared error; targets are `[batch, outputs]`."""
    return _shared("regression", _counts(num_tasks, outputs))._replace(
        loss=squared_error, measure=_nothing
    )


def with_own(head: Head, groups: Sequence[str] = ("norm",)) -> Head:
    """`head`, which keeps these groups of the parameters for each task by itself too, as `til` keeps heads.

    Every task starts from what `init` drew. A task's groups are in `params` while it trains and parked else; `lookup` finds
    either, so an algorithm is told which task an example is of, also under `cil` and `dil`.

    Args:
        head: `til`, `cil` or `dil`.
        groups: Top-level names in `params`, such as a model's `norm`.

    Raises:
        ValueError: A head of mixed or single tasks, or a group that a task owns already.
    """
    if head.paradigm not in ("til", "cil", "dil"):
        raise ValueError(
            f"only a til, cil or dil head can keep {', '.join(groups)} by task, given {head.paradigm}"
        )
    for group in groups:
        if group in head.owns:
            raise ValueError(f"{group} is a task's own already, given {', '.join(groups)}")

    def park(key: Key, params: Params) -> OwningState:
        start = {group: params[group] for group in groups}
        bank = tree.map(lambda leaf: leaf.expand(head.num_tasks, *leaf.shape).clone(), start)
        current = torch.full((), -1, dtype=torch.int64, device=key.device)
        return OwningState(head.park(key, params), bank, current)

    def own(params: Params, state: OwningState, task: TaskId) -> Params:
        working = {group: params[group] for group in groups}
        return {**params, **tree.where(task == state.current, working, tree.take(state.bank, task))}

    def begin_task(params: Params, state: OwningState, task: Tensor) -> tuple[Params, OwningState]:
        params, inner = head.begin_task(own(params, state, task), state.head, task)
        return params, state._replace(head=inner, current=task.to(torch.int64))

    def end_task(params: Params, state: OwningState) -> tuple[Params, OwningState]:
        params, inner = head.end_task(params, state.head)
        return params, state._replace(head=inner, bank=parked(params, state))

    def parked(params: Params, state: OwningState) -> Params:
        return tree.put(state.bank, state.current, {group: params[group] for group in groups})

    def own_of_all(params: Params, state: OwningState) -> Params:
        return head.own(params, state.head) | parked(params, state)

    def restore(
        params: Params, state: OwningState, own: Params, gone: Tensor
    ) -> tuple[Params, OwningState]:
        params, inner = head.restore(params, state.head, own, gone)
        bank = {group: own[group] for group in groups}
        return checked_out(params, state.current, bank), state._replace(head=inner, bank=bank)

    def lookup(params: Params, state: OwningState, task: TaskId) -> Params:
        return head.lookup(own(params, state, task), state.head, task)

    def mask(state: OwningState, logits: Logits, task: TaskId) -> Logits:
        return head.mask(state.head, logits, task)

    return head._replace(
        park=park,
        begin_task=begin_task,
        end_task=end_task,
        lookup=lookup,
        mask=mask,
        settings=head.settings | {"own": list(groups)},
        owns=(*head.owns, *groups),
        own=own_of_all,
        restore=restore,
    )


def _shared(paradigm: str, counts: tuple[int, ...]) -> Head:
    def init(key: Key, units: int, dtype: torch.dtype) -> Params:
        return _draw(key, (max(counts),), units, dtype)

    def park(key: Key, params: Params) -> State:
        return ()

    def mask(state: State, logits: Logits, task: TaskId) -> Logits:
        return logits

    settings = _settings(paradigm, counts)
    return _classifier(
        paradigm, max(counts), len(counts), init, _linear, park, keep, keep, _same, mask, settings
    )


def _counts(num_tasks: int, classes: int | Sequence[int]) -> tuple[int, ...]:
    if num_tasks < 1:
        raise ValueError(f"num_tasks must be at least 1, given {num_tasks}")
    counts = (classes,) * num_tasks if isinstance(classes, int) else tuple(classes)
    if len(counts) != num_tasks:
        raise ValueError(
            f"classes must be one number or one for each of {num_tasks} tasks, given {len(counts)}"
        )
    if min(counts) < 1:
        raise ValueError(f"classes must be at least 1, given {min(counts)}")
    return counts


def _settings(paradigm: str, counts: tuple[int, ...]) -> dict:
    return {"name": paradigm, "classes": list(counts)}


def _draw(key: Key, rows: tuple[int, ...], units: int, dtype: torch.dtype) -> Params:
    """`torch.nn.Linear`'s own distribution: weights and biases from U(-1/sqrt(units), 1/sqrt(units))."""
    bound = units**-0.5
    first, second = split(key)
    return {
        "weight": uniform(first, (*rows, units), -bound, bound, dtype=dtype),
        "bias": uniform(second, rows, -bound, bound, dtype=dtype),
    }


def _accuracy(logits: Logits, y: Tensor, weight: Tensor) -> Metrics:
    return {"accuracy": accuracy(logits.detach(), y, weight)}


_classifier = partial(Head, loss=cross_entropy, measure=_accuracy)


def _nothing(outputs: Tensor, y: Tensor, weight: Tensor) -> Metrics:
    return {}


def _local(counts: tuple[int, ...], device: torch.device) -> Tensor:
    sizes = torch.tensor(counts, device=device)[:, None]
    return torch.arange(max(counts), device=device) < sizes


def _linear(head: Params, features: Tensor, task: TaskId) -> Logits:
    return linear(features, head["weight"], head["bias"])


def _masked(logits: Logits, own: Tensor) -> Logits:
    return torch.where(own, logits, -torch.inf)


def _same(params: Params, state: State, task: TaskId) -> Params:
    return params


def checked_out(params: Params, current: Tensor, bank: Params) -> Params:
    """`params` with the current task's entry of every group of `bank`; as they are before the first task."""
    working = {group: params[group] for group in bank}
    return {**params, **tree.where(current >= 0, tree.take(bank, current), working)}


def forget(opt: State, params: Params, groups: Sequence[str]) -> State:
    """Clear an optimiser's memory of some groups of the parameters: a task brought others in their place.

    Without it `carry` would let the momentum of one task's head move the next task's.
    """
    gone = tree.map_items(lambda name, _: name.split(".")[0] in groups, params)
    return tree.map_like(
        lambda memory, clear: torch.zeros_like(memory) if clear else memory, params, opt, gone
    )
