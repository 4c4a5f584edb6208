"""Hypothesis strategies for what the laws range over: keys, parameter trees, unit masks, chains of transforms, streams."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from clfunc import transforms, tree
from clfunc.random import fold_in, key, normal
from clfunc.scenarios import Scenario, joint, rotated, split
from clfunc.testing.play import toy_data, toy_stream
from clfunc.types import Key, Params, Transform

Draw = Callable[..., Any]  # what hypothesis hands a composite strategy


def seeds() -> st.SearchStrategy[int]:
    """Integers that `clfunc.random.key` takes."""
    return st.integers(0, 2**64 - 1)


def keys() -> st.SearchStrategy[Key]:
    """Random keys."""
    return seeds().map(key)


@st.composite
def parameter_trees(draw: Draw, dtype: torch.dtype = torch.float64) -> Params:
    """A dict of one to three groups and a head, each a weight and a bias of up to five units, standard normal."""
    widths = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    groups = [f"hidden{i}" for i in range(1, len(widths) - 1)] + ["head"]
    shapes = {
        g: {"weight": (n, m), "bias": (n,)}
        for g, m, n in zip(groups, widths[:-1], widths[1:], strict=True)
    }
    k = draw(keys())
    return {
        group: {
            name: normal(fold_in(k, i, j), shape, dtype=dtype)
            for j, (name, shape) in enumerate(parts.items())
        }
        for i, (group, parts) in enumerate(shapes.items())
    }


@st.composite
def gradients_like(draw: Draw, params: Params) -> Params:
    """A tree shaped like `params`, standard normal."""
    k = draw(keys())
    leaves, structure = tree.flatten(params)
    drawn = [
        normal(fold_in(k, i), tuple(leaf.shape), dtype=leaf.dtype) for i, leaf in enumerate(leaves)
    ]
    return tree.unflatten(drawn, structure)


@st.composite
def unit_masks(draw: Draw, units: Mapping[str, int]) -> dict[str, Tensor]:
    """0 or 1 for each unit of each group (a model's `units`)."""
    return {
        group: torch.tensor(draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n)))
        for group, n in units.items()
    }


@st.composite
def optimizers(draw: Draw) -> Transform:
    """SGD, with or without momentum, Adam or AdamW, with or without weight decay, at a rate that moves something."""
    lr, decay = draw(st.sampled_from([0.01, 0.1])), draw(st.sampled_from([0.0, 0.1]))
    makes: dict[str, Any] = {
        "sgd": lambda: transforms.sgd(lr, weight_decay=decay),
        "momentum": lambda: transforms.sgd(lr, 0.9, weight_decay=decay),
        "nesterov": lambda: transforms.sgd(lr, 0.9, nesterov=True, weight_decay=decay),
        "adam": lambda: transforms.adam(lr, weight_decay=decay),
        "adamw": lambda: transforms.adamw(lr, weight_decay=decay),
    }
    return makes[draw(st.sampled_from(sorted(makes)))]()


@st.composite
def chains(draw: Draw) -> Transform:
    """An optimiser, maybe after a clip, maybe before a schedule, maybe carried across tasks."""
    before = [
        transforms.clip_by_global_norm(1.0),
        transforms.clip_by_value(0.5),
        transforms.add_decayed_weights(0.1),
    ]
    parts = draw(st.lists(st.sampled_from(before), max_size=2))
    parts.append(draw(optimizers()))
    if draw(st.booleans()):
        parts.append(transforms.schedules.cosine(steps=10))
    made = transforms.chain(*parts)
    return transforms.carry(made) if draw(st.booleans()) else made


@st.composite
def streams(draw: Draw, mixed: bool = False) -> Scenario:
    """Small scenarios: permuted, split or rotated, in any paradigm, with or without validation; or mixtures of them."""
    paradigm, valid = (
        draw(st.sampled_from(["til", "cil", "dil"])),
        draw(st.sampled_from([0.0, 0.25])),
    )
    tasks, k = draw(st.integers(1, 3)), draw(keys())
    kind = draw(st.sampled_from(["permuted", "split", "rotated"]))
    if kind == "permuted":
        scenario = toy_stream(k, tasks, paradigm)
    elif kind == "split":
        scenario = split(
            toy_data(5),
            tasks,
            k,
            paradigm=paradigm,
            shuffle_classes=draw(st.booleans()),
            valid=valid,
        )
    else:
        scenario = rotated(toy_data(), tasks, k, paradigm=paradigm, valid=valid)
    return joint(scenario) if mixed else scenario
