"""The methods of `clfunc.terms`, `clfunc.memories` and A-GEM as their papers write them: Python loops
over examples, classes and parameters, in float64, on a network of one hidden relu layer.

A parameter is one number. The parameters are a dict from the name of a number, such as
`("hidden1.weight", 0, 2)`, to a float. PyTorch differentiates the loss, and nothing else.
"""

import itertools
import math
from typing import NamedTuple

import torch

from clfunc import tree
from clfunc.random import bits

INPUTS, UNITS = 3, 4
WEIGHT, BIAS = "hidden1.weight", "hidden1.bias"


def entries(params):
    """The numbers of a tree of tensors, by name."""
    found = {}
    for name, leaf in tree.items(params):
        places = itertools.product(*map(range, leaf.shape))
        for place, number in zip(places, leaf.flatten().tolist(), strict=True):
            found[(name, *place)] = number
    return found


def leaves(w):
    """The parameters as tensors that PyTorch can differentiate by."""
    return {name: torch.tensor(v, dtype=torch.float64).requires_grad_() for name, v in w.items()}


def gradient_of(value, w, keep=False):
    """The derivative of `value` by every parameter; 0 where it does not depend on one."""
    if not isinstance(value, torch.Tensor) or not value.requires_grad:
        return dict.fromkeys(w, 0.0)
    found = torch.autograd.grad(value, list(w.values()), retain_graph=keep, allow_unused=True)
    return {name: 0.0 if g is None else g.item() for name, g in zip(w, found, strict=True)}


class Example(NamedTuple):
    x: tuple
    y: int
    task: int
    weight: float
    row: int
    logits: tuple = ()  # what the network said when a memory met the example


class Network:
    """The network under a head: `til` (each task has its own), `cil` (global labels) or `dil`."""

    def __init__(self, paradigm, counts):
        self.paradigm, self.counts = paradigm, counts
        self.begun = set()  # tasks

    def labels(self, task):
        """The labels that count for an example of this task."""
        if self.paradigm == "til":
            return list(range(self.counts[task]))
        if self.paradigm == "dil":
            return list(range(max(self.counts)))
        seen = []
        for earlier in sorted(self.begun):
            first = sum(self.counts[:earlier])
            seen += range(first, first + self.counts[earlier])
        return seen

    def logits(self, w, example, gates=None):
        """The logits of one example, of all classes."""
        hidden = []
        for i in range(UNITS):
            total = w[BIAS, i]
            for j in range(INPUTS):
                total = total + w[WEIGHT, i, j] * example.x[j]
            unit = torch.relu(total)
            hidden.append(unit if gates is None else unit * gates[i])
        own = (example.task,) if self.paradigm == "til" else ()
        width = sum(self.counts) if self.paradigm == "cil" else max(self.counts)
        found = []
        for label in range(width):
            total = w["head.bias", *own, label]
            for i, unit in enumerate(hidden):
                total = total + w["head.weight", *own, label, i] * unit
            found.append(total)
        return found

    def log_p(self, w, example, gates=None):
        """The log probability of every label that counts."""
        logits = self.logits(w, example, gates)
        labels = self.labels(example.task)
        whole = torch.log(sum(torch.exp(logits[label]) for label in labels))
        return {label: logits[label] - whole for label in labels}


class Part:
    """What a method adds to finetuning. A subclass says what; `name` is that of the library's term."""

    def begin_task(self, run): ...
    def review(self, run, batch): ...
    def end_task(self, run): ...

    def objective(self, run, w, batch, value):
        """What is minimised, given what would be without this part."""
        return value

    def pull(self, name, value):
        """The derivative of the penalty by one parameter."""
        return 0.0

    def projected(self, run, gradient):
        return gradient

    def moves(self):
        """The tasks whose heads it trains, though they are not in the batch."""
        return []

    def after_step(self, before, after, gradient):
        """`gradient` is that of everything but the penalties."""

    def state(self):
        """Fields of the library's state, each as numbers by name."""
        return {}


class L2Init(Part):
    """penalty = strength * sum_i (w_i - w0_i)^2."""

    name = "l2_init"

    def __init__(self, strength, w):
        self.strength, self.initial = strength, dict(w)

    def pull(self, name, value):
        return 2 * self.strength * (value - self.initial[name])

    def state(self):
        return {"initial": self.initial}


class SI(Part):
    """Zenke et al. 2017, eq. 4 and 5; `clip` says where a negative importance is cut."""

    name = "si"

    def __init__(self, strength, damping, clip, w):
        self.strength, self.damping, self.clip = strength, damping, clip
        self.path = dict.fromkeys(w, 0.0)
        self.importance = dict.fromkeys(w, 0.0)
        self.anchor = dict(w)
        self.negative = 0  # shares

    def pull(self, name, value):
        return 2 * self.strength * self.importance[name] * (value - self.anchor[name])

    def after_step(self, before, after, gradient):
        for name in self.path:
            self.path[name] -= gradient[name] * (after[name] - before[name])

    def end_task(self, run):
        for name, now in run.w.items():
            share = self.path[name] / ((now - self.anchor[name]) ** 2 + self.damping)
            self.negative += share < 0
            if self.clip == "task":
                share = max(share, 0.0)
            self.importance[name] += share
            if self.clip == "total":
                self.importance[name] = max(self.importance[name], 0.0)
        self.anchor = dict(run.w)
        self.path = dict.fromkeys(self.path, 0.0)

    def state(self):
        return {"path": self.path, "importance": self.importance, "anchor": self.anchor}


def joined(run, w, batch, value, drawn, part):
    """The loss of the batch and of the examples drawn, by the part's `mean`."""
    if not drawn:
        return value
    if part.mean == "union":
        weaker = [e._replace(weight=part.strength * e.weight) for e in drawn]
        return run.mean_loss(w, batch + weaker)
    old = run.mean_loss(w, drawn)
    if part.mean == "sum":
        return value + part.strength * old
    if part.mean == "balanced":
        return (value + part.strength * old) / (1 + part.strength)
    share = part.strength * (1 - 1 / part.begun)
    return (1 - share) * value + share * old


class ER(Part):
    """One mean over batch and replay (Chaudhry et al. 2019), their sum, or van de Ven's by tasks."""

    name = "replay"

    def __init__(self, key, count, strength, mean="union"):
        self.key, self.count, self.strength, self.mean = key, count, strength, mean
        self.begun = 0

    def begin_task(self, run):
        self.begun += 1

    def objective(self, run, w, batch, value):
        earlier = self.mean == "by_task"
        drawn = run.memory.draw(self.key, self.count, run.steps, run.task if earlier else None)
        return joined(run, w, batch, value, drawn, self)

    def state(self):
        return {"tasks": {("",): float(self.begun)}}


class DER(Part):
    """Buzzega et al. 2020, eq. 6; the distance is a mean over examples and classes."""

    name = "distil_logits"

    def __init__(self, key, count, strength):
        self.key, self.count, self.strength = key, count, strength

    def objective(self, run, w, batch, value):
        total, weights = 0.0, 0.0
        for example in run.memory.draw(self.key, self.count, run.steps):
            logits = run.network.logits(w, example, run.gates(w, example.task))
            apart = [(z - noted) ** 2 for z, noted in zip(logits, example.logits, strict=True)]
            total = total + example.weight * sum(apart) / len(apart)
            weights += example.weight
        return value + self.strength * total / weights if weights else value


class AGEM(Part):
    """Chaudhry et al. 2019, eq. 11: g - (g.r / r.r) r where g.r < 0."""

    def __init__(self, key, count):
        self.key, self.count = key, count
        self.was_projected = []

    def projected(self, run, gradient):
        w = leaves(run.w)
        drawn = run.memory.draw(self.key, self.count, run.steps, run.task)
        reference = gradient_of(run.mean_loss(w, drawn), w)
        along = sum(gradient[name] * r for name, r in reference.items())
        size = sum(r * r for r in reference.values())
        self.was_projected.append(along < 0)
        if along >= 0:
            return gradient
        return {name: g - along / size * reference[name] for name, g in gradient.items()}


class Reservoir:
    """The `capacity` examples of smallest priority, each in a slot that it keeps."""

    def __init__(self, key, capacity):
        self.key, self.slots, self.priorities = key, [None] * capacity, {}

    def priority(self, example):
        """The random number of 63 bits of a row of a task; an empty slot is after all of them."""
        if example is None:
            return math.inf
        place = example.task * 2**40 + example.row
        if place not in self.priorities:
            high, low = bits(self.key, (2,), at=place).tolist()
            self.priorities[place] = (high // 2) * 2**32 + low
        return self.priorities[place]

    def add(self, batch):
        stored, new = [(e.task, e.row) for e in self.slots if e is not None], []
        for example in batch:
            if example.weight > 0 and (example.task, example.row) not in stored:
                stored.append((example.task, example.row))
                new.append(example)
        kept = sorted(self.slots + new, key=self.priority)[: len(self.slots)]
        entering = [example for example in new if example in kept]
        order = sorted(range(len(self.slots)), key=lambda i: -self.priority(self.slots[i]))
        for example, slot in zip(entering, order, strict=False):
            self.slots[slot] = example

    def draw(self, key, count, step, without=None):
        """`count` examples in the order of random words, none of the task `without`."""
        words = bits(key, (len(self.slots),), at=step).tolist()
        there = [i for i, e in enumerate(self.slots) if e is not None and e.task != without]
        return [self.slots[i] for i in sorted(there, key=lambda i: words[i])[:count]]


class Run:
    """Finetuning by SGD with momentum and weight decay, and what the parts add to it in order."""

    def __init__(self, network, w, sgd, parts=(), memory=None):
        self.network, self.w, self.parts, self.memory = network, dict(w), parts, memory
        self.lr, self.momentum, self.decay = sgd
        self.steps = 0

    def gates(self, w, task):
        """What the hidden units are multiplied by; None for nothing."""
        return None

    def mean_loss(self, w, examples):
        """The weighted mean of the cross-entropy."""
        total = 0.0
        for e in examples:
            total = total - e.weight * self.network.log_p(w, e, self.gates(w, e.task))[e.y]
        return total / sum(e.weight for e in examples) if examples else total

    def regularised(self, w, value):
        return value

    def pushed(self, gradient):
        return gradient

    def rate(self, name):
        """How far a parameter moves of what the optimiser says."""
        if self.network.paradigm == "til" and name[0].startswith("head"):
            return 1.0 if name[1] in self.present else 0.0
        return 1.0

    def held(self, name, value):
        return value

    def begin_task(self, task):
        self.task = task
        self.network.begun.add(task)
        self.trace = dict.fromkeys(self.w, 0.0)
        for part in self.parts:
            part.begin_task(self)

    def step(self, batch):
        slots = [] if self.memory is None else self.memory.slots
        self.present = {e.task for e in batch + slots if e is not None and e.weight > 0}
        self.present |= {task for part in self.parts for task in part.moves()}
        w = leaves(self.w)
        self.loss = self.mean_loss(w, batch)
        value = self.loss
        for part in self.parts:
            value = part.objective(self, w, batch, value)
        data = gradient_of(self.regularised(w, value), w)

        pulls = {name: sum(part.pull(name, v) for part in self.parts) for name, v in self.w.items()}
        gradient = self.pushed({name: g + pulls[name] for name, g in data.items()})
        for part in self.parts:
            gradient = part.projected(self, gradient)

        before = dict(self.w)
        for name, g in gradient.items():
            self.trace[name] = self.momentum * self.trace[name] + g + self.decay * before[name]
            moved = before[name] - self.lr * self.trace[name] * self.rate(name)
            self.w[name] = self.held(name, moved)
        for part in self.parts:
            part.after_step(before, self.w, data)
        if self.memory is not None:
            self.memory.add([self.noted(w, e) for e in batch])
        self.steps += 1

    def noted(self, w, example):
        """The example with its logits."""
        logits = self.network.logits(w, example, self.gates(w, example.task))
        return example._replace(logits=tuple(z.item() for z in logits))

    def end_task(self):
        for part in self.parts:
            part.end_task(self)
