"""Gradient episodic memory (GEM): no step that would raise the loss of any earlier task's remembered
examples [1].

    gem(model, tx, ...) = finetuning(
        model, chain(transforms.gem_projection(num_tasks, margin), tx),
        memory=memories.ring(capacity, num_tasks=num_tasks))

See `clfunc.transforms.gem_projection`. Around Adam it is the gradient that opposes no task; the step
that Adam makes of it may.

[1] Lopez-Paz & Ranzato 2017, arXiv:1706.08840
"""

from clfunc import memories
from clfunc.algorithms.finetuning import finetuning
from clfunc.transforms import chain, gem_projection
from clfunc.types import Algorithm, Model, Number, Transform


def gem(
    model: Model,
    tx: Transform,
    *,
    num_tasks: int,
    capacity: int = 500,
    margin: Number = 0.5,
) -> Algorithm:
    """Finetuning with the projection before the optimiser.

    Args:
        model: Its head takes batches that mix tasks: `scenario.head(together=True)`.
        tx: The optimiser.
        num_tasks: Number of tasks, >= 1. A step takes a backward pass for each.
        capacity: Examples that the memory keeps, `capacity // num_tasks` of each task.
        margin: The least share of each earlier gradient that is added, >= 0; the paper's is 0.5.

    Raises:
        ValueError: A number out of its range, or a head of one task at a time.

    >>> from clfunc import dil, gem, mlp, sgd
    >>> algorithm = gem(mlp(64, (16,), dil(5, classes=10)), sgd(0.1), num_tasks=5)
    """
    projected = chain(gem_projection(num_tasks, margin), tx)
    memory = memories.ring(capacity, num_tasks=num_tasks)
    inner = finetuning(model, projected, memory=memory)
    return inner._replace(settings=inner.settings | {"name": "gem"})
