"""The runs of an audit: which members there are, what each of them forgets, and what it never
trains on.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clfunc.algorithms.amnesiac import amnesiac
from clfunc.driver.algorithm_record import read_algorithm
from clfunc.driver.timeline import timeline
from clfunc.engine.sweep import members, sweep
from clfunc.experiments.audit_examples import without_examples
from clfunc.results.events import Event
from clfunc.scenarios import Scenario
from clfunc.settings import declares
from clfunc.types import Algorithm, Keys
from clfunc.unlearning.forget_sets import ForgetSet, order


class Stage(NamedTuple):
    """An unlearning. Task numbers count from 0."""

    after: int  # the last task trained before it
    forgotten: tuple[ForgetSet, ...]  # everything that is forgotten when it is done

    @property
    def tasks(self) -> tuple[int, ...]:
        """The tasks that are forgotten as a whole."""
        return tuple(one.task for one in self.forgotten if one.is_whole_task)

    @property
    def sets(self) -> tuple[ForgetSet, ...]:
        """What is forgotten, without the sets of a task that is forgotten as a whole."""
        return tuple(
            one for one in self.forgotten if one.is_whole_task or one.task not in self.tasks
        )

    @property
    def remaining(self) -> tuple[int, ...]:
        """The tasks trained by then and not forgotten as a whole."""
        return tuple(task for task in range(self.after + 1) if task not in self.tasks)


class Plan(NamedTuple):
    """The runs of an audit: the members one after another, each with all its seeds."""

    algorithm: Algorithm  # a sweep of all runs
    scenario: Scenario  # shared by the seeds, or with an axis of them
    key: Keys  # [runs, 2]
    seeds: int
    stages: tuple[Stage, ...]
    requests: dict[int, list[ForgetSet]]

    @property
    def members(self) -> list[str]:
        """The names of the members."""
        oracles = [f"oracle {number}" for number in range(1, len(self.stages) + 1)]
        return ["unlearned", "original", *oracles]

    @property
    def member(self) -> list[str]:
        """The member of each run."""
        return [name for name in self.members for _ in range(self.seeds)]

    def rows(self, *names: str) -> Tensor:
        """The numbers of the runs of these members."""
        rows: list[int] = []
        for name in names:
            first = self.seeds * self.members.index(name)
            rows += range(first, first + self.seeds)
        return torch.tensor(rows)

    @property
    def requests_of_runs(self) -> list[dict[int, list[ForgetSet]]]:
        """What each run forgets: only the first member forgets."""
        return [self.requests if name == "unlearned" else {} for name in self.member]

    @property
    def skipped(self) -> list[tuple[int, ...]]:
        """The tasks that each run never trains."""
        none: list[tuple[int, ...]] = [()] * (2 * self.seeds)
        return none + [stage.tasks for stage in self.stages for _ in range(self.seeds)]

    @property
    def left_out(self) -> list[tuple[ForgetSet, ...]]:
        """The sets of examples that each run never trains on."""
        sets: list[tuple[ForgetSet, ...]] = [()] * (2 * self.seeds)
        for stage in self.stages:
            examples = tuple(one for one in stage.sets if not one.is_whole_task)
            sets += [examples] * self.seeds
        return sets

    def scenario_of_runs(self) -> Scenario:
        """The scenario of all runs, in which an oracle's tasks lack the examples that it leaves
        out.
        """
        seeds = [seed for _ in self.members for seed in range(self.seeds)]
        scenario = self.scenario.part(seeds)
        left_out = self.left_out
        return without_examples(scenario, left_out) if any(left_out) else scenario


def plan(
    algorithm: Algorithm, scenario: Scenario, key: Keys, requests: Mapping[int, Sequence[ForgetSet]]
) -> Plan:
    """The runs of an audit; arguments and errors as in `audit`."""
    if members(algorithm):
        raise ValueError(
            "audit takes one algorithm and as many keys as there are seeds, given a sweep"
        )
    able = _able_to_forget(algorithm, scenario)
    events = timeline(scenario, read_algorithm(able), None, requests, ()).events
    unlearnings = [event for event in events if any(event.forgets)]
    if not unlearnings:
        raise ValueError(
            "requests must name a task to forget, as {1: [cl.ForgetSet(task=0)]} does,"
            f" given {dict(requests)}"
        )

    stages = _stages(unlearnings)
    seeds = key.reshape(-1, 2)
    keys = seeds.repeat(2 + len(stages), 1)
    planned = Plan(
        algorithm=sweep([able] * len(keys)),
        scenario=scenario,
        key=keys,
        seeds=len(seeds),
        stages=stages,
        requests={event.task: list(event.forgets[0]) for event in unlearnings},
    )
    _refuse_emptied(planned)
    return planned


def _able_to_forget(algorithm: Algorithm, scenario: Scenario) -> Algorithm:
    """The algorithm, wrapped in `amnesiac` where it cannot forget by itself."""
    if algorithm.unlearn is not None:
        return algorithm
    if declares(algorithm.settings, "records", False):
        raise ValueError(
            "audit subtracts what amnesiac recorded, given one that keeps no records: leave"
            " out record=False"
        )
    return amnesiac(algorithm, num_tasks=scenario.num_tasks)


def _stages(unlearnings: Sequence[Event]) -> tuple[Stage, ...]:
    """A stage for each unlearning, with all that is forgotten by then."""
    forgotten: list[ForgetSet] = []
    stages = []
    for event in unlearnings:
        forgotten += event.forgets[0]
        stages.append(Stage(event.task, tuple(sorted(forgotten, key=order))))
    for forget_set in forgotten:
        if forget_set.concerns is not None:
            raise ValueError(
                "audit needs an oracle that never trains on the forgotten examples, and cannot"
                " leave"
                f" out what a function marks: name classes or rows, given {forget_set.label}"
            )
    return tuple(stages)


def _refuse_emptied(planned: Plan) -> None:
    """Raise ValueError if an oracle has no example left of a task that it trains."""
    scenario = planned.scenario_of_runs()
    tasks = {forget_set.task for sets in planned.left_out for forget_set in sets}
    for phase, seen in enumerate(scenario.phases):
        if seen - 1 in tasks:
            scenario.train(phase)
