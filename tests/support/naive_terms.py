"""The terms that pull at parameters, as their papers write them: loops over examples, classes and
parameters, for the runs of `support.naive_protocol`.
"""

import math

import torch
from support.naive_protocol import Part, gradient_of, leaves

from clfunc.random import fold_in, normal, uniform

COUNT = ("",)  # the name of a state that is one number


class EWC(Part):
    """Kirkpatrick et al. 2017, eq. 3, with one penalty for each task that has ended:
    strength / 2 * sum_t sum_i F_t,i (w_i - w_t,i)^2.

    Online, with a decay, the Fisher matrices of earlier tasks fade and all pull to the last task's
    parameters (Huszar 2018; Schwarz et al. 2018).

    Args:
        strength: Of the pull.
        kind: Of the Fisher.
        w: The initial parameters.
        key: Of the classes that are drawn.
        decay: None for the penalty of each task.
        examples: How many examples of a task count.
    """

    name = "ewc"
    half = 0.5

    def __init__(self, strength, kind, w, key=None, decay=None, examples=10**6):
        self.strength, self.kind, self.key = strength, kind, key
        self.decay, self.examples = decay, examples
        self.tasks = []  # the mean importance and the parameters of each task
        self.start(w)

    def start(self, w):
        self.sum, self.count, self.met = dict.fromkeys(w, 0.0), 0.0, 0

    def pull(self, name, value):
        return 2 * self.half * self.strength * self.slope(name, value)

    def slope(self, name, value):
        """Half the derivative of the sum of squares."""
        total, factor = 0.0, 1.0
        for importance, at in reversed(self.tasks):
            anchor = at[name] if self.decay is None else self.tasks[-1][1][name]
            total += factor * importance[name] * (value - anchor)
            factor *= 1.0 if self.decay is None else self.decay
        return total

    def shares(self, log_p, example, number):
        """How much each class counts in the Fisher of an example."""
        p = {label: math.exp(log_p[label].item()) for label in log_p}
        if self.kind == "exact":
            return p
        if self.kind == "empirical":
            return {example.y: 1.0}
        if self.kind == "predicted":
            return {max(p, key=p.get): 1.0}
        at = example.task * 2**40 + number
        left = uniform(self.key, (), at=at, dtype=torch.float64).item()
        for label, share in p.items():
            left -= share
            if left < 0:
                return {label: 1.0}
        raise AssertionError("the shares of the classes are less than one")

    def review(self, run, batch):
        counted = [e for e in batch if e.weight > 0][: max(self.examples - self.met, 0)]
        if self.kind == "batched":
            w = leaves(run.w)
            for name, g in gradient_of(run.mean_loss(w, counted), w).items():
                self.sum[name] += g * g
            self.count += 1
            return
        for example in counted:
            self.look(run, example)
            self.count += example.weight
            self.met += 1

    def look(self, run, example):
        w = leaves(run.w)
        log_p = run.network.log_p(w, example, run.gates(w, example.task))
        for label, share in self.shares(log_p, example, self.met).items():
            for name, g in gradient_of(log_p[label], w, keep=True).items():
                self.sum[name] += example.weight * share * g * g

    def end_task(self, run):
        mean = {name: total / self.count for name, total in self.sum.items()}
        self.tasks.append((mean, dict(run.w)))
        self.start(run.w)

    def state(self):
        importance, anchor = {}, {}
        for name in self.sum:
            # the derivative is linear: its slope, and where it is 0
            importance[name] = self.slope(name, 1.0) - self.slope(name, 0.0)
            if importance[name] > 0:
                anchor[name] = -self.slope(name, 0.0) / importance[name]
        now = {"found": self.sum, "weight": {COUNT: self.count}}
        return now | {"importance": importance, "mean": anchor}


class MAS(EWC):
    """Aljundi et al. 2018, eq. 3 and 4: |d |z|^2 / d w_i|, example by example."""

    name = "mas"
    half = 1.0

    def __init__(self, strength, w, decay=1.0):
        super().__init__(strength, "mas", w, decay=decay)

    def look(self, run, example):
        w = leaves(run.w)
        logits = run.network.logits(w, example, run.gates(w, example.task))
        energy = sum(logits[label] ** 2 for label in run.network.labels(example.task))
        for name, g in gradient_of(energy, w).items():
            self.sum[name] += example.weight * abs(g)


class L2SP(Part):
    """strength * sum_i (w_i - anchor_i)^2 from the first task's end on."""

    name = "l2_sp"

    def __init__(self, strength):
        self.strength, self.anchor = strength, None

    def pull(self, name, value):
        return 0.0 if self.anchor is None else 2 * self.strength * (value - self.anchor[name])

    def end_task(self, run):
        self.anchor = dict(run.w)

    def state(self):
        return {} if self.anchor is None else {"anchor": self.anchor}


class Wasserstein(Part):
    """strength * sum over tensors of sum_j (j-th smallest now - j-th smallest at first)^2."""

    name = "wasserstein"

    def __init__(self, strength, w):
        self.strength = strength
        self.initial = {leaf: sorted(w[n] for n in w if n[0] == leaf) for leaf in {n[0] for n in w}}

    def objective(self, run, w, batch, value):
        self.now = run.w
        return value

    def pull(self, name, value):
        others = [self.now[n] for n in self.now if n[0] == name[0]]
        return 2 * self.strength * (value - self.initial[name[0]][sorted(others).index(value)])


class Spectral(Part):
    """Lewandowski et al. 2024: (sigma^2 - 1)^2 + |b|^4 of every layer that tasks share.

    Args:
        strength: Of the pull.
        key: Of the first right vectors.
        w: The initial parameters.
        layers: The layers in the order of the parameters, with their outputs and inputs.
    """

    name = "spectral"

    def __init__(self, strength, key, w, layers):
        self.strength, self.layers, self.w = strength, layers, w
        self.left, self.right = {}, {}
        for place, (layer, (rows, columns)) in enumerate(layers.items()):
            drawn = normal(fold_in(key, place), (columns,), dtype=torch.float64).tolist()
            u = unit(
                [
                    sum(w[layer + ".weight", i, j] * drawn[j] for j in range(columns))
                    for i in range(rows)
                ]
            )
            for _ in range(30):
                u = self.iterate(layer, u)
            self.left[layer] = u

    def iterate(self, layer, u):
        rows, columns = self.layers[layer]
        at = self.w
        v = [sum(at[layer + ".weight", i, j] * u[i] for i in range(rows)) for j in range(columns)]
        self.right[layer] = v = unit(v)
        u = [sum(at[layer + ".weight", i, j] * v[j] for j in range(columns)) for i in range(rows)]
        return unit(u)

    def objective(self, run, w, batch, value):
        self.w = run.w
        return value

    def pull(self, name, value):
        layer, kind = name[0].rsplit(".", 1)
        if layer not in self.layers:
            return 0.0
        rows, columns = self.layers[layer]
        if kind == "bias":
            return 4 * self.strength * value * sum(self.w[name[0], i] ** 2 for i in range(rows))
        u, v = self.left[layer], self.right[layer]
        sigma = 0.0
        for i in range(rows):
            for j in range(columns):
                sigma += u[i] * self.w[name[0], i, j] * v[j]
        return 4 * self.strength * sigma * (sigma**2 - 1) * u[name[1]] * v[name[2]]

    def after_step(self, before, after, gradient):
        self.w = after
        for layer, u in self.left.items():
            self.left[layer] = self.iterate(layer, u)

    def state(self):
        return {
            "left": {(layer, i): n for layer, u in self.left.items() for i, n in enumerate(u)},
            "right": {(layer, i): n for layer, v in self.right.items() for i, n in enumerate(v)},
        }


def unit(vector):
    """The vector at length 1."""
    length = math.sqrt(sum(number**2 for number in vector))
    return [number / length for number in vector]


class RWalk(Part):
    """Chaudhry et al. 2018, eq. 6 to 8, or the authors' code (`official`)."""

    name = "rwalk"

    def __init__(self, strength, damping, alpha, period, official, w):
        self.strength, self.damping, self.alpha = strength, damping, alpha
        self.period, self.official = period, official
        self.fisher, self.anchor, self.then = None, dict(w), dict(w)
        self.scores, self.importance = dict.fromkeys(w, 0.0), dict.fromkeys(w, 0.0)
        self.score = dict.fromkeys(w, 0.0)
        self.steps = self.ended = 0
        self.clear()

    def clear(self):
        self.path, self.squares = dict.fromkeys(self.anchor, 0.0), dict.fromkeys(self.anchor, 0.0)

    def pull(self, name, value):
        return 2 * self.strength * self.importance[name] * (value - self.anchor[name])

    def after_step(self, before, after, gradient):
        if self.fisher is None:
            self.fisher = {name: g * g for name, g in gradient.items()}
        for name, g in gradient.items():
            self.path[name] -= g * (after[name] - before[name])
            self.squares[name] += g * g
        self.steps += 1
        if self.steps % self.period:
            return
        for name, f in self.fisher.items():
            far = (after[name] - self.then[name]) ** 2 * f * (1.0 if self.official else 0.5)
            self.score[name] += max(self.path[name] / (far + self.damping), 0.0)
            mean = self.squares[name] / self.period
            self.fisher[name] = (1 - self.alpha) * f + self.alpha * mean
        self.then = dict(after)
        self.clear()

    def end_task(self, run):
        for name, score in self.score.items():
            if self.official:
                twice = 2.0 if self.ended == 0 else 1.0
                self.scores[name] += (self.scores[name] + twice * score) / 2
            else:
                self.scores[name] = (self.scores[name] + score) / 2
        fisher, scores = in_unit_range(self.fisher), in_unit_range(self.scores)
        self.importance = {name: fisher[name] + scores[name] for name in fisher}
        self.anchor, self.then = dict(run.w), dict(run.w)
        self.score = dict.fromkeys(self.score, 0.0)
        self.ended += 1
        self.clear()

    def state(self):
        fields = ("path", "score", "scores", "importance", "anchor")
        return {field: getattr(self, field) for field in fields}


def in_unit_range(numbers):
    """All numbers in [0, 1], by the least and the largest."""
    low, high = min(numbers.values()), max(numbers.values())
    return {name: (number - low) / (high - low) for name, number in numbers.items()}
