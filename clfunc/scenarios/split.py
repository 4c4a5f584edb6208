"""Split: the classes of one data set, shared out over the tasks (Zenke et al. 2017, arXiv:1703.04200)."""

from itertools import accumulate, pairwise

import torch
from torch import Tensor

from clfunc.datasets.load import Dataset
from clfunc.random import fold_in, permutation
from clfunc.scenarios.base import (
    Examples,
    Rows,
    Scenario,
    Stream,
    View,
    base_view,
    check,
    normalised,
    per_run,
    relabelled,
    split_rows,
)
from clfunc.types import Key, Keys


def split(
    dataset: Dataset,
    num_tasks: int,
    key: Keys,
    *,
    paradigm: str = "til",
    shuffle_classes: bool = False,
    valid: float = 0.0,
) -> Scenario:
    """The data set's classes in `num_tasks` parts, as equal as they can be (10 classes in 3 tasks: 4, 3 and 3).

    Args:
        dataset: From `clfunc.datasets`.
        num_tasks: From 1 to the number of classes.
        key: `[2]`, or `[runs, 2]` for class orders of each run's own; every run then takes the steps of the largest task
            that any order could give, and smaller tasks repeat.
        paradigm: Labels are local to the task in `til` and `dil`, positions in the class order in `cil`.
        shuffle_classes: Draw the order of the classes from the key, rather than 0, 1, 2, ...
        valid: Share of each class's training images held out for validation, in [0, 1).

    Raises:
        ValueError: A number or paradigm out of range.
    """
    check(num_tasks, paradigm, valid)
    if num_tasks > dataset.num_classes:
        raise ValueError(
            f"split: {dataset.name} has {dataset.num_classes} classes, too few for {num_tasks} tasks"
        )
    base, more = divmod(dataset.num_classes, num_tasks)
    classes = tuple(base + (task < more) for task in range(num_tasks))
    starts = [0, *accumulate(classes)]
    longest = _longest(dataset, valid, classes, shuffle_classes)

    def make(key: Key, task: int) -> Stream:
        order = torch.arange(dataset.num_classes, device=key.device)
        if shuffle_classes:
            order = permutation(fold_in(key, 2), dataset.num_classes)
        place = torch.argsort(order)  # class -> its place in the order
        here = (place >= starts[task]) & (place < starts[task + 1])
        labels = place if paradigm == "cil" else torch.where(here, place - starts[task], 0)

        stored = dataset.y.to(key.device)
        rows = split_rows(key, dataset, valid)
        members = [here[stored[part]] for part in rows]
        first = [torch.argsort((~member).to(torch.int64), stable=True) for member in members]
        train, held, test = (part[f[:n]] for part, f, n in zip(rows, first, longest, strict=True))
        sizes = torch.stack([member.sum() for member in members])
        view = base_view(dataset, labels)
        return Stream(torch.tensor(task, device=key.device), view, train, held, test, sizes)

    def view_of(view: View, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return normalised(view, x), relabelled(view, y)

    stream, runs = per_run(make, key)
    settings = {"name": "split", "shuffle_classes": shuffle_classes, "valid": valid}
    return Scenario(
        "split", dataset.name, paradigm, num_tasks, classes, tuple(dataset.x.shape[1:]), Examples(dataset.x, dataset.y),
        stream, stream, view_of, tuple(range(1, num_tasks + 1)), runs=runs, settings=settings,
    )  # fmt: skip


def _longest(dataset: Dataset, valid: float, classes: tuple[int, ...], shuffled: bool) -> Rows:
    """The most rows that a task can have in each part of the data, under any class order."""
    train = torch.bincount(dataset.y[: dataset.num_train], minlength=dataset.num_classes).tolist()
    test = torch.bincount(dataset.y[dataset.num_train :], minlength=dataset.num_classes).tolist()
    held = [int(valid * n) for n in train]
    counts = [[n - v for n, v in zip(train, held, strict=True)], held, test]
    if shuffled:
        return Rows(*(sum(sorted(c, reverse=True)[: max(classes)]) for c in counts))
    starts = [0, *accumulate(classes)]
    return Rows(*(max(sum(c[a:b]) for a, b in pairwise(starts)) for c in counts))
