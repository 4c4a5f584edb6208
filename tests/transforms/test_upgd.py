"""UPGD beside its equations written with loops over single weights, and what it keeps of its
memory.
"""

import math
from itertools import product

import pytest
import torch
from torch.func import vmap

from clfunc import carry, random, sgd, tree, upgd
from clfunc.types import Context

STEPS, KEY = 50, random.key(0)
CONTEXT = Context({}, torch.tensor(0), {})


def like_params(seed, dtype=torch.float64):
    shapes = {
        "hidden1": {"weight": torch.zeros(3, 4), "bias": torch.zeros(3)},
        "head": {"weight": torch.zeros(2, 3)},
    }
    return random.normal_like(
        random.fold_in(KEY, seed), tree.map(lambda leaf: leaf.to(dtype), shapes)
    )


PARAMS = like_params(0)
GRADIENTS = [tree.scale(like_params(1 + i), 1 + math.sin(i)) for i in range(STEPS)]


def steps(tx, gradients=GRADIENTS, params=PARAMS, state=None):
    """Parameters and state after each step."""
    state = tx.init(KEY, params) if state is None else state
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params, CONTEXT)
        params = tree.add(params, updates)
        yield params, state


def rows(leaf):
    """A leaf as a list of its rows, each a list of floats."""
    return leaf.reshape(-1, leaf.shape[-1]).tolist()


def naive(lr, beta_utility, sigma, weight_decay, scope, protect):
    """Parameters after each step, weight by weight."""
    params, utility = (
        [rows(p) for p in tree.leaves(PARAMS)],
        [rows(torch.zeros_like(p)) for p in tree.leaves(PARAMS)],
    )
    for step, gradient in enumerate(GRADIENTS, 1):
        noise = [rows(n) for n in tree.leaves(random.normal_like(KEY, PARAMS, at=step - 1))]
        gradient = [rows(g) for g in tree.leaves(gradient)]
        places = [
            (i, j, k)
            for i, leaf in enumerate(params)
            for j, row in enumerate(leaf)
            for k in range(len(row))
        ]
        for i, j, k in places:
            u = -gradient[i][j][k] * params[i][j][k]
            utility[i][j][k] = beta_utility * utility[i][j][k] + (1 - beta_utility) * u
        largest = max(utility[i][j][k] for i, j, k in places)
        for i, j, k in places:
            corrected = [u / (1 - beta_utility**step) for u in utility[i][j]]
            norm = math.sqrt(sum(u * u for u in corrected)) if scope == "local" else largest
            scaled = 1 / (1 + math.exp(min(-corrected[k] / norm, 700))) if norm > 0 else 0.5
            g, n = gradient[i][j][k], sigma * noise[i][j][k]
            shaken = (g + n) * (1 - scaled) if protect else g + n * (1 - scaled)
            params[i][j][k] = (1 - lr * weight_decay) * params[i][j][k] - lr * shaken
        yield [
            torch.tensor(leaf, dtype=torch.float64).reshape(p.shape)
            for leaf, p in zip(params, tree.leaves(PARAMS), strict=True)
        ]


@pytest.mark.parametrize(("scope", "protect"), product(("global", "local"), (True, False)))
@pytest.mark.parametrize(
    "numbers", [(0.05, 0.9, 0.3, 0.1), (0.01, 0.0, 1.0, 0.0), (0.1, 0.999, 0.0, 0.01)]
)
def test_every_step_is_that_of_the_equations(scope, protect, numbers):
    tx = upgd(*numbers, scope=scope, protect=protect)
    for (params, _), expected in zip(steps(tx), naive(*numbers, scope, protect), strict=True):
        torch.testing.assert_close(tree.leaves(params), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scope", ["global", "local"])
def test_without_noise_or_protection_it_is_sgd_to_the_bit(scope):
    tx = upgd(0.1, sigma=0.0, weight_decay=0.01, scope=scope, protect=False)
    for (params, _), (plain, _) in zip(steps(tx), steps(sgd(0.1, weight_decay=0.01)), strict=True):
        torch.testing.assert_close(params, plain, rtol=0, atol=0)


@pytest.mark.parametrize(
    "gradient", [PARAMS, tree.zeros_like(PARAMS)], ids=["every step shrinks", "no gradient"]
)
def test_where_no_weight_is_of_use_all_count_alike_and_no_sign_turns(gradient):
    tx = upgd(0.1, 0.9, sigma=0.0, weight_decay=0.0)
    params, _ = next(steps(tx, [gradient]))
    torch.testing.assert_close(
        params, tree.sub(PARAMS, tree.scale(gradient, 0.05)), rtol=1e-12, atol=1e-15
    )


def test_the_more_useful_of_two_weights_moves_less():
    params, gradient = (
        {"w": torch.tensor([1.0, 2.0, -1.0])},
        {"w": torch.tensor([-1.0, -1.0, -1.0])},
    )
    moved, _ = next(steps(upgd(0.1, 0.9, sigma=0.0, weight_decay=0.0), [gradient], params))
    step = (moved["w"] - params["w"]).abs()
    assert step[1] < step[0] < step[2] < 0.1


def test_noise_differs_between_steps_weights_and_keys_and_has_the_deviation_asked_for():
    params = {"w": torch.zeros(4000, dtype=torch.float64)}
    tx, still = upgd(1.0, sigma=0.5, weight_decay=0.0, protect=False), tree.zeros_like(params)
    path = [p["w"] for p, _ in steps(tx, [still] * 3, params, tx.init(KEY, params))]
    draws = torch.stack([path[0], path[1] - path[0], path[2] - path[1]])
    other, _ = next(steps(tx, [still], params, tx.init(random.key(1), params)))
    every = torch.cat((draws.flatten(), other["w"]))
    assert len(every.unique()) == 16000
    assert (
        abs(draws.std() - 0.25) < 0.01 and abs(torch.corrcoef(draws)[0, 1]) < 0.06
    )  # a factor of 1/2: none is of use


def test_members_of_different_numbers_under_vmap_are_each_alone():
    txs = [
        upgd(lr, beta, sigma, lr)
        for lr, beta, sigma in ((0.1, 0.9, 0.1), (0.2, 0.0, 0.2), (0.05, 0.999, 0.0))
    ]
    state, params = tree.stack([tx.init(KEY, PARAMS) for tx in txs]), tree.stack([PARAMS] * 3)
    alone = zip(*(list(steps(tx)) for tx in txs), strict=True)
    for gradient, each in zip(GRADIENTS, alone, strict=True):
        updates, state = vmap(txs[0].update, (None, 0, 0, None))(gradient, state, params, CONTEXT)
        params = tree.add(params, updates)
        torch.testing.assert_close((params, state), tree.stack(each), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wrap", [lambda tx: tx, carry], ids=["by itself", "carried"])
def test_utilities_go_on_across_tasks_as_if_there_were_one(wrap):
    tx = wrap(upgd(0.1, sigma=0.1))
    params, state = list(steps(tx, GRADIENTS[:20]))[-1]
    resumed = list(steps(tx, GRADIENTS[20:], params, tx.begin_task(state, params)))[-1]
    torch.testing.assert_close(resumed, list(steps(tx))[-1], rtol=0, atol=0)


def test_float32_stays_float32_and_nothing_is_written_to():
    params, gradient, tx = like_params(0, torch.float32), like_params(1, torch.float32), upgd()
    state = tx.init(KEY, params)
    before = tree.clone((gradient, state, params))
    updates, new = tx.update(gradient, state, params, CONTEXT)
    torch.testing.assert_close((gradient, state, params), before, rtol=0, atol=0)
    assert [u.dtype for u in tree.leaves((updates, new))] == [
        p.dtype for p in tree.leaves((params, state))
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1}, "lr must be a number in .*, given -1"),
        ({"beta_utility": 1.0}, r"beta_utility must be a number in \[0, 1\), given 1.0"),
        ({"sigma": -0.5}, "sigma must be a number in .*, given -0.5"),
        ({"weight_decay": -0.5}, "weight_decay must be a number in .*, given -0.5"),
        ({"scope": "row"}, "scope must be one of global, local, given 'row'"),
    ],
)
def test_impossible_arguments_are_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        upgd(**arguments)
