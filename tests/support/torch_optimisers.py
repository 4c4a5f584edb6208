"""Steps of a transform beside the steps of torch's own optimiser."""

import math

import torch
from torch.testing import assert_close

import clfunc
from clfunc import tree
from clfunc.types import Context

STEPS = 50
KEY = clfunc.random.key(0)
CONTEXT = Context({}, torch.tensor(0), {})


def like_params(seed, dtype=torch.float64):
    """A small tree of parameters, standard normal."""
    first, second, third = clfunc.random.split(clfunc.random.fold_in(KEY, seed), 3)
    return {
        "hidden1": {
            "weight": clfunc.random.normal(first, (3, 4), dtype=dtype),
            "bias": clfunc.random.normal(second, (3,), dtype=dtype),
        },
        "head": {"weight": clfunc.random.normal(third, (2, 3), dtype=dtype)},
    }


PARAMS = like_params(0)
GRADIENTS = [tree.scale(like_params(1 + i), 1 + math.sin(i)) for i in range(STEPS)]


def steps(tx, gradients=GRADIENTS, params=PARAMS, state=None):
    """Parameters and state after each step of a transform along the gradients."""
    if state is None:
        state = tx.init(KEY, params)
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params, CONTEXT)
        params = tree.add(params, updates)
        yield params, state


def assert_follows_torch(tx, optimiser, clip=lambda parameters: None, scheduler=None):
    """Assert that a transform takes the steps of torch's optimiser.

    Args:
        tx: The transform.
        optimiser: `parameters -> torch.optim.Optimizer`.
        clip: `parameters -> None`: clips the gradients before each step.
        scheduler: `optimiser -> scheduler`, which steps after the optimiser.
    """
    parameters, structure = tree.flatten(tree.clone(PARAMS))
    optimiser = optimiser(parameters)
    scheduler = scheduler and scheduler(optimiser)
    for gradient, (params, _) in zip(GRADIENTS, steps(tx), strict=True):
        for parameter, part in zip(parameters, tree.leaves(gradient), strict=True):
            parameter.grad = part.clone()
        clip(parameters)
        optimiser.step()
        if scheduler:
            scheduler.step()
        expected = tree.unflatten(parameters, structure)
        assert_close(params, expected, rtol=1e-12, atol=1e-12)
