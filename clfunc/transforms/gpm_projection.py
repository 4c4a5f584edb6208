"""Gradient projection memory (GPM) [1]: the weights of a layer do not move along the inputs that earlier
tasks gave it, so that those tasks' outputs stay.

    at a task's end, of each layer:  R = its inputs for some of the examples,  R' = R - R M'M
        M <- [M; the first right singular vectors of R'], as few as hold `threshold` of |R|^2 with M
    g_W <- g_W - g_W M'M

A layer's bias counts as the weight of one more input, which is 1. Before an optimiser it is [1]; after
it the updates themselves obey `dW x + db = 0` for each x that M holds, to rounding. Departs from the
authors' code [2], which has no biases and takes one vector less for the first task.

[1] Saha et al. 2021, arXiv:2103.09762   [2] sahagobinda/GPM
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.settings import check_whole
from clfunc.types import (
    Context,
    Key,
    Model,
    Number,
    Params,
    Scalar,
    State,
    Transform,
    Updates,
    Wire,
    scalar,
)

Layers = dict[str, Tensor]


class GPMState(NamedTuple):
    threshold: Scalar
    basis: Layers  # [inputs + 1, inputs] of each layer: orthonormal rows, zeros; the last is spare
    used: Layers  # rows in use
    inputs: Layers  # [examples + 1, inputs]: of the task under review; the last row is spare
    met: Tensor  # examples of the task under review


def gpm_projection(model: Model, threshold: Number = 0.97, *, examples: int = 300) -> Transform:
    """Project each layer's updates off the inputs of earlier tasks.

    Args:
        model: A network of linear layers.
        threshold: Share of the inputs' squared size that is kept, in [0, 1]; the authors' are 0.95 to
            0.99.
        examples: Of each task whose inputs are looked at, >= 1; the authors' are 125 to 300.

    Raises:
        ValueError: A number out of its range, or a network with other layers.

    >>> from clfunc import chain, dil, finetuning, mlp, sgd, transforms
    >>> model = mlp(64, (16,), dil(5, classes=10))
    >>> tx = chain(transforms.gpm_projection(model), sgd(0.1))
    >>> algorithm = finetuning(model, tx)
    """
    share = scalar(threshold, "threshold", 0, 1)
    check_whole(examples, "examples")
    wires = _layers(model)

    def init(key: Key, params: Params) -> State:
        none = torch.zeros((), dtype=torch.int64, device=key.device)
        basis, used, inputs = {}, {}, {}
        for group in wires:
            weight = params[group]["weight"]
            width = weight.shape[1] + ("bias" in params[group])
            basis[group] = weight.new_zeros(width + 1, width)
            inputs[group] = weight.new_zeros(examples + 1, width)
            used[group] = none
        return GPMState(threshold=share, basis=basis, used=used, inputs=inputs, met=none)

    def review(state: GPMState, params: Params, context: Context) -> GPMState:
        batch = context.batch
        features = context.forward(params, batch).features
        counts = batch.weight > 0
        place = state.met + counts.cumsum(0) - 1
        slot = torch.where(counts & (place < examples), place, examples)
        inputs = {}
        for group, wire in wires.items():
            given = (batch.x if wire.pre is None else features[wire.pre]).flatten(1)
            held = state.inputs[group]
            given = given.to(held.dtype)
            if held.shape[1] > given.shape[1]:
                given = torch.cat([given, torch.ones_like(given[:, :1])], 1)
            given = torch.where((slot < examples)[:, None], given, 0.0)
            inputs[group] = held.index_put((slot,), given)
        return state._replace(inputs=inputs, met=state.met + counts.sum())

    settings = {
        "name": "gpm_projection",
        "threshold": share,
        "examples": examples,
        "remembers": True,
    }
    return Transform(
        init=init, update=_update, review=review, end_task=_end_task, settings=settings
    )


def _update(
    updates: Updates, state: GPMState, params: Params, context: Context
) -> tuple[Updates, State]:
    """The updates without what lies along the inputs of earlier tasks."""
    projected = {}
    for group, basis in state.basis.items():
        part = updates[group]
        whole = part["weight"]
        if "bias" in part:
            whole = torch.cat([whole, part["bias"][:, None]], 1)
        whole = whole - (whole @ basis.T) @ basis
        columns = part["weight"].shape[1]
        projected[group] = part | {"weight": whole[:, :columns]}
        if "bias" in part:
            projected[group]["bias"] = whole[:, columns]
    return updates | projected, state


def _end_task(state: GPMState, params: Params) -> GPMState:
    """The state with the inputs of the task that ends in its bases."""
    basis, used = {}, {}
    for group, held in state.inputs.items():
        basis[group], used[group] = _extended(
            state.basis[group], state.used[group], held[:-1], state.threshold
        )
    inputs = tree.zeros_like(state.inputs)
    return state._replace(basis=basis, used=used, inputs=inputs, met=torch.zeros_like(state.met))


def _layers(model: Model) -> dict[str, Wire]:
    """The wire of each layer's weight, but for what each task has for itself."""
    found = {}
    for wire in model.wires:
        group, leaf = wire.path
        if group in model.head.per_task or leaf == "bias":
            continue
        if not wire.linear:
            raise ValueError(
                f"gpm_projection needs linear layers, and {'.'.join(wire.path)} is none: give an mlp"
                " without norms"
            )
        found[group] = wire
    return found


def _extended(
    basis: Tensor, count: Tensor, inputs: Tensor, threshold: Scalar
) -> tuple[Tensor, Tensor]:
    """The basis with what the inputs add to it, and its number of rows."""
    wide = inputs.to(torch.float64)
    known = basis.to(torch.float64)
    rest = wide - (wide @ known.T) @ known
    total = (wide * wide).sum()
    _, sizes, vectors = torch.linalg.svd(rest, full_matrices=False)
    squares = sizes * sizes
    before = total - squares.sum() + squares.cumsum(0) - squares
    is_new = (before < threshold * total) & (squares > 1e-12 * total)

    spare = len(basis) - 1
    slot = count + is_new.cumsum(0) - 1
    slot = torch.where(is_new & (slot < spare), slot, spare)
    vectors = torch.where((slot < spare)[:, None], vectors, 0.0)
    basis = basis.index_put((slot,), vectors.to(basis.dtype))
    return basis, (count + is_new.sum()).clamp(max=spare)
