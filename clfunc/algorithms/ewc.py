"""Elastic weight consolidation (EWC): finetuning with each weight held by its Fisher information [1].

    ewc(model, tx, ...) = finetuning(model, tx, terms=(terms.ewc(strength, fisher=fisher),))

See `clfunc.terms.ewc`.

[1] Kirkpatrick et al. 2017, arXiv:1612.00796
"""

from clfunc import terms
from clfunc.algorithms.finetuning import finetuning
from clfunc.types import Algorithm, Model, Number, Transform


def ewc(
    model: Model,
    tx: Transform,
    *,
    strength: Number = 100.0,
    fisher: str = "exact",
    decay: Number | None = None,
    num_tasks: int | None = None,
) -> Algorithm:
    """Finetuning with a pull towards the weights of earlier tasks.

    Args:
        model: Its head decides the paradigm.
        tx: The optimiser.
        strength: Of the pull, >= 0; 0 is finetuning. What is good spans 1 to 1e10 by the protocol.
        fisher: `exact`, `sample`, `predicted`, `empirical` or `batched`.
        decay: Share of the earlier Fisher that a task's end keeps, in [0, 1]: online EWC. None
            holds each task's Fisher at its own params.
        num_tasks: Keep what it learns from each of so many tasks apart, so that `amnesiac` can
            forget one; None for no such task.

    Raises:
        ValueError: A number out of its range, or an unknown Fisher.

    >>> from clfunc import ewc, mlp, sgd, til
    >>> algorithm = ewc(mlp(64, (16,), til(5, classes=10)), sgd(0.1), strength=1000.0)
    """
    term = terms.ewc(strength, fisher=fisher, decay=decay, num_tasks=num_tasks)
    inner = finetuning(model, tx, terms=(term,))
    return inner._replace(settings=inner.settings | {"name": "ewc"})
