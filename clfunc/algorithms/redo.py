"""ReDo: finetuning that recycles dormant units, and so stays able to learn [1].

    redo(model, tx, ...) = finetuning(model, reset_dormant(model, tx, ...))

See `clfunc.transforms.reset_dormant` for the method. Departs from [1], which trains one network on
one stream: the optimiser restarts at each task unless it is carried. The count of steps goes on.

[1] Sokar et al. 2023, arXiv:2302.12902
"""

from clfunc.algorithms.finetuning import finetuning
from clfunc.transforms.reset_dormant import reset_dormant
from clfunc.types import Algorithm, Model, Number, Transform


def redo(
    model: Model, tx: Transform, *, period: Number = 1000, threshold: Number = 0.025
) -> Algorithm:
    """Finetuning with `reset_dormant` around its optimiser: arguments and errors as there.

    >>> from clfunc import mlp, redo, sgd, til
    >>> algorithm = redo(mlp(64, (16,), til(5, classes=10)), sgd(0.1), period=500)
    """
    inner = finetuning(model, reset_dormant(model, tx, period=period, threshold=threshold))
    return inner._replace(settings=inner.settings | {"name": "redo"})
