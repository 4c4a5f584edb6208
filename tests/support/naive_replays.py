"""The terms that read a memory, beyond those of `support.naive_protocol`, as their papers write them:
loops over examples and classes.
"""

import math

import torch
from support.naive_protocol import DER, ER, Part, gradient_of, joined, leaves

from clfunc.random import uniform


def probabilities(logits):
    """The softmax of a list of logits."""
    whole = sum(torch.exp(z) for z in logits)
    return [torch.exp(z) / whole for z in logits]


class Asymmetric(Part):
    """Caccia et al. 2022: the batch's loss over the classes that are in it."""

    name = "asymmetric"

    def __init__(self, strength):
        self.strength = strength

    def objective(self, run, w, batch, value):
        counted = [e for e in batch if e.weight > 0]
        present = {e.y for e in counted}
        total = 0.0
        for e in counted:
            logits = run.network.logits(w, e, run.gates(w, e.task))
            whole = torch.log(sum(torch.exp(logits[label]) for label in present))
            total = total - e.weight * (logits[e.y] - whole)
        own = total / sum(e.weight for e in counted)
        return value + self.strength * (own - run.mean_loss(w, batch))


class MIR(ER):
    """Aljundi et al. 2019, section 3.1: the examples whose loss a plain step would raise most."""

    name = "mir"

    def __init__(self, key, count, candidates, strength, lr, mean="union"):
        super().__init__(key, count, strength, mean)
        self.candidates, self.lr = candidates, lr

    def objective(self, run, w, batch, value):
        without = run.task if self.mean == "by_task" else None
        met = run.memory.draw(self.key, self.candidates, run.steps, without)
        now = leaves(run.w)
        gradient = gradient_of(run.mean_loss(now, batch), now)
        ahead = leaves({name: v - self.lr * gradient[name] for name, v in run.w.items()})
        rise = {}
        for place, e in enumerate(met):
            rise[place] = (run.mean_loss(ahead, [e]) - run.mean_loss(now, [e])).item()
        worst = sorted(rise, key=lambda place: -rise[place])[: self.count]
        drawn = [met[place] for place in worst]
        return joined(run, w, batch, value, drawn, self)

    def state(self):
        return {}


class FDR(DER):
    """Benjamin et al. 2019: |p - noted p|_2, a mean over examples."""

    name = "fdr"

    def objective(self, run, w, batch, value):
        total, weights = 0.0, 0.0
        for e in run.memory.draw(self.key, self.count, run.steps):
            now = probabilities(run.network.logits(w, e, run.gates(w, e.task)))
            noted = probabilities([torch.tensor(z, dtype=torch.float64) for z in e.logits])
            squares = sum((p - q) ** 2 for p, q in zip(now, noted, strict=True))
            if squares > 0:
                total = total + e.weight * torch.sqrt(squares)
            weights += e.weight
        return value + self.strength * total / weights if weights else value


class CLSER(Part):
    """Arani et al. 2022, algorithm 1.

    Args:
        keys: Of the draws, and of the moves of the plastic and the stable mean.
        count: How many examples are drawn.
        consistency: Weight of the distance.
        rates: Probabilities of a move, of plastic and stable.
        decays: What they keep.
        w: The initial parameters.
    """

    name = "cls_er"
    mean, strength = "union", 1.0

    def __init__(self, keys, count, consistency, rates, decays, w):
        self.keys, self.count, self.consistency = keys, count, consistency
        self.rates, self.decays = rates, decays
        self.means = [dict(w), dict(w)]
        self.step = 0
        self.from_stable = []  # whether the target of each example was

    def objective(self, run, w, batch, value):
        drawn = run.memory.draw(self.keys[0], self.count, run.steps)
        total, weights = 0.0, 0.0
        for e in drawn:
            plastic, stable = (run.network.logits(leaves(mean), e) for mean in self.means)
            is_stable = probabilities(stable)[e.y] > probabilities(plastic)[e.y]
            self.from_stable.append(bool(is_stable))
            target = stable if is_stable else plastic
            now = run.network.logits(w, e)
            apart = [(z - t.item()) ** 2 for z, t in zip(now, target, strict=True)]
            total = total + e.weight * sum(apart) / len(apart)
            weights += e.weight
        value = joined(run, w, batch, value, drawn, self)
        return value + self.consistency * total / weights if weights else value

    def after_step(self, before, after, gradient):
        self.step += 1
        for which in (0, 1):
            chance = uniform(self.keys[1 + which], (), at=self.step, dtype=torch.float64).item()
            if chance < self.rates[which]:
                a = min(1 - 1 / (self.step + 1), self.decays[which])
                mean = self.means[which]
                self.means[which] = {n: a * v + (1 - a) * after[n] for n, v in mean.items()}

    def state(self):
        assert all(math.isfinite(v) for v in self.means[1].values())
        return {"stable": self.means[1]}
