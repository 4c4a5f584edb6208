"""Gradient episodic memory as its paper writes it: loops over tasks and parameters, and the quadratic
program by trying every set of bounds that hold.
"""

import itertools

import torch
from support.naive_protocol import Part, gradient_of, leaves


class Ring:
    """The last `share` examples of each task, filled in order and then over again."""

    def __init__(self, share, tasks):
        self.share, self.slots, self.written = share, [None] * (share * tasks), [0] * tasks

    def block(self, task):
        """What is remembered of a task."""
        slots = self.slots[task * self.share : (task + 1) * self.share]
        return [e for e in slots if e is not None]

    def add(self, batch):
        stored = [(e.task, e.row) for e in self.slots if e is not None]
        for e in batch:
            if e.weight > 0 and (e.task, e.row) not in stored:
                stored.append((e.task, e.row))
                place = self.written[e.task] % self.share
                self.slots[e.task * self.share + place] = e
                self.written[e.task] += 1


def least(matrix, pull, low):
    """The v >= low of least 1/2 v'Pv + q'v: that which obeys the Karush-Kuhn-Tucker conditions."""
    count = len(pull)
    for held in itertools.product((False, True), repeat=count):
        free = [i for i in range(count) if not held[i]]
        v = torch.full((count,), low, dtype=torch.float64)
        if free:
            rest = [
                -pull[i] - sum(matrix[i][j] * low for j in range(count) if held[j]) for i in free
            ]
            inner = torch.tensor([[matrix[i][j] for j in free] for i in free], dtype=torch.float64)
            v[free] = torch.linalg.solve(inner, torch.tensor(rest, dtype=torch.float64))
        slope = [
            sum(matrix[i][j] * v[j].item() for j in range(count)) + pull[i] for i in range(count)
        ]
        holds = all(slope[i] >= 0 for i in range(count) if held[i])
        if holds and all(v[i] >= low for i in free):
            return v.tolist()
    raise AssertionError("no set of bounds obeys the conditions")


class GEM(Part):
    """Lopez-Paz & Ranzato 2017, eq. 11 and 12, with the ridge of the authors' code."""

    def __init__(self, tasks, margin):
        self.tasks, self.margin = tasks, margin
        self.was_projected = []

    def projected(self, run, gradient):
        w = leaves(run.w)
        rows = []
        for task in range(self.tasks):
            block = run.memory.block(task) if task != run.task else []
            rows.append(gradient_of(run.mean_loss(w, block), w))
        along = [sum(row[n] * g for n, g in gradient.items()) for row in rows]
        self.was_projected.append(any(a < 0 for a in along))
        if not self.was_projected[-1]:
            return gradient
        matrix = [[sum(a[n] * b[n] for n in a) for b in rows] for a in rows]
        for k in range(self.tasks):
            matrix[k][k] += 1e-3
        v = least(matrix, along, self.margin)
        turned = dict(gradient)
        for row, share in zip(rows, v, strict=True):
            turned = {name: g + share * row[name] for name, g in turned.items()}
        return turned
