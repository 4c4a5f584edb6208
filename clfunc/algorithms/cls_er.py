"""CLS-ER: replay beside a plastic and a stable mean of the network over time; the stable one
predicts [1].

    cls_er(model, tx, ...) = finetuning(
        model, tx, terms=(terms.cls_er(batch, consistency),), memory=memories.reservoir(capacity))
    predict(params, state, ...) = that of finetuning with the stable mean in the place of params

See `clfunc.terms.cls_er`.

[1] Arani et al. 2022, arXiv:2201.12604
"""

from torch import Tensor

from clfunc import memories, terms
from clfunc.algorithms.finetuning import finetuning
from clfunc.types import Algorithm, Inputs, Logits, Model, Number, Params, State, TaskId, Transform


def cls_er(
    model: Model,
    tx: Transform,
    *,
    capacity: int = 500,
    batch: int = 32,
    consistency: Number = 0.1,
    stable_rate: Number = 0.8,
    stable_decay: Number = 0.99,
    plastic_rate: Number = 1.0,
    plastic_decay: Number = 0.99,
) -> Algorithm:
    """Finetuning with replay, held near two means of itself.

    Args:
        model: Its head takes batches that mix tasks: `scenario.head(together=True)`.
        tx: The optimiser.
        capacity: Examples that the memory keeps, >= 1.
        batch: Examples to draw at each step, in [1, capacity].
        consistency: Weight of the distance to the means' logits, >= 0; the authors' is 1 on MNIST.
        stable_rate: Probability that a step moves the stable mean, in [0, 1].
        stable_decay: What it keeps when it moves, in [0, 1].
        plastic_rate: Of the plastic mean likewise.
        plastic_decay: Likewise.

    Raises:
        ValueError: A number out of its range, or a head of one task at a time.

    >>> from clfunc import cls_er, dil, mlp, sgd
    >>> algorithm = cls_er(mlp(64, (16,), dil(5, classes=10)), sgd(0.1), capacity=200)
    """
    term = terms.cls_er(
        batch,
        consistency,
        stable_rate=stable_rate,
        stable_decay=stable_decay,
        plastic_rate=plastic_rate,
        plastic_decay=plastic_decay,
    )
    inner = finetuning(model, tx, terms=(term,), memory=memories.reservoir(capacity))

    def stable(params: Params, state: State) -> Params:
        return {**params, **state.parts.terms[term.name].stable}

    def predict(params: Params, state: State, x: Inputs, task: TaskId) -> Logits:
        return inner.predict(stable(params, state), state, x, task)

    def features(params: Params, state: State, x: Inputs, task: TaskId) -> Tensor:
        assert inner.features is not None
        return inner.features(stable(params, state), state, x, task)

    return inner._replace(
        predict=predict, features=features, settings=inner.settings | {"name": "cls_er"}
    )
