"""Forget sets: what may be forgotten, a task or some examples of a task.

A task can be forgotten wherever training on it is recorded. Examples of a task must be declared
before training [1]: a batch that holds an example of a declared set is recorded for that set, in
place of the task. So every update is recorded once, and the record of a task is its own record and
the records of its sets: to forget a set and then its task subtracts nothing twice.

A batch that holds examples of several sets is recorded for the first of them. A set can then be
forgotten only together with the sets of its task that are declared before it, or after them: so
declare first what is to be forgotten first.

A request says when a set is forgotten (`clfunc.run(..., requests={1: [ForgetSet(task=0)]})`). Task
numbers count from 0.

[1] Graves et al. 2021, arXiv:2010.10981
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from clfunc.types import Batch, Settings


class ForgetSet(NamedTuple):
    """A task, or examples of a task: those of some classes, some rows, or those that a function
    marks.

    >>> ForgetSet(task=0).label, ForgetSet(task=0, rows=(5, 6, 7, 9)).label
    ('task 1', 'task 1 rows 5-7,9')
    """

    task: int  # from 0
    classes: tuple[int, ...] = ()  # labels, as in `batch.y`
    rows: tuple[int, ...] = ()  # rows of the data set, as in `batch.rows`
    concerns: Callable[[Batch], Tensor] | None = None  # batch -> Bool[batch]

    @property
    def is_whole_task(self) -> bool:
        """Whether the set is the task itself."""
        return not (self.classes or self.rows) and self.concerns is None

    @property
    def label(self) -> str:
        """The set as a person reads it; the task's number counts from 1."""
        words = f"task {self.task + 1}"
        for name, numbers in (("classes", self.classes), ("rows", self.rows)):
            if numbers:
                parts = _ranges(numbers)
                more = f",... ({len(numbers)})" if len(parts) > 6 else ""
                words += f" {name} {','.join(parts[:6])}{more}"
        if self.concerns is not None:
            words += f" where {getattr(self.concerns, '__name__', 'a function')} holds"
        return words

    def settings(self) -> Settings:
        """The set as settings: two sets with equal settings hold the same examples."""
        return {
            "task": self.task,
            "classes": list(self.classes),
            "rows": list(self.rows),
            "concerns": self.concerns,
        }


def Request(*_: Any, **__: Any) -> ForgetSet:
    """The old name of `ForgetSet`.

    Raises:
        TypeError: Always; the line gives the new spelling.
    """
    raise TypeError(
        "cl.Request is cl.ForgetSet now, and examples are rows: write"
        " amnesiac(..., forget_sets=[cl.ForgetSet(task=0, classes=(3,))])"
        " and run(..., requests={1: [that set]})"
    )


def order(forget_set: ForgetSet) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """The key by which sets are sorted: by task, a whole task before examples of it."""
    return forget_set.task, forget_set.classes, forget_set.rows


def declared(
    forget_sets: Sequence[ForgetSet], num_tasks: int, head: Settings | None = None
) -> list[Settings]:
    """The sets of examples as settings.

    Args:
        forget_sets: To declare; a whole task needs no declaration.
        num_tasks: Tasks that can be forgotten.
        head: The settings of the model's head, if there is one, to check classes by.

    Raises:
        ValueError: A task or class that does not exist, a set not given in exactly one way, or two
            sets of the same examples.
    """
    for forget_set in forget_sets:
        _refuse_unsound(forget_set, num_tasks)
        if head is not None:
            _refuse_other_classes(forget_set, head)
    for first, second in combinations(forget_sets, 2):
        _refuse_overlap(first, second)
    return [forget_set.settings() for forget_set in forget_sets]


def _refuse_unsound(forget_set: ForgetSet, num_tasks: int) -> None:
    """Raise ValueError for a set that names no examples of a task, or names them in two ways."""
    if not isinstance(forget_set, ForgetSet):
        raise ValueError(f"forget_sets takes cl.ForgetSet(task=..., ...), given {forget_set!r}")
    if isinstance(forget_set.classes, int) or isinstance(forget_set.rows, int):
        raise ValueError(
            f"a forget set lists its classes or rows, such as classes=(3,), given {forget_set}"
        )
    if not 0 <= forget_set.task < num_tasks:
        raise ValueError(
            f"a forget set must be of a task in 0..{num_tasks - 1}, given task={forget_set.task}"
        )
    ways = [bool(forget_set.classes), bool(forget_set.rows), forget_set.concerns is not None]
    if sum(ways) != 1:
        raise ValueError(
            "a declared forget set must name either classes, rows or a function (a whole task needs"
            f" no declaration), given {forget_set}"
        )


def _refuse_other_classes(forget_set: ForgetSet, head: Settings) -> None:
    """Raise ValueError for a class that no example of the task has."""
    counts, task = head["classes"], forget_set.task
    if head["name"] == "regression" and forget_set.classes:
        raise ValueError("a forget set names classes, and a regression head has none: name rows")
    start = sum(counts[:task]) if head["name"] == "cil" else 0
    for label in forget_set.classes:
        if label not in range(start, start + counts[task]):
            there = f"{start}..{start + counts[task] - 1}"
            raise ValueError(
                f"a forget set must name classes of task {task}, {there}, given {label!r}"
            )


def _refuse_overlap(first: ForgetSet, second: ForgetSet) -> None:
    """Raise ValueError for two sets that name the same example."""
    if first.task != second.task:
        return
    if first.concerns is not None and first.concerns is second.concerns:
        raise ValueError(f"two forget sets of task {first.task} have one function: declare one")
    both = set(first.classes) & set(second.classes) or set(first.rows) & set(second.rows)
    if both:
        raise ValueError(
            f"two forget sets of task {first.task} both hold {min(both)}: declare one set"
        )


def touched(forget_sets: Sequence[ForgetSet], batch: Batch) -> Bool[Tensor, " sets"]:
    """Whether the batch holds an example of each set."""

    def holds(forget_set: ForgetSet) -> Tensor:
        if forget_set.concerns is not None:
            found = forget_set.concerns(batch)
        elif forget_set.classes:
            found = _is_one_of(batch.y, forget_set.classes)
        elif isinstance(batch.rows, tuple):
            raise ValueError(
                "a forget set names rows, given a batch without `rows`: use scenario.batch"
            )
        else:
            found = _is_one_of(batch.rows, forget_set.rows)
        counts = found & (batch.weight > 0)
        return counts.any() & (batch.task == forget_set.task)

    return torch.stack([holds(forget_set) for forget_set in forget_sets])


def _is_one_of(values: Tensor, wanted: tuple[int, ...]) -> Tensor:
    return (values[:, None] == torch.tensor(wanted, device=values.device)).any(1)


def tasks_of(forget_sets: Sequence[ForgetSet]) -> tuple[int, ...]:
    """The task of each set."""
    return tuple(forget_set.task for forget_set in forget_sets)


def mask(
    num_tasks: int, forget_sets: Sequence[ForgetSet], wanted: Iterable[ForgetSet]
) -> Bool[Tensor, " n"]:
    """The mask that `unlearn` takes: an entry for each task, then one for each declared set.

    >>> threes = ForgetSet(task=0, classes=(3,))
    >>> mask(2, [threes], [threes, ForgetSet(task=1)]).tolist()
    [False, True, True]

    Raises:
        ValueError: A task that does not exist, or a set that is not declared.
    """
    known = [ForgetSet(task=task).settings() for task in range(num_tasks)]
    known += [forget_set.settings() for forget_set in forget_sets]
    return settings_mask(known, wanted)


def settings_mask(known: Sequence[Settings], wanted: Iterable[ForgetSet]) -> Bool[Tensor, " n"]:
    """`mask`, by the settings of every task and of every declared set."""
    entries = torch.zeros(len(known), dtype=torch.bool)
    for forget_set in wanted:
        if not isinstance(forget_set, ForgetSet):
            raise ValueError(
                f"requests take forget sets, such as cl.ForgetSet(task=0), given {forget_set!r}"
            )
        if forget_set.settings() not in known:
            raise ValueError(
                f"{forget_set.label} is not declared: give it to amnesiac(..., forget_sets=[...])"
            )
        entries[known.index(forget_set.settings())] = True
    return entries


def filled(mask: Bool[Tensor, " n"], count: int) -> Bool[Tensor, " count"]:
    """`mask` with False for the entries that it lacks.

    Raises:
        ValueError: It has more entries than there are tasks and declared sets.
    """
    if mask.shape[0] > count:
        raise ValueError(
            f"there are {count} tasks and declared sets to forget, given a mask of {mask.shape[0]}"
        )
    return torch.nn.functional.pad(mask, (0, count - mask.shape[0]))


def refuse_shared(
    forget_sets: Sequence[ForgetSet],
    held: Int[Tensor, "*runs sets sets"],
    wanted: Bool[Tensor, "*runs n"],
) -> None:
    """Raise ValueError if a set cannot be forgotten by `wanted` alone, since its batches are
    recorded for another set too.

    It reads values, so call it outside a step.

    Args:
        forget_sets: As declared.
        held: `records.held` of the state: batches that touch a set (row) and are recorded for a set
            (column).
        wanted: As `mask` makes it.
    """
    count = len(forget_sets)
    masks = wanted.reshape(-1, wanted.shape[-1])
    for shared, entries in zip(held.reshape(-1, count, count), masks, strict=True):
        goes = []
        for number, forget_set in enumerate(forget_sets):
            place = len(entries) - count + number
            goes.append(bool(entries[place]) or bool(entries[forget_set.task]))
        for i in range(count):
            for j in range(count):
                if goes[i] and not goes[j] and shared[i, j] > 0:
                    first, second = forget_sets[i].label, forget_sets[j].label
                    raise ValueError(
                        f"{first} shares {int(shared[i, j])} batch(es) with {second}:"
                        " forget both, or declare one set"
                    )


def plain(forget_set: ForgetSet) -> dict[str, Any]:
    """The set as JSON can hold it; a function by its name."""
    words: dict[str, Any] = {"task": forget_set.task}
    if forget_set.classes:
        words["classes"] = list(forget_set.classes)
    if forget_set.rows:
        words["rows"] = list(forget_set.rows)
    if forget_set.concerns is not None:
        words["concerns"] = getattr(forget_set.concerns, "__qualname__", "function")
    return words


def from_plain(words: Mapping[str, Any]) -> ForgetSet:
    """The set that `plain` wrote; its function, if it has one, is not kept."""
    return ForgetSet(
        task=int(words["task"]),
        classes=tuple(words.get("classes", ())),
        rows=tuple(words.get("rows", ())),
    )


def compact(forget_set: ForgetSet) -> str:
    """The set in one word that `from_compact` reads again; the task counts from 0. A function is
    given by its name.

    >>> compact(ForgetSet(task=0)), compact(ForgetSet(task=1, rows=(0, 1, 2, 7)))
    ('0', '1:rows=0-2+7')
    """
    word = str(forget_set.task)
    for name, numbers in (("classes", forget_set.classes), ("rows", forget_set.rows)):
        if numbers:
            word += f":{name}={'+'.join(_ranges(numbers))}"
    if forget_set.concerns is not None:
        word += f":concerns={getattr(forget_set.concerns, '__name__', 'function')}"
    return word


def from_compact(word: str) -> ForgetSet:
    """The set that `compact` wrote, its numbers in increasing order; its function, if it has one,
    is not kept.

    >>> from_compact("1:rows=0-2+7")
    ForgetSet(task=1, classes=(), rows=(0, 1, 2, 7), concerns=None)
    """
    task, _, rest = word.partition(":")
    name, _, listed = rest.partition("=")
    numbers: list[int] = []
    if name in ("classes", "rows"):
        for part in listed.split("+"):
            first, _, last = part.partition("-")
            numbers += range(int(first), int(last or first) + 1)
    classes = tuple(numbers) if name == "classes" else ()
    rows = tuple(numbers) if name == "rows" else ()
    return ForgetSet(task=int(task), classes=classes, rows=rows)


def _ranges(numbers: Iterable[int]) -> list[str]:
    """Numbers in increasing order; three or more that follow each other are a range, such as 5-7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = []
    for run in runs:
        if len(run) > 2:
            parts.append(f"{run[0]}-{run[-1]}")
        else:
            parts += [str(number) for number in run]
    return parts
