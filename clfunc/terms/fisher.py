"""The diagonal Fisher information, by the kinds of [1].

    F_i = sum_n w_n sum_c q_nc (d log p_c(x_n) / d params_i)^2 / sum_n w_n

`q` are the weights of the classes:

    exact       the network's own probabilities: the mean over its own labels
    sample      one for a class drawn from them
    predicted   one for the class of the largest logit
    empirical   one for the example's label
    batched     as empirical, of each batch: the mean of (d mean_n loss_n / d params_i)^2 over the
                batches. Its size falls with that of the batch; peers print it as `Fisher` [1]

[1] van de Ven 2025, arXiv:2502.11756
"""

import torch
from torch import Tensor
from torch.func import grad, vmap

from clfunc import tree
from clfunc.losses import cross_entropy
from clfunc.random import position, uniform
from clfunc.terms.sensitivity import sensitivity
from clfunc.types import Algorithm, Batch, Context, Key, Params, Scalar, State, choice

FISHERS = ("exact", "sample", "predicted", "empirical", "batched")


def fisher(
    algorithm: Algorithm,
    params: Params,
    state: State,
    batch: Batch,
    kind: str = "exact",
    *,
    key: Key | None = None,
) -> Params:
    """The diagonal Fisher information of an algorithm's predictions, the mean over a batch.

    Args:
        algorithm: Any algorithm.
        params: Its params.
        state: Its state.
        batch: Examples; `weight` 0 leaves one out. For `batched` they are one batch.
        kind: `exact`, `sample`, `predicted`, `empirical` or `batched`.
        key: Of the classes that `sample` draws, which needs one.

    Returns:
        A tree like `params`, >= 0; 0 for what does not move the predictions of the batch's tasks.

    Raises:
        ValueError: An unknown kind, or `sample` without a key.

    >>> from clfunc import datasets, finetuning, mlp, random, scenarios, sgd
    >>> scenario = scenarios.split(datasets.load("digits"), 5, random.key(0))
    >>> algorithm = finetuning(mlp(scenario.inputs, (8,), scenario.head()), sgd(0.1))
    >>> params, state = algorithm.init(random.key(0))
    >>> batch = scenario.batch(scenario.data, scenario.train(0), torch.arange(10))
    >>> fisher(algorithm, params, state, batch)["hidden1"]["weight"].shape
    torch.Size([8, 64])
    """
    choice(kind, "kind", FISHERS)
    if kind == "sample" and key is None:
        raise ValueError("the Fisher of kind sample draws classes: give key=random.key(0)")

    def logits(params: Params, shown: Batch) -> Tensor:
        return algorithm.predict(params, state, shown.x, shown.task)

    context = Context(features={}, task=batch.task, used={}, batch=batch, logits=logits)
    place = torch.arange(len(batch.weight), device=batch.weight.device)
    total, count = fisher_of(params, context, kind, key, place)
    return tree.scale(total, 1 / torch.where(count > 0, count, 1.0))


def fisher_of(
    params: Params, context: Context, kind: str, key: Key | None, place: Tensor
) -> tuple[Params, Scalar]:
    """The sum over the context's batch, and what its mean is taken over.

    Args:
        params: The groups that tasks share.
        context: Of a review.
        kind: One of `FISHERS`.
        key: Of the draws of `sample`.
        place: `[batch]`: a number for each example of a task, which its draw depends on.
    """
    batch = context.batch
    if kind == "batched":
        return _batched(params, context)

    def scores(logits: Tensor, y: Tensor, chance: Tensor) -> Tensor:
        """sqrt(q_c) log p_c of one example, `[classes]`."""
        log_p = torch.log_softmax(logits, 0)
        share = _shares(kind, logits.detach(), y, chance)
        return torch.where(share > 0, log_p, 0.0) * share.sqrt()

    chance = torch.zeros_like(place, dtype=torch.float64)
    if kind == "sample" and key is not None:
        at = position(batch.task, place)
        chance = vmap(lambda one: uniform(key, (), at=one, dtype=torch.float64))(at)
    found = sensitivity(params, context, scores, (batch.y, chance))
    return found, batch.weight.sum()


def _batched(params: Params, context: Context) -> tuple[Params, Scalar]:
    batch = context.batch

    def loss(params: Params) -> Scalar:
        return cross_entropy(context.logits(params, batch), batch.y, batch.weight)

    gradient = grad(loss)(tree.map(torch.detach, params))
    return tree.mul(gradient, gradient), (batch.weight > 0).any().to(batch.weight.dtype)


def _shares(kind: str, logits: Tensor, y: Tensor, chance: Tensor) -> Tensor:
    """How much each class counts, `[classes]`, without a gradient."""
    share = torch.softmax(logits, 0)
    if kind == "exact":
        return share
    chosen = y
    if kind == "predicted":
        chosen = logits.argmax(0)
    elif kind == "sample":
        # the first class up to which there is more than `chance`; rounding must not pass the last
        upto = share.cumsum(0)
        chosen = (upto <= chance * upto[-1]).sum()
    return (torch.arange(len(logits), device=logits.device) == chosen).to(logits.dtype)
