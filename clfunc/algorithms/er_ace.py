"""ER-ACE: replay with an asymmetric loss, in which new classes do not push earlier ones down [1].

    er_ace(model, tx, ...) = finetuning(
        model, tx, terms=(terms.asymmetric(), terms.replay(batch, strength, mean="sum")),
        memory=memories.reservoir(capacity))

See `clfunc.terms.asymmetric`. It is made for class-incremental streams.

[1] Caccia et al. 2022, arXiv:2104.05025
"""

from clfunc import memories, terms
from clfunc.algorithms.finetuning import finetuning
from clfunc.types import Algorithm, Model, Number, Transform


def er_ace(
    model: Model,
    tx: Transform,
    *,
    capacity: int = 500,
    batch: int = 32,
    strength: Number = 1.0,
) -> Algorithm:
    """Finetuning on each batch's own classes, with replay from a reservoir over all of them.

    Args:
        model: Its head takes batches that mix tasks: `scenario.head(together=True)`.
        tx: The optimiser.
        capacity: Examples that the memory keeps, >= 1.
        batch: Examples to draw at each step, in [1, capacity].
        strength: Weight of their loss, >= 0.

    Raises:
        ValueError: A number out of its range, or a head of one task at a time.

    >>> from clfunc import cil, er_ace, mlp, sgd
    >>> algorithm = er_ace(mlp(64, (16,), cil(5, classes=2)), sgd(0.1), capacity=200)
    """
    parts = (terms.asymmetric(), terms.replay(batch, strength, mean="sum"))
    inner = finetuning(model, tx, terms=parts, memory=memories.reservoir(capacity))
    return inner._replace(settings=inner.settings | {"name": "er_ace"})
