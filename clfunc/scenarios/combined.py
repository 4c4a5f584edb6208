"""Combined: a data set a task, with whatever classes each has. Smaller images are padded with 0 all round and grey ones
repeated to the largest's channels.
"""

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
    View,
    base_view,
    check,
    label_table,
    normalised,
    per_run,
    relabelled,
    split_rows,
    whole,
)
from clfunc.types import Key, Keys


def combined(
    datasets: Sequence[Dataset], key: Keys, *, paradigm: str = "til", valid: float = 0.0
) -> Scenario:
    """One task for each data set, in the order given.

    Args:
        datasets: At least one. Images of different sizes are centred in the largest height and width, on 0.
        key: `[2]` or `[runs, 2]`: draws the validation split.
        paradigm: Labels are each data set's own in `til` and `dil`; in `cil` they follow those of the data sets before.
        valid: Share of each class's training images held out for validation, in [0, 1).

    Raises:
        ValueError: No data set, images of neither one nor the largest number of channels, a number out of range.
    """
    check(len(datasets), paradigm, valid)
    inputs = tuple(max(d.x.shape[axis] for d in datasets) for axis in (1, 2, 3))
    for dataset in datasets:
        if dataset.x.shape[1] not in (1, inputs[0]):
            raise ValueError(
                f"combined: {dataset.name} has {dataset.x.shape[1]} channels, which cannot become {inputs[0]}"
            )
    classes = tuple(d.num_classes for d in datasets)
    x = torch.cat([_fitted(d.x, inputs) for d in datasets])
    y = torch.cat([d.y for d in datasets])
    most = max(classes)

    def make(key: Key, task: int) -> Stream:
        dataset, first = datasets[task], sum(len(d.y) for d in datasets[:task])
        labels = label_table(paradigm, task, classes, key.device)
        view = base_view(dataset, pad(labels, (0, most - len(labels))))
        rows = Rows(*(part + first for part in split_rows(fold_in(key, task), dataset, valid)))
        return whole(task, view, rows)

    def view_of(view: View, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return normalised(view, x), relabelled(view, y)

    stream, runs = per_run(make, key)
    name = "+".join(d.name for d in datasets)
    return Scenario(
        "combined", name, paradigm, len(datasets), classes, inputs, Examples(x, y),
        stream, stream, view_of, tuple(range(1, len(datasets) + 1)), runs=runs,
        settings={"name": "combined", "valid": valid},
    )  # fmt: skip


def _fitted(x: Tensor, inputs: tuple[int, ...]) -> Tensor:
    channels, height, width = inputs
    up, left = (height - x.shape[2]) // 2, (width - x.shape[3]) // 2
    x = pad(x, (left, width - x.shape[3] - left, up, height - x.shape[2] - up))
    return x.expand(-1, channels, -1, -1).contiguous()
