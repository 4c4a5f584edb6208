"""Maximally interfered retrieval (MIR): replay of the examples that the coming step would harm
most [1].

    mir(model, tx, ...) = finetuning(
        model, tx, terms=(terms.mir(batch, candidates, strength, lr=lr),),
        memory=memories.reservoir(capacity))

See `clfunc.terms.mir`.

[1] Aljundi et al. 2019, arXiv:1908.04742
"""

from clfunc import memories, terms
from clfunc.algorithms.finetuning import finetuning
from clfunc.types import Algorithm, Model, Number, Transform


def mir(
    model: Model,
    tx: Transform,
    *,
    capacity: int = 500,
    batch: int = 16,
    candidates: int = 50,
    strength: Number = 1.0,
    lr: Number = 0.1,
    mean: str = "union",
) -> Algorithm:
    """Finetuning with replay of chosen examples from a reservoir.

    Args:
        model: Its head takes batches that mix tasks: `scenario.head(together=True)`.
        tx: The optimiser.
        capacity: Examples that the memory keeps, >= 1.
        batch: Examples to replay at each step, in [1, candidates].
        candidates: Examples to draw at each step and choose from, in [1, capacity]; the paper's is
            50.
        strength: Their weight beside the batch's, >= 0; 0 is finetuning.
        lr: Of the virtual step, > 0.
        mean: `union`, `sum`, `balanced` or `by_task`; see `terms.replay`.

    Raises:
        ValueError: A number out of its range, an unknown mean, or a head of one task at a time.

    >>> from clfunc import dil, mir, mlp, sgd
    >>> algorithm = mir(mlp(64, (16,), dil(5, classes=10)), sgd(0.1), capacity=200)
    """
    term = terms.mir(batch, candidates, strength, lr=lr, mean=mean)
    inner = finetuning(model, tx, terms=(term,), memory=memories.reservoir(capacity))
    return inner._replace(settings=inner.settings | {"name": "mir"})
