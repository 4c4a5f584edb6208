"""A term that learns a lesson from each task: how it learns, and how it forgets a task again.

A lesson is a tree: what the term takes from a task when it ends. With `num_tasks` the lessons are
kept apart, and to forget a task is to learn all others again, in their order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.bank import repeated
from clfunc.types import Params, Settings, State, Task


class Lessons(NamedTuple):
    """The lesson of each task."""

    rows: Any  # leaves [tasks, ...]; zeros for a task that has not ended
    order: Tensor  # [tasks]: how many tasks had ended with this one; 0 for not yet
    task: Tensor  # the task that trains


def no_lessons(lesson: Any, num_tasks: int | None) -> State:
    """Room for the lessons of so many tasks, in the shape of `lesson`; () for none.

    Raises:
        ValueError: No task.
    """
    if num_tasks is None:
        return ()
    if num_tasks < 1:
        raise ValueError(f"num_tasks must be at least 1, given {num_tasks}")
    rows = repeated(tree.zeros_like(lesson), num_tasks)
    none = torch.zeros(num_tasks, dtype=torch.int64, device=tree.leaves(lesson)[0].device)
    return Lessons(rows=rows, order=none, task=none[0].clone())


def declared(num_tasks: int | None) -> Settings:
    """What a term with `learning` declares in its settings."""
    return {
        "num_tasks": num_tasks,
        "remembers": num_tasks is None,
        "forgets": None if num_tasks is None else "tasks",
    }


def learning(
    lesson: Callable[[State, Params], Any],
    learn: Callable[[State, Any], State],
    nothing: Callable[[State], State],
    num_tasks: int | None,
) -> dict[str, Any]:
    """The hooks `begin_task`, `end_task` and `forget` of a term whose state has a field `lessons`.

    Args:
        lesson: `(s, params) -> lesson` of the task that ends.
        learn: `(s, lesson) -> s` with the lesson.
        nothing: `(s) -> s` before any lesson.
        num_tasks: Number of tasks whose lessons are kept; None keeps none, and cannot forget.
    """

    def begin_task(s: State, params: Params, task: Task) -> State:
        if num_tasks is None:
            return s
        return s._replace(lessons=s.lessons._replace(task=task.id))

    def end_task(s: State, params: Params) -> State:
        found = lesson(s, params)
        if num_tasks is None:
            return learn(s, found)
        # a task that ends again replaces its lesson
        return learn_all(s, _filed(s.lessons, found))

    def forget(s: State, forgotten: Tensor) -> State:
        return learn_all(s, _without(s.lessons, forgotten[:num_tasks]))

    def learn_all(s: State, lessons: Lessons) -> State:
        s = nothing(s._replace(lessons=lessons))
        for place in range(1, lessons.order.shape[0] + 1):
            is_next = lessons.order == place
            found = tree.take(lessons.rows, is_next.to(torch.int64).argmax())
            s = tree.where(is_next.any(), learn(s, found), s)
        return s

    return {
        "begin_task": begin_task,
        "end_task": end_task,
        "forget": None if num_tasks is None else forget,
    }


def _filed(lessons: Lessons, lesson: Any) -> Lessons:
    """The lessons with that of the task that ends, as the last one."""
    own = torch.arange(lessons.order.shape[0], device=lessons.order.device) == lessons.task
    lessons = _without(lessons, own)
    rows = tree.put(lessons.rows, lessons.task, lesson)
    last = lessons.order.max() + 1
    return lessons._replace(rows=rows, order=tree.put(lessons.order, lessons.task, last))


def _without(lessons: Lessons, forgotten: Tensor) -> Lessons:
    """The lessons without those of the forgotten tasks, `Bool[tasks]`."""
    rows = tree.where(forgotten, tree.zeros_like(lessons.rows), lessons.rows)
    order = torch.where(forgotten, 0, lessons.order)
    # the others move up
    before = (order < order[:, None]) & (order > 0)
    return lessons._replace(rows=rows, order=torch.where(order > 0, before.sum(1) + 1, 0))
