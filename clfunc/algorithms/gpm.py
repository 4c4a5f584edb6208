"""Gradient projection memory (GPM): no layer's weights move along the inputs that earlier tasks gave
it [1].

    gpm(model, tx, ...) = finetuning(model, chain(transforms.gpm_projection(model, threshold), tx))

and with `project="updates"` the projection stands after the optimiser. See
`clfunc.transforms.gpm_projection`.

[1] Saha et al. 2021, arXiv:2103.09762
"""

from clfunc.algorithms.finetuning import finetuning
from clfunc.transforms import chain, gpm_projection
from clfunc.types import Algorithm, Model, Number, Transform, choice


def gpm(
    model: Model,
    tx: Transform,
    *,
    threshold: Number = 0.97,
    examples: int = 300,
    project: str = "gradients",
) -> Algorithm:
    """Finetuning with the projection.

    Args:
        model: A network of linear layers; its head decides the paradigm.
        tx: The optimiser.
        threshold: Share of the inputs' squared size that is kept, in [0, 1].
        examples: Of each task whose inputs are looked at, >= 1.
        project: `gradients`, as the paper, or `updates`, which momentum and decay cannot undo.

    Raises:
        ValueError: A number out of its range, an unknown `project`, or a network with other layers.

    >>> from clfunc import gpm, mlp, sgd, til
    >>> algorithm = gpm(mlp(64, (16,), til(5, classes=10)), sgd(0.1))
    """
    choice(project, "project", ("gradients", "updates"))
    projection = gpm_projection(model, threshold, examples=examples)
    parts = (projection, tx) if project == "gradients" else (tx, projection)
    inner = finetuning(model, chain(*parts))
    return inner._replace(settings=inner.settings | {"name": "gpm"})
