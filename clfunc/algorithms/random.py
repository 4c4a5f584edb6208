"""Random: nothing trains. What an untrained network scores, for `metrics.forgetting_ratio`."""

from clfunc.algorithms.finetuning import FinetuningState, finetuning
from clfunc.types import Algorithm, Batch, Metrics, Model, Params, Transform


def random(model: Model, tx: Transform) -> Algorithm:
    """Evaluate the network as it was drawn; `tx` is taken, like every algorithm's, and not used on it."""
    inner = finetuning(model, tx)

    def step(
        params: Params, state: FinetuningState, batch: Batch
    ) -> tuple[Params, FinetuningState, Metrics]:
        _, _, metrics = inner.step(params, state, batch)
        return params, state, metrics

    return inner._replace(step=step, settings=inner.settings | {"name": "random"})
