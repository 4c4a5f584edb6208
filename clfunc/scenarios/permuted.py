"""Permuted: every task has all images, and shuffles their pixels by a permutation of its own.

The scenario is from Goodfellow et al. 2014, arXiv:1312.6211. The pixels of all channels are
permuted together. Permutations are drawn from the key.
"""

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
    label_table,
    pixels_of,
    require_possible,
    split_rows,
    standardised,
    stream_of_all,
    streams_of_keys,
    task_labels,
)
from clfunc.types import Key, Keys


def permuted(
    dataset: Dataset,
    num_tasks: int,
    key: Keys,
    *,
    paradigm: str = "til",
    first_identity: bool = False,
    valid: float = 0.0,
) -> Scenario:
    """`num_tasks` tasks, each a permutation of the pixels of one data set.

    Args:
        dataset: From `clfunc.datasets`.
        num_tasks: Number of tasks, >= 1. Memory does not grow with it.
        key: `[2]`; or `[runs, 2]`, for permutations of each run's own.
        paradigm: `til` and `dil` keep the labels; in `cil` each task has labels of its own.
        first_identity: Whether the first task keeps its pixels in place.
        valid: Share of the training images that is held out for validation, in [0, 1).

    Raises:
        ValueError: A number or the paradigm is out of range.

    >>> import clfunc as cl
    >>> digits = cl.datasets.load("digits")
    >>> scenario = cl.scenarios.permuted(digits, 3, cl.random.key(0), paradigm="cil")
    >>> scenario.num_tasks, scenario.inputs, scenario.head().classes
    (3, (1, 8, 8), 30)
    """
    require_possible(num_tasks, paradigm, valid)
    classes = (dataset.num_classes,) * num_tasks

    def make(key: Key, task: int) -> Stream:
        pixels = permutation(fold_in(key, 2, task), dataset.x[0].numel())
        if first_identity and task == 0:
            pixels = torch.arange(len(pixels), device=key.device)
        labels = label_table(paradigm, task, classes, key.device)
        tables = common_tables(dataset, labels) | {"pixels": pixels}
        return stream_of_all(task, tables, split_rows(key, dataset, valid))

    def view(tables: ViewTables, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.flatten(1)
        pixels = tables["pixels"].expand(flat.shape)
        moved = flat.gather(1, pixels).reshape(x.shape)
        return standardised(tables, moved), task_labels(tables, y)

    stream, runs = streams_of_keys(make, key)
    settings = {
        "name": "permuted",
        "first_identity": first_identity,
        "valid": valid,
    }
    return Scenario(
        name="permuted",
        dataset=dataset.name,
        paradigm=paradigm,
        num_tasks=num_tasks,
        classes=classes,
        inputs=tuple(dataset.x.shape[1:]),
        data=Examples(dataset.x, dataset.y),
        train=stream,
        test=stream,
        view=view,
        phases=tuple(range(1, num_tasks + 1)),
        runs=runs,
        settings=settings,
        pixels=pixels_of(dataset),
    )
