"""Averaged gradient episodic memory (A-GEM): no step that would raise the loss of remembered
examples [1].

    a_gem(model, tx, ...) = finetuning(
        model, chain(transforms.agem_projection(batch), tx), memory=memories.reservoir(capacity))

See `clfunc.transforms.agem_projection`.

[1] Chaudhry et al. 2019, arXiv:1812.00420
"""

from clfunc import memories
from clfunc.algorithms.finetuning import finetuning
from clfunc.transforms import agem_projection, chain
from clfunc.types import Algorithm, Model, Transform


def a_gem(model: Model, tx: Transform, *, capacity: int = 500, batch: int = 256) -> Algorithm:
    """Finetuning with the projection before the optimiser.

    Args:
        model: Its head takes batches that mix tasks: `scenario.head(together=True)`.
        tx: The optimiser.
        capacity: Examples that the memory keeps, >= 1.
        batch: Examples of earlier tasks to draw at each step, in [1, capacity].

    Raises:
        ValueError: A number out of its range, or a head of one task at a time.

    >>> from clfunc import a_gem, dil, mlp, sgd
    >>> algorithm = a_gem(mlp(64, (16,), dil(5, classes=10)), sgd(0.1), batch=64)
    """
    projected = chain(agem_projection(batch), tx)
    inner = finetuning(model, projected, memory=memories.reservoir(capacity))
    return inner._replace(settings=inner.settings | {"name": "a_gem"})
