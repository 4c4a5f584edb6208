"""Utility-based perturbed gradient descent: move and shake a weight less, the more useful it is
[1].

    utility = beta_utility * utility + (1 - beta_utility) * (-gradient * params)          first-order utility of each weight
    scaled  = sigmoid(utility / (1 - beta_utility^step) / largest)          largest: of all `utility`, over the whole network
    updates = -lr * (gradient + sigma * noise) * (1 - scaled) - lr * weight_decay * params,    noise ~ N(0, 1)

Local utility: utility / (1 - beta_utility^step) divided by its norm over the weight's last axis.
Non-protecting: the factor 1 - scaled is the noise's alone. As in the authors' code, `largest` is of
the averages before their bias is corrected.

Paper: alpha -> lr, beta_u -> beta_utility, U -> utility, phi(U / eta) -> scaled, xi -> noise. A
weight of no use has the factor 1/2, so its steps are those of half the rate; the authors' README
moves by 2 lr instead: so double lr, halve weight_decay. Departs from [1]: where no utility is above
0 the quotient by the largest would turn signs round; all weights then count alike (the factor 1/2).
Task boundaries are unknown to the method, so utilities carry across tasks, with or without `carry`.

[1] Elsayed & Mahmood 2024, arXiv:2404.00781
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clfunc import tree
from clfunc.random import normal_like
from clfunc.types import (
    Context,
    Key,
    Number,
    Params,
    Scalar,
    Transform,
    Updates,
    choice,
    follows_nothing,
    scalar,
)

_SCOPES = ("global", "local")


class UPGDState(NamedTuple):
    lr: Scalar
    beta_utility: Scalar
    sigma: Scalar
    weight_decay: Scalar
    key: Key
    step: Scalar  # a whole number: it also says which noise is next
    utility: Params


def upgd(
    lr: Number = 0.01,
    beta_utility: Number = 0.999,
    sigma: Number = 0.001,
    weight_decay: Number = 0.001,
    *,
    scope: str = "global",
    protect: bool = True,
) -> Transform:
    """UPGD with first-order utilities, in place of an optimiser. Numbers not given are those of the
    authors' README.

    Args:
        lr: Learning rate, >= 0.
        beta_utility: Decay rate of the utilities, in [0, 1).
        sigma: Standard deviation of the noise, in units of the gradient, >= 0; 0 adds none.
        weight_decay: Share of the parameters taken off at each step, in units of lr, >= 0.
        scope: What a utility is compared to: `global`, the network's largest; `local`, its own row
            of weights.
        protect: Useful weights also follow the gradient less; False with sigma=0 is `sgd(lr,
            weight_decay=weight_decay)`.

    Raises:
        ValueError: A number out of its range, or another scope.

    >>> from clfunc import finetuning, mlp, til, upgd
    >>> algorithm = finetuning(mlp(64, (16,), til(5, classes=10)), upgd(0.01))
    """
    choice(scope, "scope", _SCOPES)
    rate, beta = scalar(lr, "lr", 0), scalar(beta_utility, "beta_utility", 0, 1, below=True)
    spread, decay = scalar(sigma, "sigma", 0), scalar(weight_decay, "weight_decay", 0)

    def init(key: Key, params: Params) -> UPGDState:
        step = torch.zeros((), dtype=torch.int64, device=key.device)
        return UPGDState(rate, beta, spread, decay, key, step, tree.zeros_like(params))

    def update(
        updates: Updates, state: UPGDState, params: Params, context: Context
    ) -> tuple[Updates, UPGDState]:
        beta, step = state.beta_utility, state.step + 1
        utility = tree.map(
            lambda u, g, p: beta * u - (1 - beta) * g * p, state.utility, updates, params
        )
        useless = tree.map(lambda u: 1 - u, _scaled(utility, 1 - beta**step, scope))

        def moved(g, p, free, noise):
            shaken = (g + state.sigma * noise) * free if protect else g + state.sigma * noise * free
            return -state.lr * (shaken + state.weight_decay * p)

        noise = normal_like(state.key, params, at=state.step)
        return tree.map(moved, updates, params, useless, noise), state._replace(
            step=step, utility=utility
        )

    def follows(state: UPGDState) -> UPGDState:
        return follows_nothing(state)._replace(utility=tree.names(state.utility))

    settings = {
        "name": "upgd",
        "lr": rate,
        "beta_utility": beta,
        "sigma": spread,
        "weight_decay": decay,
        "scope": scope,
        "protect": protect,
    }
    return Transform(init=init, update=update, settings=settings, follows=follows)


def _scaled(utility: Params, correction: Tensor, scope: str) -> Params:
    """Utilities between 0 and 1; 1/2 is that of a weight which does not matter."""
    if scope == "local":
        return tree.map(lambda u: torch.sigmoid(normalize(u / correction, dim=-1)), utility)
    largest = torch.stack([u.amax() for u in tree.leaves(utility)]).amax()
    some = largest > 0
    return tree.map(
        lambda u: torch.sigmoid(
            torch.where(some, u, 0.0) / correction / torch.where(some, largest, 1.0)
        ),
        utility,
    )
