"""Requests below the task, declared beforehand [1]: examples of a task that may have to be forgotten, and the task not.

A batch that holds an example of a request is that request's: its update is recorded for the request, instead of for the task.
So every update is recorded once, and a task is its own record and those of its requests: to forget a request and then its task
takes nothing off twice.

A batch of several requests is recorded for the first declared. Then the others cannot be forgotten without that one: `check`
refuses it, and `Records.held` counts such batches. Ask for all of them, or declare them as one.

[1] Graves et al. 2021, arXiv:2010.10981
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from clfunc.types import Batch, Settings


class Request(NamedTuple):
    """Examples of one task: of these classes, or of these rows of the data set, or those that a function says."""

    task: int  # its id, from 0
    classes: tuple[int, ...] = ()  # as in `batch.y`
    examples: tuple[int, ...] = ()  # as in `batch.rows`
    concerns: Callable[[Batch], Tensor] | None = None  # batch -> Bool[batch]


Requests = Mapping[str, Request]


def declared(requests: Requests, num_tasks: int, head: Settings | None = None) -> Settings:
    """The requests as settings; `head` is the settings of the model's, if there is one.

    Raises:
        ValueError: A task or class there is not, examples not said in exactly one way, or two requests for the same ones.
    """
    for name, request in requests.items():
        if isinstance(request.classes, int) or isinstance(request.examples, int):
            raise ValueError(
                f"request {name!r} must list classes or examples, such as classes=(3,), given {request}"
            )
        if not 0 <= request.task < num_tasks:
            raise ValueError(
                f"request {name!r} must be of a task in 0..{num_tasks - 1}, given {request.task}"
            )
        if sum(map(bool, request[1:])) != 1:
            raise ValueError(
                f"request {name!r} must name either classes, examples or a function, given {request[1:]}"
            )
        if head is not None:
            _check_classes(name, request, head)
    for (a, first), (b, second) in combinations(requests.items(), 2):
        both = set(first.classes) & set(second.classes) or set(first.examples) & set(
            second.examples
        )
        if both and first.task == second.task:
            raise ValueError(
                f"requests {a!r} and {b!r} both concern {min(both)} of task {first.task}: declare one"
            )
    return {name: _settings(request) for name, request in requests.items()}


def _check_classes(name: str, request: Request, head: Settings) -> None:
    """Raise ValueError for a class that no example of the task is of."""
    counts, task = head["classes"], request.task
    if head["name"] == "regression" and request.classes:
        raise ValueError(
            f"request {name!r} names classes, and a regression head has none: name examples"
        )
    start = sum(counts[:task]) if head["name"] == "cil" else 0
    for label in request.classes:
        if label not in range(start, start + counts[task]):
            there = f"{start}..{start + counts[task] - 1}"
            raise ValueError(
                f"request {name!r} must name classes of task {task}, {there}, given {label!r}"
            )


def touched(requests: Requests, batch: Batch) -> Bool[Tensor, " requests"]:
    """Whether the batch holds an example of each request."""

    def one(name: str, request: Request) -> Tensor:
        values, wanted = (
            (batch.y, request.classes) if request.classes else (batch.rows, request.examples)
        )
        if request.concerns is not None:
            found = request.concerns(batch)
        elif isinstance(values, tuple):
            raise ValueError(
                f"request {name!r} names examples, given a batch without `rows`: use scenario.batch"
            )
        else:
            found = (values[:, None] == torch.tensor(wanted, device=values.device)).any(1)
        return (found & (batch.weight > 0)).any() & (batch.task == request.task)

    return torch.stack([one(name, request) for name, request in requests.items()])


def tasks_of(requests: Requests) -> tuple[int, ...]:
    """Each request's task."""
    return tuple(request.task for request in requests.values())


def asked(
    num_tasks: int, requests: Requests, tasks: Iterable[int] = (), names: Iterable[str] = ()
) -> Bool[Tensor, " n"]:
    """What `unlearn` takes: an entry for each task, then one for each request.

    Raises:
        ValueError: A task or a request that there is not.
    """
    known = (*range(num_tasks), *requests)
    wanted = (*tasks, *names)
    for one in wanted:
        if one not in known:
            raise ValueError(f"there is no {one!r} to forget: one of {', '.join(map(str, known))}")
    return torch.tensor([one in wanted for one in known])


def filled(asked: Bool[Tensor, " n"], count: int) -> Bool[Tensor, " count"]:
    """`asked`, and False for what it stops short of.

    Raises:
        ValueError: It has more entries than there are tasks and requests.
    """
    if asked.shape[0] > count:
        raise ValueError(
            f"there are {count} tasks and requests to forget, given a mask of {asked.shape[0]}"
        )
    return torch.nn.functional.pad(asked, (0, count - asked.shape[0]))


def check(
    requests: Requests,
    held: Int[Tensor, "*runs requests requests"],
    wanted: Bool[Tensor, "*runs n"],
) -> None:
    """Raise ValueError if a request cannot be forgotten by what is asked, since its batches are recorded for another too.

    It reads values, so call it outside a step. `held` is a state's `records.held`, `wanted` as `asked` makes it.
    """
    names, tasks = list(requests), tasks_of(requests)
    for counts, mask in zip(
        held.reshape(-1, len(names), len(names)), wanted.reshape(-1, wanted.shape[-1]), strict=True
    ):
        named = mask[len(mask) - len(names) :].tolist()
        goes = [one or bool(mask[task]) for one, task in zip(named, tasks, strict=True)]
        for i, j in (
            (i, j) for i in range(len(names)) for j in range(len(names)) if goes[i] and not goes[j]
        ):
            if counts[i, j] > 0:
                raise ValueError(
                    f"{names[i]!r} shares {int(counts[i, j])} batch(es) with {names[j]!r}: ask for both, or declare one"
                )


def _settings(request: Request) -> Settings:
    of = request.concerns
    told = (
        None
        if of is None
        else f"{getattr(of, '__module__', '')}.{getattr(of, '__qualname__', repr(of))}"
    )
    return {
        "task": request.task,
        "classes": list(request.classes),
        "examples": list(request.examples),
        "concerns": told,
    }
