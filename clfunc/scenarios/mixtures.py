"""Scenarios made of a scenario: `joint` trains all tasks at once, `single` trains one of them."""

import torch
from torch import Tensor

from clfunc import tree
from clfunc.scenarios.base import Scenario, Stream

PARTS = ("train", "valid", "test")  # in the order of a stream's `sizes`


def joint(scenario: Scenario) -> Scenario:
    """All tasks in one training phase, with their examples mixed.

    Every task is tested after that phase. The lists of the phase hold `task * rows + row`, its view
    is the stack of the tasks' views, and the phase ends with all tasks seen.

    Args:
        scenario: A scenario that is not mixed.

    >>> import clfunc as cl
    >>> digits = cl.datasets.load("digits")
    >>> scenario = cl.scenarios.joint(cl.scenarios.permuted(digits, 3, cl.random.key(0)))
    >>> scenario.phases, scenario.head().paradigm
    ((3,), 'mtl')
    """
    tasks = range(scenario.num_tasks)
    num_rows = len(scenario.data.y)
    list_axis = 0 if scenario.runs is None else 1

    def train(phase: int) -> Stream:
        streams = [scenario.test(task) for task in tasks]
        entries = {}
        sizes = []
        for number, part in enumerate(PARTS):
            lists = [getattr(stream, part) for stream in streams]
            counts = [stream.sizes[..., number] for stream in streams]
            entries[part], size = _mixed_list(lists, counts, num_rows)
            sizes.append(size)
        views = [stream.view for stream in streams]
        return Stream(
            task=streams[0].task,
            view=tree.map(lambda *tables: torch.stack(tables, list_axis), *views),
            train=entries["train"],
            valid=entries["valid"],
            test=entries["test"],
            sizes=torch.stack(sizes, -1),
        )

    return scenario._replace(train=train, phases=(scenario.num_tasks,), mixed=True)


def single(scenario: Scenario, task: int = 0) -> Scenario:
    """One task of a scenario by itself.

    Args:
        scenario: A scenario that is not mixed.
        task: Number of the task, from 0.

    Raises:
        ValueError: The scenario has no such task.

    >>> import clfunc as cl
    >>> digits = cl.datasets.load("digits")
    >>> scenario = cl.scenarios.single(cl.scenarios.split(digits, 5, cl.random.key(0)), 4)
    >>> scenario.num_tasks, scenario.classes
    (1, (2,))
    """
    if not 0 <= task < scenario.num_tasks:
        raise ValueError(f"task must be in 0..{scenario.num_tasks - 1}, given {task}")

    offset = sum(scenario.classes[:task]) if scenario.paradigm == "cil" else 0

    def stream(_: int) -> Stream:
        own = scenario.test(task)
        labels = own.view["labels"] - offset
        return own._replace(task=torch.zeros_like(own.task), view=own.view | {"labels": labels})

    return scenario._replace(
        train=stream,
        test=stream,
        num_tasks=1,
        classes=(scenario.classes[task],),
        phases=(1,),
    )


def _mixed_list(
    lists: list[Tensor],
    counts: list[Tensor],
    num_rows: int,
) -> tuple[Tensor, Tensor]:
    """One list of the entries of all tasks, with all padding last, and how many of them count.

    Args:
        lists: The rows of each task, `[*runs, n]`.
        counts: How many rows of each task count, `[*runs]`; the rest is padding.
        num_rows: Number of rows of the scenario.
    """
    entries = []
    is_counted = []
    for task, (rows, count) in enumerate(zip(lists, counts, strict=True)):
        entries.append(rows + task * num_rows)
        place = torch.arange(rows.shape[-1], device=rows.device)
        is_counted.append((place < count[..., None]).expand(rows.shape))
    joined = torch.cat(entries, -1)
    counted = torch.cat(is_counted, -1)
    padding_last = torch.argsort((~counted).to(torch.int64), dim=-1, stable=True)
    return joined.gather(-1, padding_last), counted.sum(-1)
