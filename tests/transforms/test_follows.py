"""A transform says which leaves of its state follow which parameter: they have its shape, and are
cleared with it.
"""

import pytest
import torch

from clfunc import dil, mlp, tree
from clfunc.compose import forget_groups
from clfunc.random import fold_in, key, normal
from clfunc.transforms import (
    adam,
    adamw,
    add_decayed_weights,
    carry,
    chain,
    clip_by_global_norm,
    clip_by_value,
    mask_updates,
    reinit,
    reset_dormant,
    reset_silent,
    scale,
    scale_by_adjustment,
    schedules,
    sgd,
    upgd,
)
from clfunc.transforms.chain import by_element
from clfunc.types import Context, Transform
from clfunc.units import resets

# hidden1 and hidden2 have one shape, so that no shape tells their leaves apart
MODEL = mlp(5, (5, 5), dil(1, 5))
TASK = torch.tensor(0)
ZOO = {
    "sgd": sgd(0.1),
    "momentum": sgd(0.1, 0.9),
    "adam": adam(0.1),
    "adamw": adamw(0.1),
    "adam by element": by_element(adam(0.1)),
    "upgd": upgd(0.1),
    "carry": carry(adam(0.1)),
    "chain": chain(clip_by_global_norm(1.0), adam(0.1), schedules.cosine(10)),
    "chain of others": chain(
        clip_by_value(1.0), add_decayed_weights(0.1), scale(0.5), sgd(0.1, 0.9)
    ),
    "mask": chain(sgd(0.1, 0.9), mask_updates(tree.map(torch.ones_like, MODEL.init(key(0))))),
    "reinit": reinit(MODEL, adam(0.1)),
    "reset_dormant": reset_dormant(MODEL, sgd(0.1, 0.9)),
    "reset_silent": reset_silent(MODEL, carry(sgd(0.1, 0.9))),
    "scale_by_adjustment": scale_by_adjustment(MODEL, chain(clip_by_value(1.0), adam(0.1))),
}
FOLLOWING = dict.fromkeys(ZOO, 1) | {"sgd": 0}
FOLLOWING |= dict.fromkeys(("adam", "adamw", "carry", "chain", "scale_by_adjustment"), 2)
FOLLOWING |= dict.fromkeys(("adam by element", "reinit"), 4)
every_transform = pytest.mark.parametrize("name", ZOO)


def trained(tx):
    """Parameters and a state in which no leaf that follows a parameter is zero."""
    params = MODEL.init(key(1))
    state = tx.init(key(2), params)
    for step in range(2):
        x = normal(fold_in(key(3), step), (8, 5))
        features = MODEL.apply(params, x, TASK).features
        none = {group: torch.zeros(width) for group, width in MODEL.units.items()}
        ones = tree.map(torch.ones_like, none)
        gradient = tree.map(lambda p: 1 + p, params)
        context = Context(features, TASK, none, none, ones)
        updates, state = tx.update(gradient, state, params, context)
        params = tree.add(params, updates)
    return params, state


def pairs(tx, state):
    """Each leaf of a state with the name of the parameter that it follows."""
    names = tx.follows(state)
    assert tree.structure(names) == tree.structure(state)
    return list(zip(tree.leaves(names), tree.leaves(state), strict=True))


@every_transform
def test_a_leaf_that_follows_a_parameter_has_its_shape(name):
    params, state = trained(ZOO[name])
    shapes = {path: leaf.shape for path, leaf in tree.items(params)}
    found = [path for path, leaf in pairs(ZOO[name], state) if path]
    assert all(leaf.shape == shapes[path] for path, leaf in pairs(ZOO[name], state) if path)
    assert sorted(found) == sorted([*shapes] * FOLLOWING[name])


@every_transform
def test_leading_axes_of_a_stack_of_states_do_not_matter(name):
    states = [trained(ZOO[name])[1] for _ in range(2)]
    names = ZOO[name].follows(tree.stack(states))
    assert tree.leaves(names) == tree.leaves(ZOO[name].follows(states[0]))


@every_transform
def test_what_follows_the_groups_that_a_task_brings_is_cleared_and_nothing_else(name):
    tx = ZOO[name]
    _, state = trained(tx)
    left = tree.leaves(forget_groups(tx, state, ("head",)))
    for (path, before), after in zip(pairs(tx, state), left, strict=True):
        if path.startswith("head."):
            assert (before != 0).any() and (after == 0).all()
        else:
            assert torch.equal(before, after)


@every_transform
def test_what_follows_the_weights_of_a_unit_is_cleared_where_the_unit_is_reset(name):
    tx = ZOO[name]
    params, state = trained(tx)
    reset = {group: torch.arange(width) == 2 for group, width in MODEL.units.items()}
    choices = {group: resets.marked(units) for group, units in reset.items()}
    rows = resets.noise(key(5), TASK, resets.row_shapes(MODEL, params, MODEL.units), torch.float32)
    updates = tree.zeros_like(params)
    _, left = resets.rewrite(MODEL, params, updates, tx, state, choices, rows)
    touched = dict(tree.items(resets.touched(MODEL, params, choices)))
    for (path, before), after in zip(pairs(tx, state), tree.leaves(left), strict=True):
        expected = torch.where(touched[path], 0, before) if path else before
        assert torch.equal(after, expected)


def test_by_default_no_leaf_follows_a_parameter():
    tx = Transform(init=lambda key, params: params, update=sgd().update)
    assert set(tree.leaves(tx.follows(MODEL.init(key(0))))) == {""}
