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
    """A data set of random images with these many examples of each class, in a mixed order."""
    generator = np.random.default_rng(len(name))
    arrays = {}
    for part, counts in (("train", train_counts), ("test", test_counts)):
        labels = generator.permutation(np.repeat(np.arange(len(counts)), counts))
        arrays |= {
            f"{part}_x": generator.integers(0, 256, (len(labels), *shape), np.uint8),
            f"{part}_y": labels,
        }
    return datasets.from_arrays(name, **arrays)


SQUARE = toy("square", (7, 4, 9, 3, 6), (2, 3, 1, 2, 4), (1, 4, 4))
WIDE = toy("wide", (5, 8), (1, 2), (3, 3, 5))
SMALL = toy("small", (3, 2, 11), (2, 2, 2), (1, 2, 3))
MIXED = (SQUARE, WIDE, SMALL)

KINDS = {
    "permuted": lambda key, **more: permuted(SQUARE, TASKS, key, **more),
    "split": lambda key, **more: split(SQUARE, TASKS, key, **more),
    "shuffled": lambda key, **more: split(SQUARE, TASKS, key, shuffle_classes=True, **more),
    "rotated": lambda key, **more: rotated(SQUARE, TASKS, key, degrees=ANGLES, **more),
    "combined": lambda key, **more: combined(MIXED, key, **more),
}
DIGITS = {
    "permuted": lambda key, **more: permuted(datasets.load("digits"), TASKS, key, **more),
    "split": lambda key, **more: split(datasets.load("digits"), TASKS, key, **more),
    "shuffled": lambda key, **more: split(
        datasets.load("digits"), TASKS, key, shuffle_classes=True, **more
    ),
    "rotated": lambda key, **more: rotated(datasets.load("digits"), TASKS, key, **more),
    "combined": lambda key, **more: combined([datasets.load("digits"), WIDE, SMALL], key, **more),
}
SEEDS, DRAWN = st.integers(0, 2**64 - 1), st.sampled_from(PARADIGMS)
every_kind = pytest.mark.parametrize("kind", KINDS)
every_paradigm = pytest.mark.parametrize("paradigm", PARADIGMS)


def lists(stream):
    """The rows of each part, without padding."""
    return {
        name: getattr(stream, name)[:size].tolist()
        for name, size in zip(PARTS, stream.sizes.tolist(), strict=True)
    }


def of_run(stream, run):
    return tree.index(stream, run)


def origin(kind, task, data=MIXED):
    """A task's data set, and where its rows begin among those of the scenario."""
    return (data[task], sum(len(d.y) for d in data[:task])) if kind == "combined" else (data[0], 0)


def batch_of(scenario, stream, rows):
    return scenario.batch(scenario.data, stream, torch.tensor(rows, dtype=torch.int64))
