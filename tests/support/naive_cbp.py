"""Continual backpropagation of a network of two hidden tanh layers, written with loops.

It follows the published description alone, and shares no code with the library.
"""

import math

import torch
from torch.nn.functional import cross_entropy

LAYERS = ("hidden1", "hidden2")
AFTER = {"hidden1": "hidden2", "hidden2": "head"}


class Network:
    """Weights as lists of lists would be: float64 tensors, written one entry at a time."""

    def __init__(self, params, activation=torch.tanh):
        self.activation = activation
        self.w = {name: leaf["weight"].clone() for name, leaf in params.items()}
        self.b = {name: leaf["bias"].clone() for name, leaf in params.items()}

    def forward(self, x, w, b):
        h1 = self.activation(x @ w["hidden1"].T + b["hidden1"])
        h2 = self.activation(h1 @ w["hidden2"].T + b["hidden2"])
        return h2 @ w["head"].T + b["head"], {"hidden1": h1, "hidden2": h2}

    def gradients(self, x, y):
        w = {name: leaf.clone().requires_grad_() for name, leaf in self.w.items()}
        b = {name: leaf.clone().requires_grad_() for name, leaf in self.b.items()}
        logits, features = self.forward(x, w, b)
        cross_entropy(logits, y).backward()
        gradient = {(name, "weight"): leaf.grad for name, leaf in w.items()}
        gradient |= {(name, "bias"): leaf.grad for name, leaf in b.items()}
        return gradient, {name: h.detach() for name, h in features.items()}

    def leaf(self, name):
        """The tensor of (layer, `weight` or `bias`)."""
        layer, part = name
        return self.w[layer] if part == "weight" else self.b[layer]

    def zeros(self):
        """Zeros of the shape of every tensor, by (layer, `weight` or `bias`)."""
        names = [(layer, part) for layer in self.w for part in ("weight", "bias")]
        return {name: torch.zeros_like(self.leaf(name)) for name in names}


class Momentum:
    """SGD with momentum (0: none) that forgets the trace of a unit that is reset."""

    def __init__(self, network, lr, momentum=0.0):
        self.lr = lr
        self.momentum = momentum
        self.trace = network.zeros()

    def step(self, network, gradient):
        for name, g in gradient.items():
            self.trace[name] = self.momentum * self.trace[name] + g
            network.leaf(name).sub_(self.lr * self.trace[name])

    def forget(self, name, entry):
        self.trace[name][entry] = 0.0


class Adam:
    """Adam that counts the steps of every entry since a unit at either end of it was reset."""

    def __init__(self, network, lr, betas=(0.9, 0.999), eps=1e-8):
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.m = network.zeros()
        self.v = network.zeros()
        self.t = network.zeros()

    def step(self, network, gradient):
        b1, b2 = self.betas
        m, v, t = self.m, self.v, self.t
        for name, g in gradient.items():
            t[name] += 1
            m[name] = b1 * m[name] + (1 - b1) * g
            v[name] = b2 * v[name] + (1 - b2) * g * g
            first = m[name] / (1 - b1 ** t[name])
            second = v[name] / (1 - b2 ** t[name])
            network.leaf(name).sub_(self.lr * first / (second.sqrt() + self.eps))

    def forget(self, name, entry):
        for moments in (self.m, self.v, self.t):
            moments[name][entry] = 0.0


class Naive:
    """Continual backprop of a network.

    Args:
        params: The parameters of the network.
        optimiser: `network -> optimiser`.
        rate: The replacement rate.
        threshold: The age above which a unit can be reset.
        decay: The decay rate of utilities and mean features.
        utility: Name of the utility; see `now`.
        accumulate: Whether fractions of a unit add up over the steps; otherwise chance decides.
        budget: Whether `rate` counts `eligible` units or the `total`, or `one` unit a step at most.
        estimate: Whether running means are `debiased`, `plain` or `lagged` by one step.
        transfer: Whether the mean feature of a unit goes to the biases of the units that read it.
        rows: `(layer, t)`: the new rows of step t, in [-1, 1).
        chance: `(layer, t)`: a number in [0, 1), which decides without accumulation.
        scores: `(layer, t)`: the scores of the utility `random`.
    """

    def __init__(
        self,
        params,
        optimiser,
        *,
        rate,
        threshold,
        decay,
        utility,
        accumulate=True,
        budget="eligible",
        estimate="debiased",
        transfer=False,
        rows=None,
        chance=None,
        scores=None,
    ):
        self.network = Network(params)
        self.optimiser = optimiser(self.network)
        self.rate = rate
        self.threshold = threshold
        self.decay = decay
        self.utility = utility
        self.accumulate = accumulate
        self.budget_rule = budget
        self.estimate = estimate
        self.transfer = transfer
        self.rows = rows
        self.chance = chance
        self.scores = scores
        self.t = 0
        sizes = {layer: len(self.network.b[layer]) for layer in LAYERS}
        self.age = {layer: [0] * n for layer, n in sizes.items()}
        self.u = {layer: [0.0] * n for layer, n in sizes.items()}
        self.f = {layer: [0.0] * n for layer, n in sizes.items()}
        self.budget = dict.fromkeys(LAYERS, 0.0)
        self.replaced = {layer: [] for layer in LAYERS}

    def now(self, layer, i, h, centre):
        """The utility of unit i on this batch."""
        out = self.network.w[AFTER[layer]][:, i].abs().mean().item()
        into = self.network.w[layer][i].abs().mean().item()
        plain = sum(abs(v) for v in h[:, i].tolist()) / len(h)
        centred = sum(abs(v - centre) for v in h[:, i].tolist()) / len(h)
        utilities = {
            "weight": out,
            "contribution": out * plain,
            "zero_contribution": out * centred,
            "adaptation": 1 / into,
            "adaptable_contribution": out * centred / into,
            "feature_by_input": centred / into,
            "random": 0.0,
        }
        return utilities[self.utility]

    def test(self, layer, h):
        """The units of a layer that are reset, lowest score first; and the mean features."""
        eta = self.decay
        n = len(self.age[layer])
        is_lagged = self.estimate == "lagged"
        score = []
        centre = []
        for i in range(n):
            self.age[layer][i] += 1
            share = 1.0 if self.estimate == "plain" else 1 - eta ** self.age[layer][i]
            f = self.f[layer][i]
            u = self.u[layer][i]
            self.f[layer][i] = eta * f + (1 - eta) * h[:, i].mean().item()
            centre.append((f if is_lagged else self.f[layer][i]) / share)
            self.u[layer][i] = eta * u + (1 - eta) * self.now(layer, i, h, centre[i])
            score.append((u if is_lagged else self.u[layer][i]) / share)
        if self.utility == "random":
            score = self.scores(layer, self.t)
        eligible = [i for i in range(n) if self.age[layer][i] > self.threshold]
        if not eligible:
            return [], centre
        count = self.count(layer, len(eligible), n)
        return sorted(eligible, key=lambda i: (score[i], i))[:count], centre

    def count(self, layer, eligible, n):
        """How many units of a layer are reset, of `eligible` ones among `n`."""
        share = self.rate * (n if self.budget_rule == "total" else eligible)
        if not self.accumulate:
            if share >= 1:
                return math.floor(share)
            return int(self.chance(layer, self.t) < share)
        self.budget[layer] += share
        whole = min(math.floor(self.budget[layer]), eligible)
        if self.budget_rule == "one":
            whole = min(int(self.budget[layer] > 1), eligible)
        self.budget[layer] -= whole
        return whole

    def reset(self, layer, units, centre):
        w, b, after = self.network.w, self.network.b, AFTER[layer]
        bound = w[layer].shape[1] ** -0.5
        for place, i in enumerate(units):
            for j in range(w[layer].shape[1]):
                w[layer][i, j] = bound * self.rows(layer, self.t)[place, j]
                self.optimiser.forget((layer, "weight"), (i, j))
            b[layer][i] = 0.0
            self.optimiser.forget((layer, "bias"), i)
            self.age[layer][i] = 0
            self.u[layer][i] = 0.0
            self.f[layer][i] = 0.0
        for k in range(w[after].shape[0]):
            for i in units:
                if self.transfer:
                    b[after][k] += w[after][k, i] * centre[i]
                w[after][k, i] = 0.0
                self.optimiser.forget((after, "weight"), (k, i))

    def step(self, x, y):
        gradient, features = self.network.gradients(x, y)
        self.optimiser.step(self.network, gradient)
        chosen = {layer: self.test(layer, features[layer]) for layer in LAYERS}
        for layer in LAYERS:
            self.reset(layer, *chosen[layer])
            self.replaced[layer] += [(self.t, i) for i in chosen[layer][0]]
        self.t += 1
