"""Memory aware synapses (MAS): finetuning with each weight held by how much the output depends on
it [1].

    mas(model, tx, ...) = finetuning(model, tx, terms=(terms.mas(strength),))

See `clfunc.terms.mas`.

[1] Aljundi et al. 2018, arXiv:1711.09601
"""

from clfunc import terms
from clfunc.algorithms.finetuning import finetuning
from clfunc.types import Algorithm, Model, Number, Transform


def mas(
    model: Model,
    tx: Transform,
    *,
    strength: Number = 1.0,
    decay: Number = 1.0,
    num_tasks: int | None = None,
) -> Algorithm:
    """Finetuning with a pull towards the last task's weights.

    Args:
        model: Its head decides the paradigm.
        tx: The optimiser.
        strength: Of the pull, >= 0; 0 is finetuning.
        decay: Share of the earlier importance that a task's end keeps, in [0, 1].
        num_tasks: Keep what it learns from each of so many tasks apart, so that `amnesiac` can
            forget one; None for no such task.

    Raises:
        ValueError: A number out of its range.

    >>> from clfunc import mas, mlp, sgd, til
    >>> algorithm = mas(mlp(64, (16,), til(5, classes=10)), sgd(0.1), strength=0.5)
    """
    inner = finetuning(model, tx, terms=(terms.mas(strength, decay=decay, num_tasks=num_tasks),))
    return inner._replace(settings=inner.settings | {"name": "mas"})
