"""Rotated: every task has all the images, turned by an angle of its own (Lopez-Paz & Ranzato 2017, arXiv:1706.08840)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from clfunc.datasets.load import Dataset
from clfunc.scenarios.base import (
    Examples,
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


def rotated(
    dataset: Dataset,
    num_tasks: int,
    key: Keys,
    *,
    paradigm: str = "til",
    degrees: "float | Sequence[float]" = 180.0,
    valid: float = 0.0,
) -> Scenario:
    """`num_tasks` rotations of one data set about the image's centre, bilinear, with 0 outside the image.

    Args:
        dataset: From `clfunc.datasets`.
        num_tasks: >= 1.
        key: `[2]` or `[runs, 2]`: draws the validation split; the angles are the same for every key.
        paradigm: `til` and `dil` keep the labels; in `cil` each task has labels of its own.
        degrees: The range over which angles are spread evenly (task t: `t * degrees / num_tasks`), or an angle a task.
        valid: Share of the training images held out for validation, in [0, 1).

    Raises:
        ValueError: A number or paradigm out of range, or another number of angles than tasks.
    """
    check(num_tasks, paradigm, valid)
    angles = (
        [t * degrees / num_tasks for t in range(num_tasks)]
        if isinstance(degrees, (int, float))
        else list(degrees)
    )
    if len(angles) != num_tasks:
        raise ValueError(
            f"degrees must be one number or one for each of {num_tasks} tasks, given {len(angles)}"
        )
    classes = (dataset.num_classes,) * num_tasks
    inputs = tuple(dataset.x.shape[1:])

    def make(key: Key, task: int) -> Stream:
        pixels, shares = _sampling(inputs[1], inputs[2], angles[task], key.device)
        labels = label_table(paradigm, task, classes, key.device)
        view = base_view(dataset, labels) | {"pixels": pixels, "shares": shares}
        return whole(task, view, split_rows(key, dataset, valid))

    def view_of(view: View, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.flatten(2)
        turned = torch.zeros(flat.shape, dtype=torch.float32, device=x.device)
        for corner in range(4):
            pixels, share = (_per_example(view[name][..., corner]) for name in ("pixels", "shares"))
            turned = turned + share * flat.gather(2, pixels.expand(flat.shape)).to(torch.float32)
        return normalised(view, turned.reshape(x.shape)), relabelled(view, y)

    stream, runs = per_run(make, key)
    settings = {"name": "rotated", "degrees": angles, "valid": valid}
    return Scenario(
        "rotated", dataset.name, paradigm, num_tasks, classes, inputs, Examples(dataset.x, dataset.y),
        stream, stream, view_of, tuple(range(1, num_tasks + 1)), runs=runs, settings=settings,
    )  # fmt: skip


def _per_example(table: Tensor) -> Tensor:
    """A table of pixels, `[pixels]` or `[batch, pixels]`, to stand beside `[batch, channels, pixels]`."""
    return table if table.ndim == 1 else table[:, None]


def _sampling(height: int, width: int, angle: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each pixel of the turned image, the four pixels `[height * width, 4]` that it mixes, and their shares."""
    turn = math.radians(angle)
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64, device=device) - (height - 1) / 2,
        torch.arange(width, dtype=torch.float64, device=device) - (width - 1) / 2,
        indexing="ij",
    )
    row = rows * math.cos(turn) + columns * math.sin(turn) + (height - 1) / 2
    column = columns * math.cos(turn) - rows * math.sin(turn) + (width - 1) / 2
    row, column = (
        row.round(decimals=9),
        column.round(decimals=9),
    )  # so that no turn, or a right angle, is exact
    pixels, shares = [], []
    for down in (0, 1):
        for right in (0, 1):
            r, c = row.floor() + down, column.floor() + right
            share = (1 - (row - r).abs()) * (1 - (column - c).abs())
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            shares.append(torch.where(inside, share, 0.0).flatten())
            pixels.append((r.clamp(0, height - 1) * width + c.clamp(0, width - 1)).flatten())
    return torch.stack(pixels, -1).to(torch.int64), torch.stack(shares, -1).to(torch.float32)
