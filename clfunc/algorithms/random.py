"""Random: nothing trains. What an untrained network scores, for `metrics.forgetting_ratio`."""

from clfunc.algorithms.finetuning import FinetuningState, finetuning
from clfunc.types import Algorithm, Batch, Metrics, Model, Params, Transform


def random(model: Model, tx: Transform) -> Algorithm:
    """Evaluate the network as it was drawn.

    Args:
        model: Its head decides the paradigm.
        tx: Every algorithm takes an optimiser; this one moves nothing.

    >>> from clfunc import algorithms, mlp, sgd, til
    >>> algorithms.random(mlp(64, (16,), til(5, classes=10)), sgd(0.1)).settings["name"]
    'random'
    """
    inner = finetuning(model, tx)

    def step(
        params: Params, state: FinetuningState, batch: Batch
    ) -> tuple[Params, FinetuningState, Metrics]:
        _, _, metrics = inner.step(params, state, batch)
        return params, state, metrics

    return inner._replace(step=step, settings=inner.settings | {"name": "random"})
