"""Self-normalized resets: finetuning that resets units which fall silent for longer than is their
habit [1].

    self_normalized_resets(model, tx, ...) = finetuning(model, reset_silent(model, tx, ...))

See `clfunc.transforms.reset_silent` for the method. Departs from [1]: the optimiser restarts at
each task unless it is carried. What is known of the units goes on.

[1] Farias & Jozefiak 2024, arXiv:2410.20098
"""

from clfunc.algorithms.finetuning import finetuning
from clfunc.transforms.reset_silent import reset_silent
from clfunc.types import Algorithm, Model, Number, Transform


def self_normalized_resets(
    model: Model,
    tx: Transform,
    *,
    rejection_percentile: Number = 0.05,
    first_threshold: Number = 100,
    refresh_period: Number = 1,
    max_threshold: int = 1000,
) -> Algorithm:
    """Finetuning with `reset_silent` around its optimiser: arguments and errors as there.

    >>> from clfunc import mlp, self_normalized_resets, sgd, til
    >>> algorithm = self_normalized_resets(mlp(64, (16,), til(5, classes=10)), sgd(0.1))
    """
    resetting = reset_silent(
        model,
        tx,
        rejection_percentile=rejection_percentile,
        first_threshold=first_threshold,
        refresh_period=refresh_period,
        max_threshold=max_threshold,
    )
    inner = finetuning(model, resetting)
    return inner._replace(settings=inner.settings | {"name": "self_normalized_resets"})
