"""Resets of units of two hidden relu layers, written with loops; a subclass has the rule."""

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
    """Adam that forgets the moments of a unit that is reset, and keeps its count of steps."""

    def forget(self, name, entry):
        self.m[name][entry] = 0.0
        self.v[name][entry] = 0.0


# For each optimiser: the library's, and the naive one of a network.
OPTIMISERS = {
    "sgd": (carry(sgd(0.05)), lambda network: Momentum(network, 0.05)),
    "momentum": (carry(sgd(0.02, 0.9)), lambda network: Momentum(network, 0.02, 0.9)),
    "adam": (carry(adam(0.003)), lambda network: KeptAdam(network, 0.003)),
}


def batch_at(t):
    """The batch of step `t`."""
    return Batch(
        x=normal(key(7), (BATCH, INPUTS), at=t, dtype=torch.float64),
        y=randint(key(8), (BATCH,), 0, CLASSES, at=t),
        task=torch.tensor(0),
        weight=torch.ones(BATCH, dtype=torch.float64),
    )


class Resets:
    """A network whose units are reset by the rule `chosen(layer, features) -> units`.

    Args:
        params: The parameters of the network.
        optimiser: `network -> optimiser`.
        own: The key of the random numbers of the resets.
    """

    def __init__(self, params, optimiser, own):
        self.network = Network(params, torch.relu)
        self.optimiser = optimiser(self.network)
        self.own = own
        self.t = 0
        self.replaced = {layer: [] for layer in LAYERS}

    def rows(self, layer):
        """A row in [-1, 1) for every unit of a layer; one draw a step serves all layers."""
        first, second = WIDTHS
        shapes = {"hidden1": (first, INPUTS), "hidden2": (second, first)}
        sizes = [first * INPUTS, second * first]
        drawn = uniform(self.own, (sum(sizes),), at=self.t, dtype=torch.float64)
        parts = dict(zip(LAYERS, drawn.split(sizes), strict=True))
        return 2 * parts[layer].reshape(shapes[layer]) - 1

    def reset(self, layer, units):
        w, b, after = self.network.w, self.network.b, AFTER[layer]
        bound = w[layer].shape[1] ** -0.5
        rows = self.rows(layer)
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


def side_by_side(algorithm, make, tasks, steps):
    """Train the naive network and the library's on the same batches.

    Args:
        algorithm: The library's.
        make: `(params, key) -> Resets`.
        tasks: Number of tasks.
        steps: Number of steps of a task.

    Yields:
        The naive network, and the library's parameters and state, after each step.
    """
    params, state = algorithm.init(key(3))
    naive = make(params, state.opt.key)
    for number in range(tasks):
        task = Task(torch.tensor(0), torch.tensor(steps), torch.tensor(1))
        params, state = algorithm.begin_task(params, state, task)
        if number > 0:
            naive.refresh()
        for _ in range(steps):
            batch = batch_at(naive.t)
            params, state, _ = algorithm.step(params, state, batch)
            naive.step(batch.x, batch.y)
            yield naive, params, state


def distance(naive, params):
    """The largest difference in any weight, relative to weights above 1."""
    pairs = [(naive.network.w[name], params[name]["weight"]) for name in params]
    pairs += [(naive.network.b[name], params[name]["bias"]) for name in params]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in pairs)


def assert_drawn_and_unread(model, leaves, group, was_reset):
    """Assert what a reset leaves of the units of a group.

    Their rows are within the bound of the draw, their biases are 0, and no unit reads them, apart
    from units that a later group draws anew.

    Args:
        model: The model.
        leaves: The parameters by dotted name.
        group: The unit group.
        was_reset: For each group, Bool `[units]`.
    """
    mask = was_reset[group]
    order = list(model.units)
    for name, wire in resets.into(model, group):
        row = leaves[name][mask]
        if wire.reset == "zero":
            assert (row == 0).all(), name
        else:
            assert (row.abs() <= wire.bound * (1 + 2**-52)).all(), name
    for name, wire in resets.out_of(model, group):
        read = leaves[name].movedim(wire.pre_axis, 0).unflatten(0, (-1, wire.spread))[mask]
        if wire.post is not None and order.index(wire.post) > order.index(group):
            read = read[:, :, ~was_reset[wire.post]]
        assert (read == 0).all(), name


def steps(tx, model, count, seed, used=None):
    """Steps of a transform along random gradients.

    Yields:
        t, params, gradient, updates, state before, state after, context.
    """
    params = model.init(key(seed))
    state = tx.init(key(seed).flip(0), params)
    for t in range(count):
        k = fold_in(key(seed), t)
        given = context(model, params, fold_in(k, 99), used)
        gradient = gradient_like(params, k)
        updates, new = tx.update(gradient, state, params, given)
        yield t, params, gradient, updates, state, new, given
        params = tree.add(params, updates)
        state = new
