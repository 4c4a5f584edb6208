"""What happens in a run, in order: tasks are trained, and after some of them tasks are unlearned on request.

Tasks have the numbers that a person gives them, from 1. A request `{2: [1], 4: [2, 3]}` forgets task 1 after task 2 has been
trained, and tasks 2 and 3 after task 4. A run that skips a task never trains it: with the tasks skipped that another run
forgets, it is what that one is compared with.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from clfunc.results.events import Event
from clfunc.scenarios import Scenario
from clfunc.types import Algorithm

Request: TypeAlias = Mapping[int, Sequence[int]]  # after which task -> what to forget
Requests: TypeAlias = Request | Sequence[Request]  # shared by all runs, or one for each
Skip: TypeAlias = Collection[int] | Sequence[Collection[int]]


class Course(NamedTuple):
    """The events of some runs, and what each of them leaves out."""

    events: tuple[Event, ...]
    skipped: Tensor  # Bool[*runs, tasks]

    def forgotten(self, event: Event, tasks: int) -> Tensor:
        """What each run forgets in an event, `Bool[*runs, tasks]`."""
        mask = torch.zeros(*self.skipped.shape[:-1], tasks, dtype=torch.bool)
        for row, asked in zip(mask.view(-1, tasks), event.tasks, strict=True):
            row[[task - 1 for task in asked]] = True
        return mask

    def plain(self) -> dict[str, Any]:
        """Requests and tasks skipped, one entry a run, as JSON can hold them; empty where there are none."""
        asked = [e for e in self.events if e.kind == "unlearned"]
        runs = range(len(asked[0].tasks)) if asked else range(0)
        requests = [
            {str(e.task): list(e.tasks[run]) for e in asked if e.tasks[run]} for run in runs
        ]
        rows = self.skipped.view(-1, self.skipped.shape[-1]) if self.skipped.any() else ()
        return {"requests": requests, "skip": [[int(t) + 1 for t in row.nonzero()] for row in rows]}


def course(
    scenario: Scenario, algorithm: Algorithm, runs: int | None, requests: Requests, skip: Skip
) -> Course:
    """The events of `runs` runs.

    Raises:
        ValueError: A request that cannot be met, a task to skip that there is not.
    """
    asked = (
        _each(requests, runs, "requests", "mapping", Mapping) if requests else [{}] * (runs or 1)
    )
    skips = (
        _each(skip, runs, "skip", "set of tasks", Collection)
        if _given(skip)
        else [()] * (runs or 1)
    )
    some = any(tasks for request in asked for tasks in request.values())
    if scenario.mixed and (some or any(skips)):
        raise ValueError(
            "a joint scenario trains all tasks at once: none of them can be forgotten or skipped by itself"
        )
    if some and algorithm.unlearn is None:
        raise ValueError(
            "requests need an algorithm that can unlearn, given one that cannot: wrap it in amnesiac"
        )
    skipped = torch.zeros(len(skips), scenario.num_tasks, dtype=torch.bool)
    for row, tasks in zip(skipped, skips, strict=True):
        for task in tasks:
            _refuse_unless(
                _counts(task, scenario),
                f"cannot skip task {task!r}",
                f"tasks are 1..{scenario.num_tasks}",
            )
            row[task - 1] = True
    for request, left_out in zip(asked, skips, strict=True):
        _refuse_unmet(request, set(left_out), scenario)
    events: list[Event] = []
    for task in range(1, scenario.phases[-1] + 1):
        events.append(Event("trained", task))
        forgotten = tuple(tuple(sorted(request.get(task, ()))) for request in asked)
        if any(forgotten):
            events.append(Event("unlearned", task, forgotten))
    return Course(tuple(events), skipped[0] if runs is None else skipped)


def _given(skip: Skip) -> bool:
    return len(skip) > 0


def _each(value: Any, runs: int | None, name: str, what: str, kind: Any) -> list[Any]:
    """One entry for each run, of what they share or of a list of their own."""
    own = isinstance(value, Sequence) and all(isinstance(entry, kind) for entry in value)
    if not own and not isinstance(value, kind):
        raise ValueError(f"{name} must be a {what}, or one for each run, given {value!r}")
    if not own:
        return [value] * (runs or 1)
    if len(value) != (runs or 1):
        raise ValueError(
            f"{name} must be one {what}, or one for each of {runs or 1} run(s), given {len(value)}"
        )
    return list(value)


def _counts(task: Any, scenario: Scenario) -> bool:
    return isinstance(task, int) and not isinstance(task, bool) and 1 <= task <= scenario.num_tasks


def _refuse_unmet(request: Request, skipped: set[int], scenario: Scenario) -> None:
    """Raise ValueError for what one run cannot do."""
    tasks, gone = f"tasks are 1..{scenario.num_tasks}", set()
    for after in request:
        _refuse_unless(_counts(after, scenario), f"cannot forget after task {after!r}", tasks)
    for after in sorted(request):
        _refuse_unless(
            isinstance(request[after], Iterable),
            f"cannot forget {request[after]!r}",
            "give a list of tasks",
        )
        for task in request[after]:
            cannot = f"cannot forget task {task!r} after task {after}"
            _refuse_unless(_counts(task, scenario), cannot, tasks)
            _refuse_unless(task not in skipped, cannot, "it is skipped")
            _refuse_unless(task <= after, cannot, "it is not trained yet")
            _refuse_unless(task not in gone, cannot, "it is forgotten already")
            gone.add(task)


def _refuse_unless(fine: bool, cannot: str, why: str) -> None:
    if not fine:
        raise ValueError(f"{cannot}: {why}")
