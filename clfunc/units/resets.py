"""Resetting units: which units are chosen, what becomes of the weights around them, and which
leaves of an optimiser's state are cleared.

A unit that is reset is as it was drawn, and no unit uses it yet: its incoming weights are drawn
anew, its bias is 0, a gain 1, its outgoing weights are 0. Groups are reset in forward order, in
each the incoming weights before the outgoing ones. So where a weight joins two units that are both
reset,

    the later group's row wins over the earlier group's column (the weight is drawn), as in the
    published code; within one group (a residual stream that feeds itself), or backwards, the column
    wins (the weight is 0).

Either way no path leads from a unit that was reset to the logits, so these do not depend on what
was drawn.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clfunc import tree
from clfunc.random import uniform
from clfunc.types import Key, Model, Params, State, Transform, Updates, Wire
from clfunc.units.masks import along, name_of


class Choice(NamedTuple):
    """Units of one group that are to be reset, and which of the rows drawn each one takes."""

    reset: Bool[Tensor, " units"]
    slot: Int[Tensor, " units"]


def lowest(values: Float[Tensor, " units"], slots: int, count: Tensor) -> Choice:
    """The `count` (0-d, at most `slots`) units of the lowest values.

    Of equals the first. The lowest takes slot 0.
    """
    order = values.argmin()[None] if slots == 1 else torch.argsort(values, stable=True)[:slots]
    place = torch.arange(slots, device=values.device)
    hit = (order == torch.arange(len(values), device=values.device)[:, None]) & (place < count)
    return Choice(hit.any(1), (hit * place).sum(1))


def marked(reset: Bool[Tensor, " units"]) -> Choice:
    """Any number of units.

    Each has a slot to itself, so a group needs as many slots as it has units.
    """
    # `any` changes nothing but the schedule: by way of one number, what is reduced over a batch
    # is not fused into the loops
    # over weights, where Inductor (2.13, C++) takes a donated write for a reader and stops with a
    # KeyError
    return Choice(reset & reset.any(), torch.arange(len(reset), device=reset.device))


def into(model: Model, group: str) -> list[tuple[str, Wire]]:
    """The wires that feed a group, with the names of their weights."""
    return [(name_of(wire), wire) for wire in model.wires if wire.post == group]


def out_of(model: Model, group: str) -> list[tuple[str, Wire]]:
    """The wires that a group feeds, with the names of their weights."""
    return [(name_of(wire), wire) for wire in model.wires if wire.pre == group]


def check_wires(model: Model, name: str) -> None:
    """Raise ValueError unless every group of the model can be reset."""
    for group in model.units:
        if not (into(model, group) and out_of(model, group)):
            raise ValueError(
                f"{name} needs wires into and out of every group of units, {group} lacks some"
            )


def row_shapes(
    model: Model, params: Params, slots: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """By weight, in the order of the wires: the noise that resets need, `(slots, fan_in)`."""
    leaves = dict(tree.items(params))
    shapes: dict[str, tuple[int, ...]] = {}
    for wire in model.wires:
        if wire.post is not None and wire.reset == "draw":
            leaf = leaves[name_of(wire)]
            width = leaf.shape[wire.post_axis or 0]
            shapes[name_of(wire)] = (slots[wire.post], leaf.numel() // width)
    return shapes


def noise(
    key: Key, at: Tensor, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
) -> dict[str, Tensor]:
    """U[0, 1) of each shape, cut in order from one draw (a draw is what costs time to compile)."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    pieces = uniform(key, (sum(sizes),), at=at, dtype=dtype).split(sizes)
    drawn = {}
    for (name, shape), piece in zip(shapes.items(), pieces, strict=True):
        drawn[name] = piece.reshape(shape)
    return drawn


def renew(
    model: Model,
    params: Params,
    choices: Mapping[str, Choice],
    rows: Mapping[str, Tensor],
    transfer: Mapping[str, Tensor] | None = None,
) -> Params:
    """`params` with the units of `choices` reset.

    Args:
        model: Its wires say what is fed by what, and how it is drawn.
        params: To be changed.
        choices: By group.
        rows: Noise in [0, 1), see `row_shapes`.
        transfer: By group, a constant for each unit, that its consumers' biases take over in its
            place; none if not given.
    """
    flat = dict(tree.items(params))
    for group in model.units:
        reset, slot = choices[group]
        for name, wire in into(model, group):
            leaf = flat[name]
            drawn = _by_slot(rows[name], slot) if wire.reset == "draw" else None
            here = along(reset, wire.post_axis or 0, leaf.ndim)
            flat[name] = torch.where(here, _fresh(wire, leaf, drawn), leaf)
        for name, wire in out_of(model, group):
            leaf = flat[name]
            axis = wire.pre_axis or 0
            if transfer is not None:
                bias = bias_of(name)
                lost = torch.where(reset, transfer[group], 0.0)
                lost = along(lost, axis, leaf.ndim, wire.spread)
                flat[bias] = flat[bias] + (leaf * lost).sum(_but_outputs(wire, leaf.ndim))
            flat[name] = torch.where(along(reset, axis, leaf.ndim, wire.spread), 0.0, leaf)
    return tree.map_items(lambda name, _: flat[name], params)


def rewrite(
    model: Model,
    params: Params,
    updates: Updates,
    inner: Transform,
    state: State,
    choices: Mapping[str, Choice],
    rows: Mapping[str, Tensor],
    transfer: Mapping[str, Tensor] | None = None,
) -> tuple[Updates, State]:
    """Updates that also reset the units of `choices`, and the state of `inner` with zeros in what
    follows their weights.

    Args:
        model: Its wires say which weights belong to a unit.
        params: Before the step.
        updates: As `inner` made them.
        inner: The optimiser.
        state: Its state after the step.
        choices: By group, the units to reset.
        rows: Noise in [0, 1), see `row_shapes`.
        transfer: See `renew`.
    """
    moved = tree.add(params, updates)
    renewed = renew(model, moved, choices, rows, transfer)
    # where nothing was reset the update is the inner one, to the bit
    updates = tree.map(
        lambda n, m, p, u: torch.where(n == m, u, n - p), renewed, moved, params, updates
    )
    reset = dict(tree.items(touched(model, params, choices)))

    def clear(leaf: Tensor, name: str) -> Tensor:
        return torch.where(reset[name], 0, leaf) if name else leaf

    return updates, tree.map(clear, state, inner.follows(state))


def bias_of(name: str) -> str:
    """The name of the bias beside a weight."""
    return name.rpartition(".")[0] + ".bias"


def _but_outputs(wire: Wire, ndim: int) -> list[int]:
    """The axes to sum over for what each output receives.

    A head's outputs are all but its inputs.
    """
    return (
        [wire.pre_axis or 0]
        if wire.post is None
        else [axis for axis in range(ndim) if axis != wire.post_axis]
    )


def _by_slot(rows: Tensor, slot: Tensor) -> Tensor:
    """The row of noise that each unit would take, `[units, fan_in]`: with one slot, the same for
    all, and no lookup.
    """
    return rows.expand(len(slot), -1) if len(rows) == 1 else rows[slot]


def _fresh(wire: Wire, leaf: Tensor, noise: Tensor | None) -> Tensor | float:
    """What every unit's entries of a weight would be if it were reset, noise being `[units,
    fan_in]`.
    """
    if noise is None:
        return 1.0 if wire.reset == "one" else 0.0
    axis = wire.post_axis or 0
    rest = [n for i, n in enumerate(leaf.shape) if i != axis]
    return (wire.bound * (2 * noise - 1)).reshape(-1, *rest).movedim(0, axis)


def touched(model: Model, params: Params, choices: Mapping[str, Choice]) -> Params:
    """A tree like `params` that says which entries belong to a unit that is reset.

    Each leaf broadcasts to its weight.
    """

    def mask(name: str, leaf: Tensor) -> Tensor:
        found = torch.zeros((1,) * leaf.ndim, dtype=torch.bool, device=leaf.device)
        for wire in model.wires:
            if name_of(wire) == name and wire.post is not None:
                found = found | along(choices[wire.post].reset, wire.post_axis or 0, leaf.ndim)
            if name_of(wire) == name and wire.pre is not None:
                found = found | along(
                    choices[wire.pre].reset, wire.pre_axis or 0, leaf.ndim, wire.spread
                )
        return found

    return tree.map_items(mask, params)
