"""Permuted: every task has all the images, their pixels shuffled by a permutation of its own (Goodfellow et al. 2014,
arXiv:1312.6211). All pixels of all channels are permuted together; permutations are drawn from the key.
"""

import torch
from torch import Tensor

from clfunc.datasets.load import Dataset
from clfunc.random import fold_in, permutation
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


def permuted(
    dataset: Dataset,
    num_tasks: int,
    key: Keys,
    *,
    paradigm: str = "til",
    first_identity: bool = False,
    valid: float = 0.0,
) -> Scenario:
    """`num_tasks` permutations of one data set.

    Args:
        dataset: From `clfunc.datasets`.
        num_tasks: >= 1; memory does not grow with it.
        key: `[2]`, or `[runs, 2]` for permutations of each run's own.
        paradigm: `til` and `dil` keep the labels; in `cil` each task has labels of its own.
        first_identity: Leave the first task's pixels in place.
        valid: Share of the training images held out for validation, in [0, 1).

    Raises:
        ValueError: A number or paradigm out of range.
    """
    check(num_tasks, paradigm, valid)
    classes = (dataset.num_classes,) * num_tasks
    inputs = tuple(dataset.x.shape[1:])

    def make(key: Key, task: int) -> Stream:
        pixels = permutation(fold_in(key, 2, task), dataset.x[0].numel())
        if first_identity and task == 0:
            pixels = torch.arange(len(pixels), device=key.device)
        view = base_view(dataset, label_table(paradigm, task, classes, key.device)) | {
            "pixels": pixels
        }
        return whole(task, view, split_rows(key, dataset, valid))

    def view_of(view: View, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.flatten(1)
        moved = flat.gather(1, view["pixels"].expand(flat.shape)).reshape(x.shape)
        return normalised(view, moved), relabelled(view, y)

    stream, runs = per_run(make, key)
    settings = {"name": "permuted", "first_identity": first_identity, "valid": valid}
    return Scenario(
        "permuted", dataset.name, paradigm, num_tasks, classes, inputs, Examples(dataset.x, dataset.y),
        stream, stream, view_of, tuple(range(1, num_tasks + 1)), runs=runs, settings=settings,
    )  # fmt: skip
