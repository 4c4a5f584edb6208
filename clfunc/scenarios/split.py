"""Split: the tasks share out the classes of one data set.

The scenario is from Zenke et al. 2017, arXiv:1703.04200.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from clfunc.datasets.load import Dataset
from clfunc.random import fold_in, permutation
from clfunc.scenarios.base import (
    Examples,
    Scenario,
    Stream,
    ViewTables,
    common_tables,
    pixels_of,
    require_possible,
    split_rows,
    standardised,
    streams_of_keys,
    task_labels,
)
from clfunc.types import Key, Keys


class ListLengths(NamedTuple):
    """The lengths of a stream's lists."""

    train: int
    valid: int
    test: int


def split(
    dataset: Dataset,
    num_tasks: int,
    key: Keys,
    *,
    paradigm: str = "til",
    shuffle_classes: bool = False,
    valid: float = 0.0,
) -> Scenario:
    """`num_tasks` tasks, which share out the classes of one data set as equally as they can.

    For example, 10 classes in 3 tasks are 4, 3 and 3.

    Args:
        dataset: From `clfunc.datasets`.
        num_tasks: Number of tasks, from 1 to the number of classes.
        key: `[2]`; or `[runs, 2]`, for class orders of each run's own. Every run then takes as many
            steps as the largest task of any class order, and smaller tasks repeat their examples.
        paradigm: In `til` and `dil` labels are local to the task; in `cil` a label is the position
            of the class in the class order.
        shuffle_classes: Whether the key draws the order of the classes; otherwise it is 0, 1, 2...
        valid: Share of each class's training images that is held out for validation, in [0, 1).

    Raises:
        ValueError: A number or the paradigm is out of range.

    >>> import clfunc as cl
    >>> scenario = cl.scenarios.split(cl.datasets.load("digits"), 3, cl.random.key(0))
    >>> scenario.classes
    (4, 3, 3)
    """
    require_possible(num_tasks, paradigm, valid)
    if num_tasks > dataset.num_classes:
        raise ValueError(
            f"split: {dataset.name} has {dataset.num_classes} classes,"
            f" too few for {num_tasks} tasks"
        )
    fewest, remaining = divmod(dataset.num_classes, num_tasks)
    classes = tuple(fewest + (task < remaining) for task in range(num_tasks))
    starts = [0, *accumulate(classes)]
    longest = _longest_lists(dataset, valid, classes, shuffle_classes)

    def make(key: Key, task: int) -> Stream:
        order = torch.arange(dataset.num_classes, device=key.device)
        if shuffle_classes:
            order = permutation(fold_in(key, 2), dataset.num_classes)
        place = torch.argsort(order)  # the place of each class in the class order
        is_here = (place >= starts[task]) & (place < starts[task + 1])
        labels = place
        if paradigm != "cil":
            labels = torch.where(is_here, place - starts[task], 0)

        is_of_task = is_here[dataset.y.to(key.device)]
        lists, sizes = _task_lists(split_rows(key, dataset, valid), is_of_task, longest)
        return Stream(
            task=torch.tensor(task, device=key.device),
            view=common_tables(dataset, labels),
            train=lists[0],
            valid=lists[1],
            test=lists[2],
            sizes=sizes,
        )

    stream, runs = streams_of_keys(make, key)
    return Scenario(
        name="split",
        dataset=dataset.name,
        paradigm=paradigm,
        num_tasks=num_tasks,
        classes=classes,
        inputs=tuple(dataset.x.shape[1:]),
        data=Examples(dataset.x, dataset.y),
        train=stream,
        test=stream,
        view=_view,
        phases=tuple(range(1, num_tasks + 1)),
        runs=runs,
        settings={"name": "split", "shuffle_classes": shuffle_classes, "valid": valid},
        pixels=pixels_of(dataset),
    )


def _view(tables: ViewTables, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return standardised(tables, x), task_labels(tables, y)


def _task_lists(
    parts: Sequence[Tensor], is_of_task: Tensor, lengths: ListLengths
) -> tuple[list[Tensor], Tensor]:
    """The rows of each part with the task's rows first, cut to a length; and how many are the task's.

    Args:
        parts: Rows of the data set for training, validation and testing.
        is_of_task: For each row of the data set, whether its class is the task's.
        lengths: How many rows to keep of each part.
    """
    lists = []
    sizes = []
    for rows, length in zip(parts, lengths, strict=True):
        belongs = is_of_task[rows]
        task_first = torch.argsort((~belongs).to(torch.int64), stable=True)
        lists.append(rows[task_first[:length]])
        sizes.append(belongs.sum())
    return lists, torch.stack(sizes)


def _longest_lists(
    dataset: Dataset,
    valid: float,
    classes: tuple[int, ...],
    is_shuffled: bool,
) -> ListLengths:
    """The largest number of rows that a task can have in each part, under any class order."""
    stored = dataset.y[: dataset.num_train]
    tested = dataset.y[dataset.num_train :]
    train = torch.bincount(stored, minlength=dataset.num_classes).tolist()
    test = torch.bincount(tested, minlength=dataset.num_classes).tolist()
    held_out = [int(valid * count) for count in train]
    trained = [count - held for count, held in zip(train, held_out, strict=True)]
    starts = [0, *accumulate(classes)]

    def longest(counts: list[int]) -> int:
        if is_shuffled:
            return sum(sorted(counts, reverse=True)[: max(classes)])
        return max(sum(counts[start:stop]) for start, stop in pairwise(starts))

    return ListLengths(longest(trained), longest(held_out), longest(test))
