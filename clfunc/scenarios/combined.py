"""Combined: every task is a data set of its own, with as many classes as the data set has."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from clfunc.datasets.load import Dataset
from clfunc.random import fold_in
from clfunc.scenarios.base import (
    Examples,
    Rows,
    Scenario,
    Stream,
    ViewTables,
    common_tables,
    label_table,
    require_possible,
    split_rows,
    standardised,
    stream_of_all,
    streams_of_keys,
    task_labels,
)
from clfunc.types import Key, Keys


def combined(
    datasets: Sequence[Dataset],
    key: Keys,
    *,
    paradigm: str = "til",
    valid: float = 0.0,
) -> Scenario:
    """One task for each data set, in the order given.

    Images take the largest height, width and number of channels: smaller images stand in the middle
    of zeros, and grey images are repeated in every channel.

    Args:
        datasets: At least one data set.
        key: `[2]` or `[runs, 2]`: draws the validation split.
        paradigm: In `til` and `dil` labels are the classes of each data set; in `cil` they follow
            the labels of the data sets before.
        valid: Share of each class's training images that is held out for validation, in [0, 1).

    Raises:
        ValueError: There is no data set, images have neither one channel nor the largest number of
            them, or a number or the paradigm is out of range.

    >>> import clfunc as cl
    >>> digits = cl.datasets.load("digits")
    >>> scenario = cl.scenarios.combined([digits, digits.first(200)], cl.random.key(0))
    >>> scenario.dataset, scenario.classes
    ('digits+digits', (10, 10))
    """
    require_possible(len(datasets), paradigm, valid)
    shapes = [tuple(dataset.x.shape[1:]) for dataset in datasets]
    channels, height, width = (max(sizes) for sizes in zip(*shapes, strict=True))
    for dataset in datasets:
        own = dataset.x.shape[1]
        if own not in (1, channels):
            raise ValueError(
                f"combined: {dataset.name} has {own} channels, which cannot become {channels}"
            )
    inputs = (channels, height, width)
    classes = tuple(dataset.num_classes for dataset in datasets)
    x = torch.cat([_fitted(dataset.x, inputs) for dataset in datasets])
    y = torch.cat([dataset.y for dataset in datasets])

    def make(key: Key, task: int) -> Stream:
        dataset = datasets[task]
        first_row = sum(len(before.y) for before in datasets[:task])
        labels = label_table(paradigm, task, classes, key.device)
        # The label tables of all tasks have one length, so that a mixture can stack them.
        labels = pad(labels, (0, max(classes) - len(labels)))
        rows = split_rows(fold_in(key, task), dataset, valid)
        rows = Rows(*[part + first_row for part in rows])
        return stream_of_all(task, common_tables(dataset, labels), rows)

    def view(tables: ViewTables, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return standardised(tables, x), task_labels(tables, y)

    stream, runs = streams_of_keys(make, key)
    return Scenario(
        name="combined",
        dataset="+".join(dataset.name for dataset in datasets),
        paradigm=paradigm,
        num_tasks=len(datasets),
        classes=classes,
        inputs=inputs,
        data=Examples(x, y),
        train=stream,
        test=stream,
        view=view,
        phases=tuple(range(1, len(datasets) + 1)),
        runs=runs,
        settings={"name": "combined", "valid": valid},
    )


def _fitted(x: Tensor, inputs: tuple[int, ...]) -> Tensor:
    """Images `[n, ...]` in the middle of zeros, with the channels, height and width of `inputs`."""
    channels, height, width = inputs
    rows = height - x.shape[2]
    columns = width - x.shape[3]
    top = rows // 2
    left = columns // 2
    x = pad(x, (left, columns - left, top, rows - top))
    return x.expand(-1, channels, -1, -1).contiguous()
