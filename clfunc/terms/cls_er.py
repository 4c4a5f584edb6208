"""The complementary learning systems of CLS-ER [1]: replay, and two means of the network over time, a
plastic and a stable one, whose logits remembered examples should keep.

    z* = the logits of whichever mean gives the example's label the higher probability
    loss = replay (one mean over batch and memory) + consistency * mean_{n,c} (z(x') - z*)^2
    after step k, with probability r:   mean <- a mean + (1 - a) params,   a = min(1 - 1/(k + 1), decay)

Paper: lambda -> consistency, r_P and r_S -> rates, alpha_P and alpha_S -> decays. All logits count, as
in the authors' code. `cl.cls_er` predicts with the stable mean.

[1] Arani et al. 2022, arXiv:2201.12604
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.losses import weighted_mean
from clfunc.random import split, uniform
from clfunc.terms.replay import joined, replay
from clfunc.types import (
    Batch,
    Context,
    Key,
    Model,
    Number,
    Params,
    Scalar,
    State,
    Term,
    scalar,
)


class CLSERState(NamedTuple):
    consistency: Scalar
    rates: tuple[Scalar, Scalar]  # of plastic and stable, as all pairs
    decays: tuple[Scalar, Scalar]
    keys: tuple[Key, Key]
    means: tuple[Params, Params]
    step: Tensor
    replay: State

    @property
    def stable(self) -> Params:
        """The mean that predicts."""
        return self.means[1]


def cls_er(
    batch: int,
    consistency: Number = 0.1,
    strength: Number = 1.0,
    *,
    plastic_rate: Number = 1.0,
    stable_rate: Number = 0.8,
    plastic_decay: Number = 0.99,
    stable_decay: Number = 0.99,
    name: str = "cls_er",
) -> Term:
    """Replay, and the distance to the logits of two means of the params.

    Args:
        batch: Examples to draw at each step, >= 1.
        consistency: Weight of the distance, >= 0; the authors' is 1 on MNIST.
        strength: Weight of the replayed examples beside the batch's, >= 0.
        plastic_rate: Probability that a step moves the plastic mean, in [0, 1].
        stable_rate: Of the stable mean likewise; below the other.
        plastic_decay: What the plastic mean keeps when it moves, in [0, 1].
        stable_decay: Of the stable mean likewise.
        name: Of the term.

    Raises:
        ValueError: A number out of its range.

    >>> from clfunc import dil, finetuning, memories, mlp, sgd, terms
    >>> model = mlp(64, (16,), dil(5, classes=10))
    >>> algorithm = finetuning(
    ...     model, sgd(0.1), terms=(terms.cls_er(32),), memory=memories.reservoir(500)
    ... )
    """
    weight = scalar(consistency, "consistency", 0)
    inner = replay(batch, strength)
    rates = scalar(plastic_rate, "plastic_rate", 0, 1), scalar(stable_rate, "stable_rate", 0, 1)
    decays = (
        scalar(plastic_decay, "plastic_decay", 0, 1),
        scalar(stable_decay, "stable_decay", 0, 1),
    )

    def init(key: Key, params: Params, model: Model) -> CLSERState:
        draws, plastic, stable = split(key, 3)
        return CLSERState(
            consistency=weight,
            rates=rates,
            decays=decays,
            keys=(plastic, stable),
            means=(params, params),
            step=torch.zeros((), dtype=torch.int64, device=key.device),
            replay=inner.init(draws, params, model),
        )

    def loss(s: CLSERState, params: Params, context: Context) -> Scalar:
        drawn = context.draw(s.replay.key, batch)
        apart = context.forward(params, drawn).logits - _target(s, drawn, context)
        distance = weighted_mean((apart * apart).mean(1), drawn.weight)
        more = joined(s.replay, context, drawn, context.loss(params, drawn), "union")
        return more + s.consistency * distance

    settings = inner.settings | {
        "consistency": weight,
        "rates": rates,
        "decays": decays,
        "needs": "classes",
        "remembers": True,
    }
    return Term(
        name=name,
        init=init,
        loss=loss,
        after_step=_after_step,
        settings=settings,
    )


def _target(s: CLSERState, drawn: Batch, context: Context) -> Tensor:
    """The logits of the mean that gives each example's label the higher probability."""
    plastic, stable = (context.forward(mean, drawn).logits for mean in s.means)
    label = torch.arange(stable.shape[1], device=stable.device) == drawn.y[:, None]

    def of_label(logits: Tensor) -> Tensor:
        return (torch.softmax(logits, 1) * label).sum(1)

    is_stable = of_label(stable) > of_label(plastic)
    return torch.where(is_stable[:, None], stable, plastic)


def _after_step(
    s: CLSERState, before: Params, after: Params, gradient: Params, context: Context
) -> CLSERState:
    """The state with the means moved towards the params after a step."""
    step = s.step + 1
    means = []
    for mean, key, rate, decay in zip(s.means, s.keys, s.rates, s.decays, strict=True):
        moves = uniform(key, (), at=step, dtype=torch.float64) < rate
        keeps = torch.where(moves, torch.minimum(1 - 1 / (step + 1).double(), decay), 1.0)
        means.append(tree.add(tree.scale(mean, keeps), tree.scale(after, 1 - keeps)))
    return s._replace(step=step, means=tuple(means))
