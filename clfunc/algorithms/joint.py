"""Joint (multi-task) training: all tasks at once, in mixed batches. The upper reference of
continual learning.

    loss = mean over the tasks present in the batch of each one's mean cross-entropy      (average="tasks")
    loss = mean over the examples                                                         (average="examples")

Run it on `clfunc.scenarios.joint(scenario)`. A head whose task is not in the batch does not move,
under any optimiser.

Caruana 1997, "Multitask learning", Machine Learning 28.
"""

from typing import Literal

from torch import Tensor

from clfunc.algorithms.finetuning import finetuning
from clfunc.losses import task_cross_entropy
from clfunc.types import Algorithm, Batch, Logits, Model, Transform


def joint(
    model: Model, tx: Transform, *, average: Literal["tasks", "examples"] = "tasks"
) -> Algorithm:
    """Train on all tasks together.

    Args:
        model: With an `mtl` head (a head a task), or `stl` where tasks share their labels.
        tx: The optimiser.
        average: Weigh the tasks present in a batch equally, or its examples.

    Raises:
        ValueError: Another `average`, or another head.

    >>> from clfunc import joint, mlp, mtl, sgd
    >>> algorithm = joint(mlp(64, (16,), mtl(5, classes=10)), sgd(0.1))
    >>> algorithm.settings["mixes"]
    True
    """
    if average not in ("tasks", "examples"):
        raise ValueError(f"average must be 'tasks' or 'examples', given {average!r}")
    if model.head.paradigm not in ("mtl", "stl"):
        raise ValueError(
            f"joint needs an mtl or stl head, given {model.head.paradigm}:"
            " use scenarios.joint(...).head()"
        )
    inner = finetuning(model, tx, loss=_mean_over_tasks if average == "tasks" else None)
    about = {"name": "joint", "mixes": True, "average": average, "loss": "head"}
    return inner._replace(settings=inner.settings | about)


def _mean_over_tasks(logits: Logits, batch: Batch) -> Tensor:
    task = batch.task.expand(batch.weight.shape)
    return task_cross_entropy(logits, batch.y, batch.weight, task)
