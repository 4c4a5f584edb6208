"""Dark experience replay (DER++): replay by labels, and by what the network said of the examples when
it met them [1].

    derpp(model, tx, ...) = finetuning(
        model, tx, terms=(terms.distil_logits(batch, alpha), terms.replay(batch, beta, mean="sum")),
        memory=memories.reservoir(capacity))

The two terms draw independently. With `beta` 0 it is DER. See `clfunc.terms.distil_logits`.

[1] Buzzega et al. 2020, arXiv:2004.07211
"""

from clfunc import memories, terms
from clfunc.algorithms.finetuning import finetuning
from clfunc.types import Algorithm, Model, Number, Transform


def derpp(
    model: Model,
    tx: Transform,
    *,
    capacity: int = 500,
    batch: int = 32,
    alpha: Number = 0.5,
    beta: Number = 0.5,
) -> Algorithm:
    """Finetuning with replay of logits and of labels, from a reservoir.

    Args:
        model: Its head takes batches that mix tasks: `scenario.head(together=True)`.
        tx: The optimiser.
        capacity: Examples that the memory keeps, >= 1.
        batch: Examples that each term draws at each step, in [1, capacity].
        alpha: Weight of the distance of logits, >= 0 (in the paper 0.1 to 1).
        beta: Weight of the loss of labels, >= 0 (in the paper 0.5 or 1).

    Raises:
        ValueError: A number out of its range, or a head of one task at a time.

    >>> from clfunc import derpp, dil, mlp, sgd
    >>> algorithm = derpp(mlp(64, (16,), dil(5, classes=10)), sgd(0.1), capacity=200)
    """
    logits = terms.distil_logits(batch, alpha)
    labels = terms.replay(batch, beta, mean="sum")
    inner = finetuning(model, tx, terms=(logits, labels), memory=memories.reservoir(capacity))
    return inner._replace(settings=inner.settings | {"name": "derpp"})
