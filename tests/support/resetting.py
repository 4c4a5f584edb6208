"""Networks whose units are reset, and what a reset must leave."""

import pytest
import torch
from torch.nn.functional import conv2d, linear

from clfunc import dil, mlp, tree
from clfunc.models.layers import draw_layer, init_bound
from clfunc.random import fold_in, key, normal
from clfunc.types import Context, Model, Output, Wire

F64 = torch.float64
TASK = torch.tensor(0)
MODEL = mlp(5, (7, 6, 4), dil(1, 3), activation="sigmoid", dtype=F64)


def _drawn(k, shapes, head):
    """A layer of each shape, and a head on 6 units."""
    params = {}
    for i, (name, shape) in enumerate(shapes.items()):
        params[name] = draw_layer(fold_in(k, i), shape, F64)
    params["head"] = head.init(fold_in(k, 9), 6, F64)
    return params


def convnet():
    """Two convolutions of 3x3 maps and a linear layer, each followed by tanh; see `shapes`."""
    head = dil(1, 3)
    units = {"conv1": 4, "conv2": 5, "hidden": 6}
    shapes = {"conv1": (4, 2, 3, 3), "conv2": (5, 4, 3, 3), "hidden": (6, 45)}
    wires = []
    before = None
    for name, shape in shapes.items():
        bound = init_bound(shape)
        spread = 9 if name == "hidden" else 1  # a map of 3x3 is flattened into 9 inputs
        wires.append(Wire((name, "weight"), before, name, bound=bound, spread=spread))
        wires.append(Wire((name, "bias"), None, name, pre_axis=None, reset="zero"))
        before = name
    wires.append(Wire(("head", "weight"), before, None, post_axis=None))

    def init(k):
        return _drawn(k, shapes, head)

    def apply(params, x, task, *, gates=None, gate_position="post_act", key=None):
        w = {name: layer["weight"] for name, layer in params.items()}
        b = {name: layer["bias"] for name, layer in params.items()}
        h1 = torch.tanh(conv2d(x, w["conv1"], b["conv1"], padding=1))
        h2 = torch.tanh(conv2d(h1, w["conv2"], b["conv2"], padding=1))
        h3 = torch.tanh(linear(h2.flatten(1), w["hidden"], b["hidden"]))
        logits = head.apply(params["head"], h3, task)
        return Output(logits, {"conv1": h1, "conv2": h2, "hidden": h3})

    return Model(init, apply, tuple(wires), units, head)


def residual():
    """A residual stream `sigmoid(in)`, to which a layer of itself and a block are added.

    The head reads the stream. The block goes through the unit group `block`.
    """
    head = dil(1, 3)
    units = {"stream": 6, "block": 4}
    shapes = {"in": (6, 5), "own": (6, 6), "down": (4, 6), "up": (6, 4)}
    ends = {
        "in": (None, "stream"),
        "own": ("stream", "stream"),
        "down": ("stream", "block"),
        "up": ("block", "stream"),
    }
    wires = []
    for name, shape in shapes.items():
        wires.append(Wire((name, "weight"), *ends[name], bound=init_bound(shape)))
    for name in shapes:
        wires.append(Wire((name, "bias"), None, ends[name][1], pre_axis=None, reset="zero"))
    wires.append(Wire(("head", "weight"), "stream", None, post_axis=None))

    def init(k):
        return _drawn(k, shapes, head)

    def apply(params, x, task, *, gates=None, gate_position="post_act", key=None):
        def layer(name, h):
            return linear(h, params[name]["weight"], params[name]["bias"])

        stream = torch.sigmoid(layer("in", x))
        stream = stream + torch.sigmoid(layer("own", stream))
        block = torch.sigmoid(layer("down", stream))
        stream = stream + layer("up", block)
        logits = head.apply(params["head"], stream, task)
        return Output(logits, {"stream": stream, "block": block})

    return Model(init, apply, tuple(wires), units, head)


CONV, RESIDUAL = convnet(), residual()
NETWORKS = {"mlp": MODEL, "conv": CONV, "residual": RESIDUAL}
every_network = pytest.mark.parametrize("network", NETWORKS)


def inputs(model, k):
    """Four examples for a network."""
    shape = (4, 2, 3, 3) if model is CONV else (4, 5)
    return normal(k, shape, dtype=F64)


def context(model, params, k, used=None):
    """The context of a step: the features of four examples, and how far units are used."""
    features = model.apply(params, inputs(model, k), TASK).features
    zeros = {group: torch.zeros(n) for group, n in model.units.items()}
    return Context(features, TASK, zeros | (used or {}))


def gradient_like(params, k):
    """A random gradient."""
    leaves, structure = tree.flatten(params)
    drawn = []
    for i, leaf in enumerate(leaves):
        drawn.append(normal(fold_in(k, i), tuple(leaf.shape), dtype=F64))
    return tree.unflatten(drawn, structure)


def cleared(state, params, touched):
    """`state` with zeros where `touched`, in every subtree that is shaped like the parameters."""
    if tree.structure(state) == tree.structure(params):
        return tree.map(lambda m, near: torch.where(near, 0, m), state, touched)
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*(cleared(part, params, touched) for part in state))
    if isinstance(state, tuple):
        return tuple(cleared(part, params, touched) for part in state)
    return state


def reset_steps(tx, model, steps, seed=0, used=None, start=None):
    """Steps of a transform that resets units, along random gradients.

    Yields:
        (params, state) before the step, (params, state) after it, and for each unit group, which
        units the step resets.
    """
    params = model.init(key(seed)) if start is None else start
    state = tx.init(key(seed + 1), params)
    for t in range(steps):
        k = fold_in(key(seed), t)
        gradient = gradient_like(params, k)
        given = context(model, params, fold_in(k, 99), used)
        updates, new_state = tx.update(gradient, state, params, given)
        new_params = tree.add(params, updates)
        was_reset = {group: new_state.units[group].age == 0 for group in model.units}
        yield (params, state), (new_params, new_state), was_reset
        params, state = new_params, new_state


# Numbers at which a few steps reset many units.
BRISK = {"replacement_rate": 0.2, "maturity_threshold": 2, "utility_decay_rate": 0.5}
