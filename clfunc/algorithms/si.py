"""Synaptic intelligence (SI): finetuning with each weight held by its share in the fall of the
loss [1].

    si(model, tx, ...) = finetuning(model, tx, terms=(terms.si(strength, damping),))

See `clfunc.terms.si`.

[1] Zenke et al. 2017, arXiv:1703.04200
"""

from clfunc import terms
from clfunc.algorithms.finetuning import finetuning
from clfunc.types import Algorithm, Model, Number, Transform


def si(
    model: Model,
    tx: Transform,
    *,
    strength: Number = 1.0,
    damping: Number = 0.1,
    clip: str = "total",
    num_tasks: int | None = None,
) -> Algorithm:
    """Finetuning with a pull towards the last task's weights, by the path that training took.

    Args:
        model: Its head decides the paradigm.
        tx: The optimiser.
        strength: Of the pull, >= 0; 0 is finetuning.
        damping: Keeps the importance of a weight finite that did not move, > 0.
        clip: `total`, `task` or `none`; see `terms.si`.
        num_tasks: Keep what it learns from each of so many tasks apart, so that `amnesiac` can
            forget one; None for no such task.

    Raises:
        ValueError: A number out of its range, or an unknown `clip`.

    >>> from clfunc import mlp, sgd, si, til
    >>> algorithm = si(mlp(64, (16,), til(5, classes=10)), sgd(0.1), strength=0.5)
    """
    term = terms.si(strength, damping, clip=clip, num_tasks=num_tasks)
    inner = finetuning(model, tx, terms=(term,))
    return inner._replace(settings=inner.settings | {"name": "si"})
