"""Continual backpropagation of a network of two hidden tanh layers, written with loops from the published description."""

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
        return (self.w if name[1] == "weight" else self.b)[name[0]]


class Momentum:
    """SGD with momentum (0: none) whose trace is forgotten where a unit is reset."""

    def __init__(self, network, lr, momentum=0.0):
        self.lr, self.momentum = lr, momentum
        self.memory = {
            (n, k): torch.zeros_like(network.leaf((n, k)))
            for n in network.w
            for k in ("weight", "bias")
        }

    def step(self, network, gradient):
        for name, g in gradient.items():
            self.memory[name] = self.momentum * self.memory[name] + g
            network.leaf(name).sub_(self.lr * self.memory[name])

    def forget(self, name, entry):
        self.memory[name][entry] = 0.0


class Adam:
    """Adam that counts the steps of every entry, from the last reset of a unit at either end of it."""

    def __init__(self, network, lr, betas=(0.9, 0.999), eps=1e-8):
        self.lr, self.betas, self.eps = lr, betas, eps
        names = [(n, k) for n in network.w for k in ("weight", "bias")]
        self.m, self.v, self.t = (
            {n: torch.zeros_like(network.leaf(n)) for n in names} for _ in range(3)
        )

    def step(self, network, gradient):
        (b1, b2), m, v, t = self.betas, self.m, self.v, self.t
        for name, g in gradient.items():
            t[name] += 1
            m[name] = b1 * m[name] + (1 - b1) * g
            v[name] = b2 * v[name] + (1 - b2) * g * g
            corrected = m[name] / (1 - b1 ** t[name]), v[name] / (1 - b2 ** t[name])
            network.leaf(name).sub_(self.lr * corrected[0] / (corrected[1].sqrt() + self.eps))

    def forget(self, name, entry):
        for memory in (self.m, self.v, self.t):
            memory[name][entry] = 0.0


class Naive:
    """`rows(layer, t)` gives the new rows in [-1, 1) of step t, `chance` and `scores` the other numbers drawn."""

    def __init__(self, params, optimiser, *, rate, threshold, decay, utility, accumulate=True, budget="eligible",
                 estimate="debiased", transfer=False, rows=None, chance=None, scores=None):  # fmt: skip
        self.network = Network(params)
        self.optimiser = optimiser(self.network)
        self.rate, self.threshold, self.decay, self.utility = rate, threshold, decay, utility
        self.accumulate, self.budget_rule, self.estimate, self.transfer = (
            accumulate,
            budget,
            estimate,
            transfer,
        )
        self.rows, self.chance, self.scores, self.t = rows, chance, scores, 0
        sizes = {layer: len(self.network.b[layer]) for layer in LAYERS}
        self.age = {layer: [0] * n for layer, n in sizes.items()}
        self.u = {layer: [0.0] * n for layer, n in sizes.items()}
        self.f = {layer: [0.0] * n for layer, n in sizes.items()}
        self.budget = dict.fromkeys(LAYERS, 0.0)
        self.replaced = {layer: [] for layer in LAYERS}

    def now(self, layer, i, h, centre):
        """This batch's utility of unit i."""
        out = self.network.w[AFTER[layer]][:, i].abs().mean().item()
        into = self.network.w[layer][i].abs().mean().item()
        plain = sum(abs(v) for v in h[:, i].tolist()) / len(h)
        centred = sum(abs(v - centre) for v in h[:, i].tolist()) / len(h)
        return {
            "weight": out, "contribution": out * plain, "zero_contribution": out * centred, "adaptation": 1 / into,
            "adaptable_contribution": out * centred / into, "feature_by_input": centred / into, "random": 0.0,
        }[self.utility]  # fmt: skip

    def test(self, layer, h):
        """Which units of a layer are to be reset, lowest first; and the mean features as they are read."""
        eta, n, score, centre = self.decay, len(self.age[layer]), [], []
        for i in range(n):
            self.age[layer][i] += 1
            share = 1.0 if self.estimate == "plain" else 1 - eta ** self.age[layer][i]
            before = self.f[layer][i], self.u[layer][i]
            self.f[layer][i] = eta * before[0] + (1 - eta) * h[:, i].mean().item()
            centre.append((before[0] if self.estimate == "lagged" else self.f[layer][i]) / share)
            self.u[layer][i] = eta * before[1] + (1 - eta) * self.now(layer, i, h, centre[i])
            score.append((before[1] if self.estimate == "lagged" else self.u[layer][i]) / share)
        if self.utility == "random":
            score = self.scores(layer, self.t)
        eligible = [i for i in range(n) if self.age[layer][i] > self.threshold]
        if not eligible:
            return [], centre
        count = self.count(layer, len(eligible), n)
        return sorted(eligible, key=lambda i: (score[i], i))[:count], centre

    def count(self, layer, eligible, n):
        share = self.rate * (n if self.budget_rule == "total" else eligible)
        if not self.accumulate:
            return math.floor(share) if share >= 1 else int(self.chance(layer, self.t) < share)
        self.budget[layer] += share
        whole = (
            int(self.budget[layer] > 1)
            if self.budget_rule == "one"
            else math.floor(self.budget[layer])
        )
        whole = min(whole, eligible)
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
            self.age[layer][i], self.u[layer][i], self.f[layer][i] = 0, 0.0, 0.0
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
