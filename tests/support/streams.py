"""Small scenarios of every kind, and how the tests look at them."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from clfunc import datasets, tree
from clfunc.scenarios import combined, permuted, rotated, split

TASKS = 3
PARTS = ("train", "valid", "test")
PARADIGMS = ("til", "cil", "dil")
VALID = (0.0, 0.1, 0.34, 0.5, 0.9)
ANGLES = (0.0, 25.0, 140.0)


def toy(name, train_counts, test_counts, shape):
    """A data set of random images, with so many examples of each class, in a mixed order."""
    generator = np.random.default_rng(len(name))
    arrays = {}
    for part, counts in (("train", train_counts), ("test", test_counts)):
        labels = generator.permutation(np.repeat(np.arange(len(counts)), counts))
        arrays[f"{part}_x"] = generator.integers(0, 256, (len(labels), *shape), np.uint8)
        arrays[f"{part}_y"] = labels
    return datasets.from_arrays(name, **arrays)


SQUARE = toy("square", (7, 4, 9, 3, 6), (2, 3, 1, 2, 4), (1, 4, 4))
WIDE = toy("wide", (5, 8), (1, 2), (3, 3, 5))
SMALL = toy("small", (3, 2, 11), (2, 2, 2), (1, 2, 3))
MIXED = (SQUARE, WIDE, SMALL)


def _kinds(one, many, angles):
    """For each kind of scenario, `(key, **more) -> Scenario`."""
    return {
        "permuted": lambda key, **more: permuted(one, TASKS, key, **more),
        "split": lambda key, **more: split(one, TASKS, key, **more),
        "shuffled": lambda key, **more: split(one, TASKS, key, shuffle_classes=True, **more),
        "rotated": lambda key, **more: rotated(one, TASKS, key, degrees=angles, **more),
        "combined": lambda key, **more: combined(many, key, **more),
    }


_digits = datasets.load("digits")
KINDS = _kinds(SQUARE, MIXED, ANGLES)
DIGITS = _kinds(_digits, (_digits, WIDE, SMALL), 180.0)
SEEDS = st.integers(0, 2**64 - 1)
DRAWN = st.sampled_from(PARADIGMS)
every_kind = pytest.mark.parametrize("kind", KINDS)
every_paradigm = pytest.mark.parametrize("paradigm", PARADIGMS)


def lists(stream):
    """The rows of each part of a stream, without padding."""
    rows = {}
    for part, size in zip(PARTS, stream.sizes.tolist(), strict=True):
        rows[part] = getattr(stream, part)[:size].tolist()
    return rows


def of_run(stream, run):
    """The stream of one run."""
    return tree.index(stream, run)


def origin(kind, task, data=MIXED):
    """The data set of a task, and its first row among the rows of the scenario."""
    if kind != "combined":
        return data[0], 0
    return data[task], sum(len(before.y) for before in data[:task])


def batch_of(scenario, stream, rows):
    """The batch of a list of rows."""
    return scenario.batch(scenario.data, stream, torch.tensor(rows, dtype=torch.int64))
