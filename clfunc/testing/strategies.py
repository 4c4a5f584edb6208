"""Hypothesis strategies: keys, parameter trees, unit masks, chains of transforms, streams."""

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

Draw = Callable[..., Any]  # hypothesis hands it to a composite strategy


def seeds() -> st.SearchStrategy[int]:
    """Integers that `clfunc.random.key` takes."""
    return st.integers(0, 2**64 - 1)


def keys() -> st.SearchStrategy[Key]:
    """Random keys."""
    return seeds().map(key)


@st.composite
def parameter_trees(draw: Draw, dtype: torch.dtype = torch.float64) -> Params:
    """Parameters of up to two hidden groups and a head, standard normal.

    Each group is a weight and a bias of one to five units.

    Args:
        draw: From hypothesis.
        dtype: Type of the parameters.
    """
    widths = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    groups = [f"hidden{i}" for i in range(1, len(widths) - 1)] + ["head"]
    k = draw(keys())
    params = {}
    for i, group in enumerate(groups):
        inputs, units = widths[i], widths[i + 1]
        params[group] = {
            "weight": normal(fold_in(k, i, 0), (units, inputs), dtype=dtype),
            "bias": normal(fold_in(k, i, 1), (units,), dtype=dtype),
        }
    return params


@st.composite
def gradients_like(draw: Draw, params: Params) -> Params:
    """A tree with the shapes of `params`, standard normal.

    Args:
        draw: From hypothesis.
        params: Any tree of tensors.
    """
    k = draw(keys())
    leaves, structure = tree.flatten(params)
    drawn = []
    for i, leaf in enumerate(leaves):
        drawn.append(normal(fold_in(k, i), tuple(leaf.shape), dtype=leaf.dtype))
    return tree.unflatten(drawn, structure)


@st.composite
def unit_masks(draw: Draw, units: Mapping[str, int]) -> dict[str, Tensor]:
    """A mask for each unit group: 0 or 1 for each unit.

    Args:
        draw: From hypothesis.
        units: Number of units of each group, as a model's `units`.
    """
    masks = {}
    for group, n in units.items():
        entries = st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n)
        masks[group] = torch.tensor(draw(entries))
    return masks


@st.composite
def optimizers(draw: Draw) -> Transform:
    """SGD, with momentum or without, Adam or AdamW, with weight decay or without."""
    lr = draw(st.sampled_from([0.01, 0.1]))
    decay = draw(st.sampled_from([0.0, 0.1]))
    name = draw(st.sampled_from(["adam", "adamw", "momentum", "nesterov", "sgd"]))
    if name == "sgd":
        return transforms.sgd(lr, weight_decay=decay)
    if name == "momentum":
        return transforms.sgd(lr, 0.9, weight_decay=decay)
    if name == "nesterov":
        return transforms.sgd(lr, 0.9, nesterov=True, weight_decay=decay)
    if name == "adam":
        return transforms.adam(lr, weight_decay=decay)
    return transforms.adamw(lr, weight_decay=decay)


@st.composite
def chains(draw: Draw) -> Transform:
    """An optimiser, after clips or decay or not, before a schedule or not, carried or not."""
    before = [
        transforms.clip_by_global_norm(1.0),
        transforms.clip_by_value(0.5),
        transforms.add_decayed_weights(0.1),
    ]
    parts = draw(st.lists(st.sampled_from(before), max_size=2))
    parts.append(draw(optimizers()))
    if draw(st.booleans()):
        parts.append(transforms.schedules.cosine(steps=10))
    chained = transforms.chain(*parts)
    is_carried = draw(st.booleans())
    return transforms.carry(chained) if is_carried else chained


@st.composite
def streams(draw: Draw, mixed: bool = False) -> Scenario:
    """Small scenarios: permuted, split or rotated, in any paradigm.

    Args:
        draw: From hypothesis.
        mixed: Whether the tasks are mixed into one phase, as `joint` mixes them.
    """
    paradigm = draw(st.sampled_from(["til", "cil", "dil"]))
    valid = draw(st.sampled_from([0.0, 0.25]))
    tasks = draw(st.integers(1, 3))
    k = draw(keys())
    name = draw(st.sampled_from(["permuted", "split", "rotated"]))
    settings: dict[str, Any] = {"paradigm": paradigm, "valid": valid}
    if name == "permuted":
        scenario = toy_stream(k, tasks, paradigm)
    elif name == "split":
        shuffle = draw(st.booleans())
        scenario = split(toy_data(5), tasks, k, shuffle_classes=shuffle, **settings)
    else:
        scenario = rotated(toy_data(), tasks, k, **settings)
    return joint(scenario) if mixed else scenario
