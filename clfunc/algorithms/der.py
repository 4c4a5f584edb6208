"""Dark experience replay (DER): the network keeps the logits that it gave to remembered examples [1].

    der(model, tx, ...) = finetuning(
        model, tx, terms=(terms.distil_logits(batch, alpha),), memory=memories.reservoir(capacity))

See `clfunc.terms.distil_logits`; `derpp` replays labels too.

[1] Buzzega et al. 2020, arXiv:2004.07211
"""

from clfunc import memories, terms
from clfunc.algorithms.finetuning import finetuning
from clfunc.types import Algorithm, Model, Number, Transform


def der(
    model: Model,
    tx: Transform,
    *,
    capacity: int = 500,
    batch: int = 32,
    alpha: Number = 0.5,
) -> Algorithm:
    """Finetuning with replay of logits from a reservoir.

    Args:
        model: Its head takes batches that mix tasks: `scenario.head(together=True)`.
        tx: The optimiser.
        capacity: Examples that the memory keeps, >= 1.
        batch: Examples to draw at each step, in [1, capacity].
        alpha: Weight of the distance of logits, >= 0 (in the paper 0.1 to 1).

    Raises:
        ValueError: A number out of its range, or a head of one task at a time.

    >>> from clfunc import der, dil, mlp, sgd
    >>> algorithm = der(mlp(64, (16,), dil(5, classes=10)), sgd(0.1), capacity=200)
    """
    logits = terms.distil_logits(batch, alpha)
    inner = finetuning(model, tx, terms=(logits,), memory=memories.reservoir(capacity))
    return inner._replace(settings=inner.settings | {"name": "der"})
