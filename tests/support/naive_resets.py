"""Resets of any number of units of two hidden relu layers at once, written with loops; who is reset is for others to say."""

import torch
from support.naive_cbp import AFTER, LAYERS, Adam, Momentum, Network
from support.resetting import context, gradient_like

from clfunc import adam, carry, dil, mlp, sgd, tree
from clfunc.random import fold_in, key, normal, randint, uniform
from clfunc.types import Batch, Task
from clfunc.units import resets

INPUTS, WIDTHS, CLASSES, BATCH = 5, (8, 6), 3, 4
MODEL = mlp(INPUTS, WIDTHS, dil(1, CLASSES), dtype=torch.float64)


class KeptAdam(Adam):
    """Adam whose moments are forgotten where a unit is reset, and whose count of steps is not."""

    def forget(self, name, entry):
        self.m[name][entry] = self.v[name][entry] = 0.0


OPTIMISERS = {
    "sgd": (carry(sgd(0.05)), lambda network: Momentum(network, 0.05)),
    "momentum": (carry(sgd(0.02, 0.9)), lambda network: Momentum(network, 0.02, 0.9)),
    "adam": (carry(adam(0.003)), lambda network: KeptAdam(network, 0.003)),
}


def batch_at(t):
    x = normal(key(7), (BATCH, INPUTS), at=t, dtype=torch.float64)
    return Batch(
        x,
        randint(key(8), (BATCH,), 0, CLASSES, at=t),
        torch.tensor(0),
        torch.ones(BATCH, dtype=torch.float64),
    )


class Resets:
    """What a rule, `chosen(layer, features) -> units`, makes of a network; `own` is the key of its random numbers."""

    def __init__(self, params, optimiser, own):
        self.network = Network(params, torch.relu)
        self.optimiser, self.own, self.t = optimiser(self.network), own, 0
        self.replaced = {layer: [] for layer in LAYERS}

    def rows(self, layer):
        """A row in [-1, 1) for every unit of a layer: all layers' are one draw a step."""
        shapes = {"hidden1": (WIDTHS[0], INPUTS), "hidden2": (WIDTHS[1], WIDTHS[0])}
        first = WIDTHS[0] * INPUTS
        drawn = uniform(self.own, (first + WIDTHS[1] * WIDTHS[0],), at=self.t, dtype=torch.float64)
        return (
            2 * (drawn[:first] if layer == "hidden1" else drawn[first:]).reshape(shapes[layer]) - 1
        )

    def reset(self, layer, units):
        w, b, after = self.network.w, self.network.b, AFTER[layer]
        bound, rows = w[layer].shape[1] ** -0.5, self.rows(layer)
        for i in units:
            for j in range(w[layer].shape[1]):
                w[layer][i, j] = bound * rows[i, j]
                self.optimiser.forget((layer, "weight"), (i, j))
            b[layer][i] = 0.0
            self.optimiser.forget((layer, "bias"), i)
            for k in range(w[after].shape[0]):
                w[after][k, i] = 0.0
                self.optimiser.forget((after, "weight"), (k, i))

    def step(self, x, y):
        gradient, features = self.network.gradients(x, y)
        self.optimiser.step(self.network, gradient)
        chosen = {layer: self.chosen(layer, features[layer]) for layer in LAYERS}
        for layer in LAYERS:
            self.reset(layer, chosen[layer])
            self.replaced[layer] += [(self.t, i) for i in chosen[layer]]
        self.t += 1


def live(algorithm, make, tasks, steps):
    """A naive life and the library's, side by side: yields (naive, params, state) after each step of some tasks."""
    params, state = algorithm.init(key(3))
    naive = make(params, state.opt.key)
    for task in range(tasks):
        told = Task(torch.tensor(0), torch.tensor(steps), torch.tensor(1))
        params, state = algorithm.begin_task(params, state, told)
        if task:
            naive.refresh()
        for _ in range(steps):
            batch = batch_at(naive.t)
            params, state, _ = algorithm.step(params, state, batch)
            naive.step(batch.x, batch.y)
            yield naive, params, state


def distance(naive, params):
    """The largest difference in any weight, relative to weights above 1."""
    pairs = [(naive.network.w[n], params[n]["weight"]) for n in params]
    pairs += [(naive.network.b[n], params[n]["bias"]) for n in params]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in pairs)


def assert_as_drawn_and_unheard(model, leaves, group, gone):
    """Of the units of a group that are gone: rows within their bound, biases 0, nothing heard but by what is drawn later."""
    mask, order = gone[group], list(model.units)
    for name, wire in resets.into(model, group):
        row = leaves[name][mask]
        assert (
            (row == 0).all()
            if wire.reset == "zero"
            else (row.abs() <= wire.bound * (1 + 2**-52)).all()
        ), name
    for name, wire in resets.out_of(model, group):
        heard = leaves[name].movedim(wire.pre_axis, 0).unflatten(0, (-1, wire.spread))[mask]
        later = wire.post is not None and order.index(wire.post) > order.index(group)
        assert ((heard[:, :, ~gone[wire.post]] if later else heard) == 0).all(), name


def steps(tx, model, count, seed, used=None):
    """(t, params, gradient, updates, state before, state after, context) of some steps along random gradients."""
    params = model.init(key(seed))
    state = tx.init(key(seed).flip(0), params)
    for t in range(count):
        k = fold_in(key(seed), t)
        given, gradient = context(model, params, fold_in(k, 99), used), gradient_like(params, k)
        updates, new = tx.update(gradient, state, params, given)
        yield t, params, gradient, updates, state, new, given
        params, state = tree.add(params, updates), new
