"""Experience replay (ER): finetuning on each batch and on examples remembered beside it [1].

    er(model, tx, ...) = finetuning(model, tx, terms=(terms.replay(batch),), memory=memories.reservoir(capacity))

See `clfunc.terms.replay` and `clfunc.memories.reservoir`.

[1] Chaudhry et al. 2019, arXiv:1902.10486; Riemer et al. 2019, arXiv:1810.11910
"""

from clfunc import memories, terms
from clfunc.algorithms.finetuning import finetuning
from clfunc.types import Algorithm, Model, Number, Transform


def er(
    model: Model,
    tx: Transform,
    *,
    capacity: int = 500,
    batch: int = 32,
    strength: Number = 1.0,
    mean: str = "union",
) -> Algorithm:
    """Finetuning with replay from a reservoir.

    Args:
        model: Its head takes batches that mix tasks: `scenario.head(together=True)`.
        tx: The optimiser.
        capacity: Examples that the memory keeps, >= 1.
        batch: Examples to draw at each step, in [1, capacity].
        strength: Their weight beside the batch's, >= 0; 0 is finetuning.
        mean: `union`, `sum` or `by_task`; see `terms.replay`.

    Raises:
        ValueError: A number out of its range, an unknown mean, or a head of one task at a time.

    >>> from clfunc import er, mlp, mtl, sgd
    >>> algorithm = er(mlp(64, (16,), mtl(5, classes=10)), sgd(0.1), capacity=200)
    """
    replay = terms.replay(batch, strength, mean=mean)
    inner = finetuning(model, tx, terms=(replay,), memory=memories.reservoir(capacity))
    return inner._replace(settings=inner.settings | {"name": "er"})
