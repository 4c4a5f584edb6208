"""Orthogonal gradient descent (OGD): no step along the gradient of what the network said of earlier
tasks' examples [1].

    ogd(model, tx, ...) = finetuning(model, chain(transforms.ogd_projection(num_tasks, examples), tx))

and with `project="updates"` the projection stands after the optimiser. See
`clfunc.transforms.ogd_projection`.

[1] Farajtabar et al. 2020, arXiv:1910.07104
"""

from clfunc.algorithms.finetuning import finetuning
from clfunc.transforms import chain, ogd_projection
from clfunc.types import Algorithm, Model, Transform, choice


def ogd(
    model: Model,
    tx: Transform,
    *,
    num_tasks: int,
    examples: int = 200,
    project: str = "gradients",
) -> Algorithm:
    """Finetuning with the projection.

    Args:
        model: Its head has all tasks in it: `scenario.head(together=True)`.
        tx: The optimiser.
        num_tasks: Number of tasks, >= 1.
        examples: Of each task whose gradients are kept, >= 1: a copy of the params each.
        project: `gradients`, as the paper, or `updates`, which momentum and decay cannot undo.

    Raises:
        ValueError: A number below 1, an unknown `project`, or a head of one task at a time.

    >>> from clfunc import dil, mlp, ogd, sgd
    >>> algorithm = ogd(mlp(64, (16,), dil(5, classes=10)), sgd(0.1), num_tasks=5, examples=20)
    """
    choice(project, "project", ("gradients", "updates"))
    projection = ogd_projection(num_tasks, examples)
    parts = (projection, tx) if project == "gradients" else (tx, projection)
    inner = finetuning(model, chain(*parts))
    return inner._replace(settings=inner.settings | {"name": "ogd"})
