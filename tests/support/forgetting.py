"""A sweep that forgets, compared with its members alone."""

import torch

from clfunc import sweep, tree
from clfunc.testing.laws import distance
from clfunc.types import Task


def assert_each_run_forgets_as_alone(members, keys, forgotten, batch, tasks, steps, epochs=1):
    """Train a sweep and its members, and assert that each run forgets as its member does alone.

    Args:
        members: The members of the sweep.
        keys: `[members, 2]`.
        forgotten: `[members, tasks]`, Bool: the tasks that each run forgets.
        batch: `(task, step) -> Batch`.
        tasks: Number of tasks.
        steps: Number of steps of a task.
        epochs: Number of epochs that `begin_task` hears of.

    Returns:
        Parameters and state of the sweep, before and after it forgets.
    """
    together = sweep(members)
    count = len(members)
    carry = together.init(keys)
    alone = [member.init(key) for member, key in zip(members, keys, strict=True)]

    def advance(name, *arguments):
        """Call the function `name` of the sweep and of every member."""
        nonlocal carry
        stacked = [tree.stack([argument] * count) for argument in arguments]
        carry = getattr(together, name)(*carry, *stacked)[:2]
        for i, member in enumerate(members):
            alone[i] = getattr(member, name)(*alone[i], *arguments)[:2]

    for task in range(tasks):
        advance("begin_task", Task(*torch.tensor([task, steps, epochs])))
        for step in range(steps):
            advance("step", batch(task, step))
        advance("end_task")
    after = together.unlearn(*carry, forgotten)
    for i, member in enumerate(members):
        expected = member.unlearn(*alone[i], forgotten[i])
        assert distance(tree.index(after, i), expected) < 1e-11
    return carry, after
