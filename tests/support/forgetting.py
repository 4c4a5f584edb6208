"""A sweep that forgets, beside its members alone."""

import torch

from clfunc import sweep, tree
from clfunc.testing.laws import distance
from clfunc.types import Task


def each_run_forgets_its_own(members, keys, gone, batch, tasks, steps, epochs=1):
    """Check that run i forgets `gone[i]` of a few tasks as its member does alone; the sweep's carry before and after."""
    many, count = sweep(members), len(members)
    carry, alone = many.init(keys), [m.init(k) for m, k in zip(members, keys, strict=True)]
    for task in range(tasks):
        told = Task(*torch.tensor([task, steps, epochs]))
        carry = many.begin_task(*carry, tree.stack([told] * count))
        alone = [m.begin_task(*c, told) for m, c in zip(members, alone, strict=True)]
        for step in range(steps):
            carry = many.step(*carry, tree.stack([batch(task, step)] * count))[:2]
            alone = [m.step(*c, batch(task, step))[:2] for m, c in zip(members, alone, strict=True)]
        carry = many.end_task(*carry)
        alone = [m.end_task(*c) for m, c in zip(members, alone, strict=True)]
    together = many.unlearn(*carry, gone)
    for i, (m, c) in enumerate(zip(members, alone, strict=True)):
        assert distance(tree.index(together, i), m.unlearn(*c, gone[i])) < 1e-11
    return carry, together
