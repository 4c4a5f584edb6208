"""Steps of a transform beside those of torch's own optimiser."""

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
    keys = clfunc.random.split(clfunc.random.fold_in(KEY, seed), 3)
    shapes = {"hidden1": {"weight": (3, 4), "bias": (3,)}, "head": {"weight": (2, 3)}}
    drawn = iter(keys)
    return {
        group: {
            name: clfunc.random.normal(next(drawn), shape, dtype=dtype)
            for name, shape in leaves.items()
        }
        for group, leaves in shapes.items()
    }


PARAMS = like_params(0)
GRADIENTS = [tree.scale(like_params(1 + i), 1 + math.sin(i)) for i in range(STEPS)]


def steps(tx, gradients=GRADIENTS, params=PARAMS, state=None):
    """Parameters and state after each step."""
    state = tx.init(KEY, params) if state is None else state
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params, CONTEXT)
        params = tree.add(params, updates)
        yield params, state


def assert_follows_torch(tx, optimiser, clip=lambda parameters: None, scheduler=None):
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
        assert_close(params, tree.unflatten(parameters, structure), rtol=1e-12, atol=1e-12)
