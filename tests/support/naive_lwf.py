"""Learning without forgetting as its papers write it: loops over tasks, examples and classes."""

import torch
from support.naive_protocol import Part, leaves


class LwF(Part):
    """Li & Hoiem 2016, eq. 2 and 3, over the head of each task that has ended; under one head, over
    the classes met before the task.
    """

    name = "lwf"

    def __init__(self, strength, temperature, scaled=False):
        self.strength, self.temperature, self.scaled = strength, temperature, scaled
        self.teacher, self.ended = None, []

    def begin_task(self, run):
        self.task = run.task

    def moves(self):
        """The tasks whose heads it trains."""
        return self.ended

    def heads(self, network):
        """For each head, the task it is of (None for a shared one), and its old labels."""
        if network.paradigm == "til":
            return [(task, range(network.counts[task])) for task in self.ended]
        return [(None, self.old(network))] if self.ended else []

    def old(self, network):
        """The labels of the tasks that have ended, under one head."""
        found = []
        for task in self.ended:
            first = sum(network.counts[:task]) if network.paradigm == "cil" else 0
            found += [label + first for label in range(network.counts[task])]
        return sorted(set(found))

    def objective(self, run, w, batch, value):
        total = 0.0
        for task, labels in self.heads(run.network):
            for e in [e for e in batch if e.weight > 0]:
                seen = e if task is None else e._replace(task=task)
                then = run.network.logits(leaves(self.teacher), seen)
                now = run.network.logits(w, seen)
                q, p = (
                    {c: torch.exp(z[c] / self.temperature) for c in labels} for z in (then, now)
                )
                for c in labels:
                    share = (q[c] / sum(q.values())).item()
                    total = total - e.weight * share * torch.log(p[c] / sum(p.values()))
        factor = self.temperature**2 if self.scaled else 1.0
        return value + self.strength * factor * total / sum(e.weight for e in batch)

    def end_task(self, run):
        self.teacher = dict(run.w)
        self.ended.append(self.task)


class LwFMC(LwF):
    """Rebuffi et al. 2017, algorithm 3 without exemplars: a sigmoid for each class."""

    name = "lwf_mc"

    def __init__(self):
        super().__init__(1.0, 1.0)

    def objective(self, run, w, batch, value):
        network, total = run.network, 0.0
        for e in [e for e in batch if e.weight > 0]:
            new = network.labels(e.task)
            if network.paradigm == "cil":
                first = sum(network.counts[: e.task])
                new = range(first, first + network.counts[e.task])
            elif network.paradigm == "dil":
                new = range(network.counts[e.task])
            parts = []
            for task, labels in self.heads(network):
                seen = e if task is None else e._replace(task=task)
                then = network.logits(leaves(self.teacher), seen)
                now = network.logits(w, seen)
                parts += [(now[c], torch.sigmoid(then[c]).item()) for c in labels]
            old = self.old(network) if network.paradigm != "til" else []
            now = network.logits(w, e)
            parts += [(now[c], float(c == e.y)) for c in new if c not in old]
            for z, target in parts:
                p = torch.sigmoid(z)
                bce = -target * torch.log(p) - (1 - target) * torch.log(1 - p)
                total = total + e.weight * bce / len(parts)
        return total / sum(e.weight for e in batch)
