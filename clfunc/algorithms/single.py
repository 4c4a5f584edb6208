"""Single-task learning: one task by itself, with one head.

Run it on `clfunc.scenarios.single(scenario, task)`.
"""

from clfunc.algorithms.finetuning import finetuning
from clfunc.types import Algorithm, Model, Transform


def single(model: Model, tx: Transform) -> Algorithm:
    """Finetuning on one task.

    Args:
        model: With an `stl` head.
        tx: The optimiser.

    Raises:
        ValueError: Another head.

    >>> from clfunc import mlp, sgd, single, stl
    >>> single(mlp(64, (16,), stl(10)), sgd(0.1)).settings["name"]
    'single'
    """
    if model.head.paradigm != "stl":
        raise ValueError(
            f"single needs an stl head, given {model.head.paradigm}:"
            " use scenarios.single(...).head()"
        )
    algorithm = finetuning(model, tx)
    return algorithm._replace(settings=algorithm.settings | {"name": "single"})
