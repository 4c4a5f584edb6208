"""Scenarios made of a scenario: `joint` trains all tasks at once, `single` trains one of them."""

from typing import Any

import torch

from clfunc import tree
from clfunc.scenarios.base import Scenario, Stream


def joint(scenario: Scenario) -> Scenario:
    """All tasks in one training phase, their examples mixed; every task is tested after it.

    Its lists hold `task * rows + row`, its views are the tasks' views stacked, and its phase counts as the last task's.
    """

    def train(phase: int) -> Stream:
        streams = [scenario.test(task) for task in range(scenario.num_tasks)]
        axis = 0 if scenario.runs is None else 1
        rows = len(scenario.data.y)

        def part(name: str, size: int) -> Any:
            lists = [getattr(s, name) + task * rows for task, s in enumerate(streams)]
            entries = torch.cat(lists, axis)
            own = [
                torch.arange(e.shape[-1], device=e.device) < s.sizes[..., size, None]
                for s, e in zip(streams, lists, strict=True)
            ]
            inside = torch.cat([o.expand(e.shape) for o, e in zip(own, lists, strict=True)], axis)
            order = torch.argsort((~inside).to(torch.int64), dim=axis, stable=True)  # padding last
            return entries.gather(axis, order), inside.sum(axis)

        (train, n), (valid, m), (test, k) = part("train", 0), part("valid", 1), part("test", 2)
        views = tree.map(lambda *tables: torch.stack(tables, axis), *(s.view for s in streams))
        return Stream(streams[0].task, views, train, valid, test, torch.stack([n, m, k], -1))

    return scenario._replace(train=train, phases=(scenario.num_tasks,), mixed=True)


def single(scenario: Scenario, task: int = 0) -> Scenario:
    """Task `task` (from 0) by itself.

    Raises:
        ValueError: There is no such task.
    """
    if not 0 <= task < scenario.num_tasks:
        raise ValueError(f"task must be in 0..{scenario.num_tasks - 1}, given {task}")

    offset = sum(scenario.classes[:task]) if scenario.paradigm == "cil" else 0

    def stream(_: int) -> Stream:
        own = scenario.test(task)
        return own._replace(
            task=torch.zeros_like(own.task), view=own.view | {"labels": own.view["labels"] - offset}
        )

    return scenario._replace(
        train=stream, test=stream, num_tasks=1, classes=(scenario.classes[task],), phases=(1,)
    )
