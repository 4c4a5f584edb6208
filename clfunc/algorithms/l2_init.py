"""L2-init: finetuning with every weight held near where it began, so that the network stays able to
learn [1].

    l2_init(model, tx, ...) = finetuning(model, tx, terms=(terms.l2_init(strength),))

See `clfunc.terms.l2_init`.

[1] Kumar et al. 2023, arXiv:2308.11958
"""

from clfunc import terms
from clfunc.algorithms.finetuning import finetuning
from clfunc.types import Algorithm, Model, Number, Transform


def l2_init(model: Model, tx: Transform, *, strength: Number = 0.01) -> Algorithm:
    """Finetuning with a pull of all shared weights towards the initial ones.

    Args:
        model: Its head decides the paradigm.
        tx: The optimiser.
        strength: Of the pull, >= 0; 0 is finetuning, and the paper tries 1e-5 to 1e-2.

    Raises:
        ValueError: A strength below 0.

    >>> from clfunc import l2_init, mlp, sgd, til
    >>> algorithm = l2_init(mlp(64, (16,), til(5, classes=10)), sgd(0.1))
    """
    inner = finetuning(model, tx, terms=(terms.l2_init(strength),))
    return inner._replace(settings=inner.settings | {"name": "l2_init"})
