"""The diagonal Fisher information of a batch, a sum over its examples.

    F_i = sum_n w_n sum_c q_nc (d log p_c(x_n) / d params_i)^2

`q` are the weights of the classes: the network's own probabilities (`exact`), one for the class of
the largest logit (`predicted`) or for the label (`empirical`).

The gradient of a linear layer's weight is the outer product of the gradient of its bias and of its
input, so its square is that of their squares: such a weight costs no more than a bias. Wires that
are `linear` say which they are. All other parameters are differentiated example by example.
"""

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from clfunc import tree
from clfunc.types import Context, Params

FISHERS = ("exact", "predicted", "empirical")


def fisher_of(params: Params, context: Context, kind: str = "exact") -> Params:
    """The diagonal Fisher information of the context's batch.

    Args:
        params: The groups that tasks share.
        context: Of a review.
        kind: `exact`, `predicted` or `empirical`.

    Returns:
        A tree like `params`, >= 0: a sum over examples, each by its weight.
    """
    batch = context.batch
    linear = [wire for wire in context.wires if wire.linear and wire.path[0] in params]
    apart = {wire.path[0] for wire in linear}
    small = {
        name: _without_weight(part) if name in apart else part for name, part in params.items()
    }

    def scores(some: Params, x: Tensor, y: Tensor, task: Tensor) -> Tensor:
        """sqrt(q_c) log p_c of one example, `[classes]`."""
        merged = {name: params[name] | part for name, part in some.items()}
        one = batch._replace(x=x[None], y=y[None], task=task, rows=(), notes={})
        logits = context.logits(merged, one)[0]
        log_p = torch.log_softmax(logits, 0)
        share = _class_weights(kind, logits, y)
        return torch.where(share > 0, log_p, 0.0) * share.sqrt()

    task_axis = 0 if batch.task.ndim else None
    each = vmap(jacrev(scores), (None, 0, 0, task_axis))(small, batch.x, batch.y, batch.task)
    squares = tree.map(lambda j: _weighted(j * j, batch.weight), each)
    # a sum, not a matrix product: a member of a sweep has the bits that it has alone
    found = tree.map(lambda square: square.sum((0, 1)), squares)
    if not linear:
        return found
    features = context.forward(params, batch).features
    for wire in linear:
        group, leaf = wire.path
        deltas = squares[group]["bias"].sum(1)
        inputs = batch.x if wire.pre is None else features[wire.pre]
        inputs = inputs.flatten(1).to(deltas.dtype)
        found[group] = {leaf: _outer(deltas, inputs * inputs)} | found[group]
    return {name: {leaf: found[name][leaf] for leaf in part} for name, part in params.items()}


def _without_weight(part: Params) -> Params:
    return {name: leaf for name, leaf in part.items() if name != "weight"}


def _class_weights(kind: str, logits: Tensor, y: Tensor) -> Tensor:
    """How much each class counts, `[classes]`, without a gradient."""
    logits = logits.detach()
    if kind == "exact":
        return torch.softmax(logits, 0)
    chosen = logits.argmax(0) if kind == "predicted" else y
    return (torch.arange(len(logits), device=logits.device) == chosen).to(logits.dtype)


def _weighted(squares: Tensor, weight: Tensor) -> Tensor:
    """Squares `[batch, classes, ...]` by the weights of their examples; exactly 0 for weight 0."""
    by_example = tree.expand_last(weight, squares.ndim)
    return torch.where(by_example > 0, squares * by_example, 0.0)


def _outer(deltas: Tensor, inputs: Tensor) -> Tensor:
    """The sum over examples of the outer products of `[batch, ..., out]` and `[batch, in]`."""
    flat = deltas.flatten(1)
    return (flat.T @ inputs).reshape(*deltas.shape[1:], inputs.shape[1])
