"""Networks whose units are reset, and what a reset must leave."""

import pytest
import torch
from torch.nn.functional import conv2d, linear

from clfunc import (
    dil,
    mlp,
    tree,
)
from clfunc.models.layers import draw_layer, init_bound
from clfunc.random import fold_in, key, normal
from clfunc.types import Context, Model, Output, Wire

F64 = torch.float64
TASK = torch.tensor(0)
MODEL = mlp(5, (7, 6, 4), dil(1, 3), activation="sigmoid", dtype=F64)


def convnet():
    """conv (4 maps of 3x3) -> conv (5 maps of 3x3) -> flatten -> linear (6) -> head, each followed by tanh."""
    head, units = dil(1, 3), {"conv1": 4, "conv2": 5, "hidden": 6}
    shapes = {"conv1": (4, 2, 3, 3), "conv2": (5, 4, 3, 3), "hidden": (6, 45)}
    wires, pre = [], None
    for name, shape in shapes.items():
        wires.append(
            Wire(
                (name, "weight"),
                pre,
                name,
                bound=init_bound(shape),
                spread=9 if name == "hidden" else 1,
            )
        )
        wires.append(Wire((name, "bias"), None, name, pre_axis=None, reset="zero"))
        pre = name
    wires.append(Wire(("head", "weight"), pre, None, post_axis=None))

    def init(k):
        layers = {
            name: draw_layer(fold_in(k, i), shape, F64)
            for i, (name, shape) in enumerate(shapes.items())
        }
        return layers | {"head": head.init(fold_in(k, 9), 6, F64)}

    def apply(params, x, task, *, gates=None, gate_position="post_act", key=None):
        w, b = ({name: leaf[part] for name, leaf in params.items()} for part in ("weight", "bias"))
        h1 = torch.tanh(conv2d(x, w["conv1"], b["conv1"], padding=1))
        h2 = torch.tanh(conv2d(h1, w["conv2"], b["conv2"], padding=1))
        h3 = torch.tanh(linear(h2.flatten(1), w["hidden"], b["hidden"]))
        return Output(
            head.apply(params["head"], h3, task), {"conv1": h1, "conv2": h2, "hidden": h3}
        )

    return Model(init, apply, tuple(wires), units, head)


def residual():
    """A stream s = tanh(in) that adds a layer of itself and a block through group b, all read by the head."""
    head, units = dil(1, 3), {"stream": 6, "block": 4}
    shapes = {"in": (6, 5), "own": (6, 6), "down": (4, 6), "up": (6, 4)}
    ends = {
        "in": (None, "stream"),
        "own": ("stream", "stream"),
        "down": ("stream", "block"),
        "up": ("block", "stream"),
    }
    wires = [Wire((n, "weight"), *ends[n], bound=init_bound(shapes[n])) for n in shapes]
    wires += [Wire((n, "bias"), None, ends[n][1], pre_axis=None, reset="zero") for n in shapes]
    wires.append(Wire(("head", "weight"), "stream", None, post_axis=None))

    def init(k):
        layers = {
            name: draw_layer(fold_in(k, i), shape, F64)
            for i, (name, shape) in enumerate(shapes.items())
        }
        return layers | {"head": head.init(fold_in(k, 9), 6, F64)}

    def apply(params, x, task, *, gates=None, gate_position="post_act", key=None):
        layer = lambda name, h: linear(h, params[name]["weight"], params[name]["bias"])  # noqa: E731
        s = torch.sigmoid(layer("in", x))
        s = s + torch.sigmoid(layer("own", s))
        b = torch.sigmoid(layer("down", s))
        s = s + layer("up", b)
        return Output(head.apply(params["head"], s, task), {"stream": s, "block": b})

    return Model(init, apply, tuple(wires), units, head)


CONV, RESIDUAL = convnet(), residual()
NETWORKS = {"mlp": MODEL, "conv": CONV, "residual": RESIDUAL}
every_network = pytest.mark.parametrize("network", NETWORKS)


def inputs(model, k):
    return normal(k, (4, 2, 3, 3) if model is CONV else (4, 5), dtype=F64)


def context(model, params, k, used=None):
    features = model.apply(params, inputs(model, k), TASK).features
    zeros = {group: torch.zeros(n) for group, n in model.units.items()}
    return Context(features, TASK, zeros | (used or {}))


def gradient_like(params, k):
    leaves, structure = tree.flatten(params)
    return tree.unflatten(
        [normal(fold_in(k, i), tuple(leaf.shape), dtype=F64) for i, leaf in enumerate(leaves)],
        structure,
    )


def cleared(state, params, touched):
    """`state` with zeros where `touched`, in every subtree that is shaped like the parameters."""
    if tree.structure(state) == tree.structure(params):
        return tree.map(lambda m, near: torch.where(near, 0, m), state, touched)
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*(cleared(part, params, touched) for part in state))
    if isinstance(state, tuple):
        return tuple(cleared(part, params, touched) for part in state)
    return state


def live(tx, model, steps, seed=0, used=None, start=None):
    """(params, state) before and after each of some steps along random gradients, and what was reset by them."""
    params = model.init(key(seed)) if start is None else start
    state = tx.init(key(seed + 1), params)
    for t in range(steps):
        k = fold_in(key(seed), t)
        updates, new = tx.update(
            gradient_like(params, k), state, params, context(model, params, fold_in(k, 99), used)
        )
        moved = tree.add(params, updates)
        gone = {g: new.units[g].age == 0 for g in model.units}
        yield (params, state), (moved, new), gone
        params, state = moved, new


BRISK = {"replacement_rate": 0.2, "maturity_threshold": 2, "utility_decay_rate": 0.5}
