"""The timeline of a run: it trains tasks in order, and after some of them it unlearns forget sets
on request.

Task numbers count from 0. A request `{1: [ForgetSet(task=0)]}` forgets task 0 after task 1 has been
trained. A run that skips a task never trains it: a run that forgets a task is compared with a run
that skips it.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

from clfunc.driver.algorithm_record import AlgorithmRecord
from clfunc.results.events import Event
from clfunc.scenarios import Scenario
from clfunc.types import Settings
from clfunc.unlearning.forget_sets import ForgetSet, order, plain, settings_mask

Request: TypeAlias = Mapping[int, Sequence[ForgetSet]]  # after which task -> what to forget
Requests: TypeAlias = Request | Sequence[Request]  # shared by all runs, or one for each
Skip: TypeAlias = Collection[int] | Sequence[Collection[int]]  # likewise


class Timeline(NamedTuple):
    """The events of some runs, and what each of them leaves out."""

    events: tuple[Event, ...]
    skipped: Bool[Tensor, "*runs tasks"]
    can_forget: tuple[Settings, ...]  # tasks that the algorithm has room for, then declared sets

    def forgotten(self, event: Event) -> Bool[Tensor, "*runs n"]:
        """What each run forgets in an event: the mask that `unlearn` takes."""
        rows = [settings_mask(self.can_forget, forget_sets) for forget_sets in event.forgets]
        return torch.stack(rows).reshape(*self.skipped.shape[:-1], -1)

    def plain(self) -> dict[str, Any]:
        """Requests and skipped tasks, one entry a run, as JSON can hold them; empty where there are
        none.
        """
        requests = []
        unlearnings = [event for event in self.events if event.kind == "unlearned"]
        for run in range(len(unlearnings[0].forgets) if unlearnings else 0):
            by_task = {}
            for event in unlearnings:
                if event.forgets[run]:
                    by_task[str(event.task)] = [plain(wanted) for wanted in event.forgets[run]]
            requests.append(by_task)
        skip = []
        if self.skipped.any():
            for row in self.skipped.view(-1, self.skipped.shape[-1]):
                skip.append(row.nonzero().flatten().tolist())
        return {"requests": requests, "skip": skip}


def timeline(
    scenario: Scenario,
    algorithm: AlgorithmRecord,
    runs: int | None,
    requests: Requests,
    skip: Skip,
) -> Timeline:
    """The events of `runs` runs.

    Raises:
        ValueError: A request that cannot be met, or a task to skip that does not exist.
    """
    each_request: list[Request] = [{}] * (runs or 1)
    if requests:
        each_request = _one_a_run(requests, runs, "requests", "mapping", Mapping)
    each_skip: list[Collection[int]] = [()] * (runs or 1)
    if len(skip) > 0:
        each_skip = _one_a_run(skip, runs, "skip", "set of tasks", Collection)
    can_forget = _can_forget(algorithm, scenario)
    _refuse_unable(scenario, algorithm, each_request, each_skip)

    skipped = torch.zeros(len(each_skip), scenario.num_tasks, dtype=torch.bool)
    for row, tasks in zip(skipped, each_skip, strict=True):
        for task in tasks:
            _refuse_unless(_is_task(task, scenario), f"cannot skip task {task!r}", _range(scenario))
            row[task] = True
    for request, left_out in zip(each_request, each_skip, strict=True):
        _refuse_unmet(request, set(left_out), scenario, can_forget)

    events: list[Event] = []
    for task in range(scenario.phases[-1]):
        events.append(Event("trained", task))
        forgets = [tuple(sorted(request.get(task, ()), key=order)) for request in each_request]
        # an empty request makes an event too, so that chunks of a sweep have the events of the
        # whole
        if any(task in request for request in each_request):
            events.append(Event("unlearned", task, tuple(forgets)))
    return Timeline(tuple(events), skipped[0] if runs is None else skipped, can_forget)


def _can_forget(algorithm: AlgorithmRecord, scenario: Scenario) -> tuple[Settings, ...]:
    """The settings of every forget set that the algorithm can unlearn."""
    num_tasks = algorithm.num_tasks or scenario.num_tasks
    tasks = [ForgetSet(task=task).settings() for task in range(num_tasks)]
    return (*tasks, *algorithm.forget_sets)


def _one_a_run(value: Any, runs: int | None, name: str, what: str, kind: Any) -> list[Any]:
    """One entry for each run: of an entry that all share, or of a list with an entry for each."""
    is_list = isinstance(value, Sequence) and all(isinstance(entry, kind) for entry in value)
    if not is_list and not isinstance(value, kind):
        raise ValueError(f"{name} must be a {what}, or one for each run, given {value!r}")
    if not is_list:
        return [value] * (runs or 1)
    if len(value) != (runs or 1):
        raise ValueError(
            f"{name} must be one {what}, or one for each of {runs or 1} run(s), given {len(value)}"
        )
    return list(value)


def _is_task(task: Any, scenario: Scenario) -> bool:
    is_number = isinstance(task, int) and not isinstance(task, bool)
    return is_number and 0 <= task < scenario.num_tasks


def _range(scenario: Scenario) -> str:
    return f"tasks are 0..{scenario.num_tasks - 1}"


def _refuse_unable(
    scenario: Scenario,
    algorithm: AlgorithmRecord,
    requests: Sequence[Request],
    skips: Sequence[Collection[int]],
) -> None:
    """Raise ValueError where nothing can be forgotten or skipped at all."""
    forgets = any(len(request) > 0 for request in requests)
    if scenario.mixed and (forgets or any(skips)):
        raise ValueError(
            "a joint scenario trains all tasks at once: no task can be forgotten or skipped by"
            " itself"
        )
    if forgets and not algorithm.can_unlearn:
        raise ValueError(
            "requests need an algorithm that can unlearn, given one that cannot: wrap it in"
            " amnesiac"
        )


def _refuse_unmet(
    request: Request, skipped: set[int], scenario: Scenario, can_forget: Sequence[Settings]
) -> None:
    """Raise ValueError for what one run cannot forget."""
    for after in request:
        _refuse_unless(
            _is_task(after, scenario), f"cannot forget after task {after!r}", _range(scenario)
        )
    forgotten: list[Settings] = []
    for after in sorted(request):
        for forget_set in _listed(request[after]):
            cannot = f"cannot forget task {forget_set.task!r} after task {after}"
            _refuse_unless(_is_task(forget_set.task, scenario), cannot, _range(scenario))
            _refuse_unless(forget_set.task not in skipped, cannot, "it is skipped")
            _refuse_unless(forget_set.task <= after, cannot, "it is not trained yet")
            whole = ForgetSet(task=forget_set.task).settings()
            known = forget_set.settings()
            is_forgotten = known in forgotten or whole in forgotten
            _refuse_unless(not is_forgotten, cannot, "it is forgotten already")
            _refuse_unless(
                known in can_forget,
                f"cannot forget {forget_set.label}",
                "declare it by amnesiac(..., forget_sets=[...])",
            )
            forgotten.append(known)
        _refuse_shared_batches(forgotten, can_forget)


def _listed(forget_sets: Any) -> Sequence[ForgetSet]:
    """The forget sets of a request; ValueError for anything else, such as the numbers of tasks."""
    if not isinstance(forget_sets, Sequence) or isinstance(forget_sets, ForgetSet | str):
        raise ValueError(
            f"requests list forget sets, such as {{1: [cl.ForgetSet(task=0)]}}, given"
            f" {forget_sets!r}"
        )
    for forget_set in forget_sets:
        if not isinstance(forget_set, ForgetSet):
            raise ValueError(
                "requests take forget sets, and count tasks from 0: write"
                " {1: [cl.ForgetSet(task=0)]} to"
                f" forget the first task after the second, given {forget_set!r}"
            )
    return forget_sets


def _refuse_shared_batches(forgotten: Sequence[Settings], can_forget: Sequence[Settings]) -> None:
    """Raise ValueError for a declared set whose batches may be recorded for a set that stays."""
    for position, known in enumerate(can_forget):
        whole = ForgetSet(task=known["task"]).settings()
        if known not in forgotten or known == whole or whole in forgotten:
            continue
        for earlier in can_forget[:position]:
            same_task = earlier["task"] == known["task"] and earlier != whole
            if same_task and earlier not in forgotten:
                raise ValueError(
                    f"cannot forget {ForgetSet(**known).label}: batches that it shares with"
                    f" {ForgetSet(**earlier).label}, which is declared before it, are recorded"
                    " for that"
                    " one; forget both, or declare it first"
                )


def _refuse_unless(fine: bool, cannot: str, why: str) -> None:
    if not fine:
        raise ValueError(f"{cannot}: {why}")
