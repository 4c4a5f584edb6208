"""How much numbers that a network puts out depend on each parameter, example by example.

    S_i = sum_n w_n sum_k |d s_k(x_n) / d params_i|^power

The gradient of a linear layer's weight is the outer product of the gradient of its bias and of its
input, so each of its powers is that of theirs: such a weight costs no more than a bias. Wires that
are `linear` say which they are. All other parameters are differentiated example by example.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from clfunc import tree
from clfunc.types import Context, Params


def sensitivity(
    params: Params,
    context: Context,
    scores: Callable[..., Tensor],
    about: tuple[Tensor, ...] = (),
    *,
    power: int = 2,
) -> Params:
    """The sum over the examples of the context's batch, each by its weight.

    Args:
        params: The groups that tasks share.
        context: Of a review.
        scores: `(logits [classes], *about of the example) -> [scores]`. Logits are -inf where a
            class does not count.
        about: What `scores` is told of each example, leaves `[batch, ...]`.
        power: Of each derivative, 1 or 2.

    Returns:
        A tree like `params`, >= 0.
    """
    batch = context.batch
    linear = [wire for wire in context.wires if wire.linear and wire.path[0] in params]
    apart = {wire.path[0] for wire in linear}
    small = {
        name: _without_weight(part) if name in apart else part for name, part in params.items()
    }

    def of_one(some: Params, x: Tensor, y: Tensor, task: Tensor, about: tuple) -> Tensor:
        merged = {name: params[name] | part for name, part in some.items()}
        one = batch._replace(x=x[None], y=y[None], task=task, rows=(), notes={})
        return scores(context.logits(merged, one)[0], *about)

    axes = (None, 0, 0, 0 if batch.task.ndim else None, 0)
    each = vmap(jacrev(of_one), axes)(small, batch.x, batch.y, batch.task, about)
    powers = tree.map(lambda j: _weighted(_power(j, power), batch.weight), each)
    # a sum, not a matrix product: a member of a sweep has the bits that it has alone
    found = tree.map(lambda leaf: leaf.sum((0, 1)), powers)
    if not linear:
        return found
    features = context.forward(params, batch).features
    for wire in linear:
        group, leaf = wire.path
        deltas = powers[group]["bias"].sum(1)
        inputs = batch.x if wire.pre is None else features[wire.pre]
        inputs = inputs.flatten(1).to(deltas.dtype)
        found[group] = {leaf: _outer(deltas, _power(inputs, power))} | found[group]
    return {name: {leaf: found[name][leaf] for leaf in part} for name, part in params.items()}


def _without_weight(part: Params) -> Params:
    return {name: leaf for name, leaf in part.items() if name != "weight"}


def _power(leaf: Tensor, power: int) -> Tensor:
    return leaf.abs() if power == 1 else leaf * leaf


def _weighted(powers: Tensor, weight: Tensor) -> Tensor:
    """Powers `[batch, scores, ...]` by the weights of their examples; exactly 0 for weight 0."""
    by_example = tree.expand_last(weight, powers.ndim)
    return torch.where(by_example > 0, powers * by_example, 0.0)


def _outer(deltas: Tensor, inputs: Tensor) -> Tensor:
    """The sum over examples of the outer products of `[batch, ..., out]` and `[batch, in]`."""
    flat = deltas.flatten(1)
    return (flat.T @ inputs).reshape(*deltas.shape[1:], inputs.shape[1])
