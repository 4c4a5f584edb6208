"""Rotated: every task has all images, turned by an angle of its own.

The scenario is from Lopez-Paz & Ranzato 2017, arXiv:1706.08840.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from clfunc.datasets.load import Dataset
from clfunc.scenarios.base import (
    Examples,
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


def rotated(
    dataset: Dataset,
    num_tasks: int,
    key: Keys,
    *,
    paradigm: str = "til",
    degrees: "float | Sequence[float]" = 180.0,
    valid: float = 0.0,
) -> Scenario:
    """`num_tasks` tasks, each a rotation of one data set.

    Images turn about their centre. The interpolation is bilinear, and the outside of an image is 0.

    Args:
        dataset: From `clfunc.datasets`.
        num_tasks: Number of tasks, >= 1.
        key: `[2]` or `[runs, 2]`: draws the validation split. All keys have the same angles.
        paradigm: `til` and `dil` keep the labels; in `cil` each task has labels of its own.
        degrees: One angle a task; or one range, which the angles divide evenly: task `t`, from 0,
            turns by `t * degrees / num_tasks`.
        valid: Share of the training images that is held out for validation, in [0, 1).

    Raises:
        ValueError: A number or the paradigm is out of range, or the numbers of angles and of tasks
            differ.

    >>> import clfunc as cl
    >>> digits = cl.datasets.load("digits")
    >>> scenario = cl.scenarios.rotated(digits, 4, cl.random.key(0))
    >>> scenario.settings["degrees"]
    [0.0, 45.0, 90.0, 135.0]
    """
    require_possible(num_tasks, paradigm, valid)
    angles = _angles(degrees, num_tasks)
    if len(angles) != num_tasks:
        raise ValueError(
            f"degrees must be one number or one for each of {num_tasks} tasks, given {len(angles)}"
        )
    classes = (dataset.num_classes,) * num_tasks
    inputs = tuple(dataset.x.shape[1:])

    def make(key: Key, task: int) -> Stream:
        _, height, width = inputs
        pixels, shares = _sampling_table(height, width, angles[task], key.device)
        labels = label_table(paradigm, task, classes, key.device)
        tables = common_tables(dataset, labels)
        tables |= {"pixels": pixels, "shares": shares}
        return stream_of_all(task, tables, split_rows(key, dataset, valid))

    def view(tables: ViewTables, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.flatten(2)
        turned = torch.zeros(flat.shape, dtype=torch.float32, device=x.device)
        for corner in range(4):
            pixels = _beside_channels(tables["pixels"][..., corner])
            share = _beside_channels(tables["shares"][..., corner])
            read = flat.gather(2, pixels.expand(flat.shape)).to(torch.float32)
            turned = turned + share * read
        return standardised(tables, turned.reshape(x.shape)), task_labels(tables, y)

    stream, runs = streams_of_keys(make, key)
    settings = {
        "name": "rotated",
        "degrees": angles,
        "valid": valid,
    }
    return Scenario(
        name="rotated",
        dataset=dataset.name,
        paradigm=paradigm,
        num_tasks=num_tasks,
        classes=classes,
        inputs=inputs,
        data=Examples(dataset.x, dataset.y),
        train=stream,
        test=stream,
        view=view,
        phases=tuple(range(1, num_tasks + 1)),
        runs=runs,
        settings=settings,
    )


def _angles(degrees: "float | Sequence[float]", num_tasks: int) -> list[float]:
    """The angle of each task, in degrees."""
    if isinstance(degrees, (int, float)):
        return [task * degrees / num_tasks for task in range(num_tasks)]
    return list(degrees)


def _beside_channels(table: Tensor) -> Tensor:
    """A table `[pixels]` or `[batch, pixels]`, shaped to fit `[batch, channels, pixels]`."""
    return table if table.ndim == 1 else table[:, None]


def _sampling_table(
    height: int,
    width: int,
    angle: float,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """For each pixel of the turned image, the four pixels that it mixes, and their shares.

    Both are `[height * width, 4]`: int64 positions in the flat image, and float32 shares.
    """
    turn = math.radians(angle)
    middle_row = (height - 1) / 2
    middle_column = (width - 1) / 2
    down, right = torch.meshgrid(
        torch.arange(height, dtype=torch.float64, device=device) - middle_row,
        torch.arange(width, dtype=torch.float64, device=device) - middle_column,
        indexing="ij",
    )
    row = down * math.cos(turn) + right * math.sin(turn) + middle_row
    column = right * math.cos(turn) - down * math.sin(turn) + middle_column
    # Rounding makes no turn and right angles exact.
    row = row.round(decimals=9)
    column = column.round(decimals=9)

    pixels = []
    shares = []
    for row_step in (0, 1):
        for column_step in (0, 1):
            r = row.floor() + row_step
            c = column.floor() + column_step
            share = (1 - (row - r).abs()) * (1 - (column - c).abs())
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            shares.append(torch.where(inside, share, 0.0).flatten())
            position = r.clamp(0, height - 1) * width + c.clamp(0, width - 1)
            pixels.append(position.flatten())
    positions = torch.stack(pixels, -1).to(torch.int64)
    return positions, torch.stack(shares, -1).to(torch.float32)
