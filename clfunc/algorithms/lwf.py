"""Learning without forgetting (LwF): finetuning with distillation from the last task's network [1].

    lwf(model, tx, ...) = finetuning(model, tx, terms=(terms.lwf(strength, temperature),))
    lwf_mc(model, tx) = finetuning(model, tx, terms=(terms.lwf_mc(),))

See `clfunc.terms.lwf`, and `clfunc.terms.lwf_mc` for the multi-class form [2].

[1] Li & Hoiem 2016, arXiv:1606.09282   [2] Rebuffi et al. 2017, arXiv:1611.07725
"""

from clfunc import terms
from clfunc.algorithms.finetuning import finetuning
from clfunc.types import Algorithm, Model, Number, Transform


def lwf(
    model: Model,
    tx: Transform,
    *,
    strength: Number = 1.0,
    temperature: Number = 2.0,
    scaled: bool = False,
) -> Algorithm:
    """Finetuning that keeps what the network said of earlier classes.

    Args:
        model: Its head has all tasks in it: `scenario.head(together=True)`.
        tx: The optimiser.
        strength: Weight of the distillation, >= 0; 0 is finetuning.
        temperature: Of the softmax, > 0.
        scaled: Whether the distillation is multiplied by the temperature squared.

    Raises:
        ValueError: A number out of its range, or a head of one task at a time.

    >>> from clfunc import lwf, mlp, mtl, sgd
    >>> algorithm = lwf(mlp(64, (16,), mtl(5, classes=10)), sgd(0.1))
    """
    inner = finetuning(model, tx, terms=(terms.lwf(strength, temperature, scaled=scaled),))
    return inner._replace(settings=inner.settings | {"name": "lwf"})


def lwf_mc(model: Model, tx: Transform) -> Algorithm:
    """Finetuning with a sigmoid for each class, and the last network's as the targets of old ones.

    Args:
        model: Its head has all tasks in it: `scenario.head(together=True)`.
        tx: The optimiser.

    Raises:
        ValueError: A head of one task at a time.

    >>> from clfunc import cil, lwf_mc, mlp, sgd
    >>> algorithm = lwf_mc(mlp(64, (16,), cil(5, classes=2)), sgd(0.1))
    """
    inner = finetuning(model, tx, terms=(terms.lwf_mc(),))
    return inner._replace(settings=inner.settings | {"name": "lwf_mc"})
