"""Output heads: `til`, `cil`, `dil`, `mtl`, `stl`, `regression`.

| head  | weights                                    | classes that count                              |
|-------|--------------------------------------------|-------------------------------------------------|
| `til` | one head a task; one trains, the rest wait | the task's own                                  |
| `cil` | one over all classes                       | those of the tasks begun so far                 |
| `dil` | one that all tasks share                   | all                                             |
| `mtl` | one head a task, all side by side          | each example's own task's                       |
| `stl` | one                                        | all                                             |
| `regression` | one that all tasks share            | none: its outputs are numbers                   |

A task-incremental head leaves its bank for `params["head"]` when its task begins, and returns to it
when the task ends. So a step costs the same at 2 tasks and at 200, no other head can move under any
optimiser, and a task that returns finds its own head. Tasks may differ in their number of classes:
`classes=(10, 10, 2)`. `with_own` does the same for other groups of the parameters, under `til`,
`cil` and `dil`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import linear

from clfunc import tree
from clfunc.bank import in_fields, parked, repeated, shared
from clfunc.losses import accuracy, cross_entropy, squared_error
from clfunc.random import split, uniform
from clfunc.settings import of_part
from clfunc.types import Bank, Head, HeadSpec, Key, Logits, Metrics, Params, Settings, State, TaskId

_BY_TASK = ("til", "cil", "dil", "mtl")  # paradigms that know the task of each example


class HeadState(NamedTuple):
    """What a head keeps; () for what its paradigm does not need."""

    bank: State  # BankState of the heads; () where tasks share one
    classes: State  # Bool[tasks, classes]: the classes of each task
    seen: State  # Bool[classes]: the classes of the tasks begun so far


class OwningState(NamedTuple):
    """The state of a head with other groups that each task has for itself."""

    head: State
    own: State  # BankState of the groups


def til(num_tasks: int, classes: int | Sequence[int]) -> Head:
    """One head a task, of which one trains at a time. Labels are local to the task.

    Args:
        num_tasks: Number of tasks, >= 1.
        classes: Classes of every task, or one count a task. Logits are as wide as the largest
            count, and -inf past a task's own classes.

    Raises:
        ValueError: A count below 1, or a sequence of another length than `num_tasks`.

    >>> head = til(3, classes=(10, 10, 2))
    >>> head.paradigm, head.num_tasks, head.classes, head.owns
    ('til', 3, 10, ('head',))
    """
    counts = _counts(num_tasks, classes)
    width = max(counts)

    def start(key: Key, params: Params) -> Params:
        weight = params["head"]["weight"]
        return {"head": _draw(key, (num_tasks, width), weight.shape[-1], weight.dtype)}

    heads = parked(("head",), start)

    def init(key: Key, params: Params) -> HeadState:
        own = _local(counts, key.device)
        return HeadState(bank=heads.init(key, params), classes=own, seen=())

    def apply(head: Params, features: Tensor, task: TaskId) -> Logits:
        if task.ndim:
            raise ValueError(
                "a til head takes batches of one task, given one that mixes tasks:"
                " use scenario.head(together=True)"
            )
        return _linear(head, features, task)

    bank = in_fields({"bank": heads})._replace(init=init)
    return _classifier(HeadSpec("til", counts, width), bank)._replace(apply=apply)


def cil(num_tasks: int, classes: int | Sequence[int]) -> Head:
    """One head over all classes; the logits of classes not yet seen are -inf. Labels are global.

    Task t has the labels `sum(classes[:t])` to `sum(classes[:t + 1]) - 1`, in whatever order tasks
    arrive. Arguments and errors as in `til`.

    >>> cil(3, classes=(10, 10, 2)).classes
    22
    """
    counts = _counts(num_tasks, classes)
    width = sum(counts)

    def init(key: Key, params: Params) -> HeadState:
        sizes = torch.tensor(counts, device=key.device)[:, None]
        ends = sizes.cumsum(0)
        label = torch.arange(width, device=key.device)
        own = (label >= ends - sizes) & (label < ends)
        return HeadState(bank=(), classes=own, seen=torch.zeros_like(own[0]))

    def begin_task(params: Params, state: HeadState, task: Tensor) -> tuple[Params, HeadState]:
        seen = state.seen | tree.take(state.classes, task)
        return params, state._replace(seen=seen)

    def restore(
        params: Params, state: HeadState, rows: Params, forgotten: Tensor
    ) -> tuple[Params, HeadState]:
        unseen = (state.classes & forgotten[:, None]).any(0)
        return params, state._replace(seen=state.seen & ~unseen)

    bank = Bank(init=init, begin_task=begin_task, restore=restore)
    return _classifier(HeadSpec("cil", counts, width), bank)


def dil(num_tasks: int, classes: int | Sequence[int]) -> Head:
    """One head that all tasks share, as wide as the largest class count. Arguments and errors as in
    `til`.

    >>> dil(3, classes=(10, 10, 2)).classes
    10
    """
    counts = _counts(num_tasks, classes)
    return _classifier(HeadSpec("dil", counts, max(counts)), _no_bank())


def stl(classes: int) -> Head:
    """One head for one task, or for a mixture of tasks that share their labels.

    Args:
        classes: Number of classes, >= 1.

    Raises:
        ValueError: A count below 1.

    >>> stl(10).num_tasks
    1
    """
    counts = _counts(1, classes)
    return _classifier(HeadSpec("stl", counts, classes, together=True), _no_bank())


def mtl(num_tasks: int, classes: int | Sequence[int]) -> Head:
    """One head a task, all in `params`, for batches that mix tasks; each example takes its own
    task's head.

    A head whose task is neither in the batch nor in the memory does not move, under any optimiser.
    Arguments and errors as in `til`.

    >>> mtl(3, classes=2).spec.rows
    ('head',)
    """
    counts = _counts(num_tasks, classes)
    width = max(counts)

    def init(key: Key, units: int, dtype: torch.dtype) -> Params:
        return _draw(key, (num_tasks, width), units, dtype)

    def apply(head: Params, features: Tensor, task: TaskId) -> Logits:
        # all heads as one layer, so that a member of a sweep has the bits that it has alone
        weight = rearrange(head["weight"], "task label unit -> (task label) unit")
        joined = linear(features, weight, rearrange(head["bias"], "task label -> (task label)"))
        every = rearrange(joined, "batch (task label) -> batch task label", task=num_tasks)
        # [batch, tasks], or [1, tasks] where one task has the whole batch
        member = task.reshape(-1, 1) == torch.arange(num_tasks, device=task.device)
        return torch.where(member[:, :, None], every, 0.0).sum(1)

    def start(key: Key, params: Params) -> HeadState:
        return HeadState(bank=(), classes=_local(counts, key.device), seen=())

    spec = HeadSpec("mtl", counts, width, together=True, rows=("head",))
    head = _classifier(spec, Bank(init=start))
    return head._replace(init=init, apply=apply)


def regression(num_tasks: int, outputs: int = 1) -> Head:
    """One head of numbers that all tasks share, trained by squared error; targets are `[batch,
    outputs]`.

    Args:
        num_tasks: Number of tasks, >= 1.
        outputs: Numbers that the head gives for an example, >= 1.

    Raises:
        ValueError: A count below 1.

    >>> regression(2, outputs=3).classes
    3
    """
    counts = _counts(num_tasks, outputs)
    head = _classifier(HeadSpec("regression", counts, max(counts), together=True), _no_bank())
    return head._replace(loss=squared_error, measure=_nothing)


def together(head: Head) -> Head:
    """The head for batches that mix tasks: `mtl` in place of `til`, which trains one task at a time.

    `cil`, `dil` and `regression` heads are shared by all tasks. For them it decides only where a
    network keeps what each task has for itself: side by side in `params`.

    >>> together(til(3, classes=2)).paradigm, together(dil(3, classes=2)).paradigm
    ('mtl', 'dil')
    """
    if head.paradigm == "til":
        head = mtl(head.num_tasks, head.spec.classes)
    return head._replace(spec=head.spec._replace(together=True))


def with_own(head: Head, groups: Sequence[str] = ("norm",)) -> Head:
    """`head`, and each task also has these groups of the parameters for itself, as `til` has heads.

    Every task starts from what `init` drew. A task's groups are in `params` while it trains, and in
    the bank else. `lookup` finds either, so the algorithm must know the task of an example, also
    under `cil` and `dil`. Under a head for batches that mix tasks (`together`) the groups of all
    tasks are in `params`, side by side: `[tasks, ...]`.

    Args:
        head: Any but `stl`.
        groups: Top-level names in `params`, such as a model's `norm`.

    Raises:
        ValueError: A head of a single task, a group that each task already has for itself, or
            another group than `norm` under a head for batches that mix tasks.

    >>> with_own(til(3, classes=2), ("norm",)).owns
    ('head', 'norm')
    """
    if head.paradigm not in _BY_TASK:
        raise ValueError(
            f"only a {', '.join(_BY_TASK[:-1])} or {_BY_TASK[-1]} head can keep"
            f" {', '.join(groups)} by task, given {head.paradigm}"
        )
    for group in groups:
        if group in head.per_task:
            raise ValueError(f"{group} is a task's own already, given {', '.join(groups)}")
    settings = head.settings | {"own": list(groups)}
    if head.spec.together:
        if tuple(groups) != ("norm",):
            raise ValueError(
                "under a head for batches that mix tasks a network keeps only norm by task, given"
                f" {', '.join(groups)}"
            )
        spec = head.spec._replace(rows=(*head.spec.rows, *groups))
        return head._replace(spec=spec, settings=settings)

    def start(key: Key, params: Params) -> Params:
        row = {group: params[group] for group in groups}
        return repeated(row, head.num_tasks)

    def mask(state: OwningState, logits: Logits, task: TaskId) -> Logits:
        return head.mask(state.head, logits, task)

    banks = {"head": head.bank, "own": parked(groups, start)}
    return head._replace(
        mask=mask,
        bank=in_fields(banks, OwningState),
        settings=settings,
    )


def settings_of(head: Head) -> Settings:
    """The settings of a head, and its loss where that is not the loss of its paradigm."""
    usual = squared_error if head.paradigm == "regression" else cross_entropy
    settings = of_part(head, head.apply)
    return settings if head.loss is usual else settings | {"loss": head.loss}


def _classifier(spec: HeadSpec, bank: Bank) -> Head:
    """A linear head that is trained by cross-entropy, masked by the classes that its state names."""
    narrow = min(spec.classes) < spec.width

    def init(key: Key, units: int, dtype: torch.dtype) -> Params:
        return _draw(key, (spec.width,), units, dtype)

    def mask(state: HeadState, logits: Logits, task: TaskId) -> Logits:
        if isinstance(state.seen, Tensor):
            return _masked(logits, state.seen)
        if isinstance(state.classes, Tensor) and narrow:
            return _masked(logits, tree.take(state.classes, task))
        return logits

    settings: Settings = {"name": spec.paradigm, "classes": list(spec.classes)}
    return Head(
        spec=spec,
        init=init,
        apply=_linear,
        mask=mask,
        loss=cross_entropy,
        measure=_accuracy,
        bank=bank,
        settings=settings,
    )


def _no_bank() -> Bank:
    """The bank of a head that tasks share, and whose every class counts."""

    def init(key: Key, params: Params) -> HeadState:
        return HeadState(bank=(), classes=(), seen=())

    return shared()._replace(init=init)


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


def _draw(key: Key, rows: tuple[int, ...], units: int, dtype: torch.dtype) -> Params:
    """`torch.nn.Linear`'s own distribution: weights and biases from U(-1/sqrt(units),
    1/sqrt(units)).
    """
    bound = units**-0.5
    first, second = split(key)
    return {
        "weight": uniform(first, (*rows, units), -bound, bound, dtype=dtype),
        "bias": uniform(second, rows, -bound, bound, dtype=dtype),
    }


def _accuracy(logits: Logits, y: Tensor, weight: Tensor) -> Metrics:
    return {"accuracy": accuracy(logits.detach(), y, weight)}


def _nothing(outputs: Tensor, y: Tensor, weight: Tensor) -> Metrics:
    return {}


def _local(counts: tuple[int, ...], device: torch.device) -> Tensor:
    sizes = torch.tensor(counts, device=device)[:, None]
    return torch.arange(max(counts), device=device) < sizes


def _linear(head: Params, features: Tensor, task: TaskId) -> Logits:
    return linear(features, head["weight"], head["bias"])


def _masked(logits: Logits, own: Tensor) -> Logits:
    return torch.where(own, logits, -torch.inf)
