"""Single-task learning: one task by itself, with one head. Run it on `clfunc.scenarios.single(scenario, task)`."""

from clfunc.algorithms.finetuning import finetuning
from clfunc.types import Algorithm, Model, Transform


def single(model: Model, tx: Transform) -> Algorithm:
    """Finetuning on one task: `model` has an `stl` head, else ValueError."""
    if model.head.paradigm != "stl":
        raise ValueError(
            f"single needs an stl head, given {model.head.paradigm}: use scenarios.single(...).head()"
        )
    algorithm = finetuning(model, tx)
    return algorithm._replace(settings=algorithm.settings | {"name": "single"})
