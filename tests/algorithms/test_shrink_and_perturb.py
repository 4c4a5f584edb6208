"""Shrink and perturb: its own equation, and the four published forms written out with loops over
single weights.
"""

import pytest
import torch

from clfunc import (
    adam,
    amnesiac,
    dil,
    finetuning,
    mlp,
    reduce_on_plateau,
    sgd,
    shrink_and_perturb,
    sweep,
    til,
    tree,
)
from clfunc.random import fold_in, key, normal, normal_like, split
from clfunc.testing.laws import identical
from clfunc.types import Batch, Task

STEPS, KEY = 50, key(0)


def net(head=None):
    return mlp(5, (4, 3), dil(3, 3) if head is None else head, dtype=torch.float64)


def batch(step):
    x = normal(fold_in(key(1), step), (6, 5), dtype=torch.float64)
    return Batch(x, torch.arange(6) % 3, torch.tensor(0), torch.ones(6, dtype=torch.float64))


def task(number):
    return Task(*torch.tensor([number, 4, 1]))


def numbers(tree_of_leaves):
    return [leaf.flatten().tolist() for leaf in tree.leaves(tree_of_leaves)]


def train(algorithm, steps=STEPS, tasks=1):
    """Parameters after each step, and what step and task they follow."""
    params, state = algorithm.init(KEY)
    for t in range(tasks):
        params, state = algorithm.begin_task(params, state, task(t))
        for step in range(steps):
            params, state, _ = algorithm.step(params, state, batch(t * steps + step))
            yield params
        params, state = algorithm.end_task(params, state)


def gradient(params, model, step):
    leaves = [leaf.clone().requires_grad_() for leaf in tree.leaves(params)]
    data = batch(step)
    logits = model.apply(tree.unflatten(leaves, tree.structure(params)), data.x, data.task).logits
    return [
        g.flatten().tolist()
        for g in torch.autograd.grad(torch.nn.functional.cross_entropy(logits, data.y), leaves)
    ]


LR, DECAY, SHRINK, SIGMA = 0.1, 0.02, 0.01, 0.03
NOISE_KEY = fold_in(KEY, 0)
# one weight after a step: from itself p, its gradient g, N(0, 1) n and a fresh network's f
WEIGHTS = {
    "Dohare": lambda p, g, n, f: p - LR * (g + DECAY * p) + SIGMA * n,
    "Kumar": lambda p, g, n, f: (1 - SHRINK) * (p - LR * g) + SIGMA * f,
    "Elsayed": lambda p, g, n, f: (1 - LR * DECAY) * p - LR * (g + SIGMA * n),
}
MADE = {
    "Dohare": lambda m: shrink_and_perturb(
        finetuning(m, sgd(LR, weight_decay=DECAY)), 0, SIGMA, every="step"
    ),
    "Kumar": lambda m: shrink_and_perturb(
        finetuning(m, sgd(LR)), SHRINK, SIGMA, noise="init", every="step"
    ),
    "Elsayed": lambda m: shrink_and_perturb(
        finetuning(m, sgd(LR, weight_decay=DECAY)), 0, LR * SIGMA, every="step"
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_each_published_form_of_every_step_is_its_row_of_settings(name):
    model = net()
    params, _ = finetuning(model, sgd(LR)).init(KEY)
    for step, after in enumerate(train(MADE[name](model))):
        n = numbers(normal_like(NOISE_KEY, params, at=step))
        f = numbers(finetuning(model, sgd(LR)).init(fold_in(NOISE_KEY, step))[0])
        sign = (
            -1 if name == "Elsayed" else 1
        )  # its noise stands with the gradient; one draw is as good as its opposite
        columns = zip(numbers(params), gradient(params, model, step), n, f, strict=True)
        expected = [
            [WEIGHTS[name](p, g, sign * n, f) for p, g, n, f in zip(*column, strict=True)]
            for column in columns
        ]
        for ours, theirs in zip(tree.leaves(after), expected, strict=True):
            torch.testing.assert_close(
                ours.flatten(), torch.tensor(theirs, dtype=torch.float64), rtol=1e-12, atol=1e-12
            )
        params = after


def test_at_each_task_but_the_first_the_weights_are_shrunk_and_perturbed_once():
    model = net()
    path = list(train(shrink_and_perturb(finetuning(model, sgd(LR)), 0.4, 0.01), steps=10, tasks=3))
    plain = list(train(finetuning(model, sgd(LR)), steps=10))
    assert identical(path[:10], plain)
    for t in (1, 2):
        before = numbers(path[10 * t - 1])
        noise = numbers(normal_like(NOISE_KEY, path[0], at=t))
        start = [
            [0.6 * p + 0.01 * n for p, n in zip(*pair, strict=True)]
            for pair in zip(before, noise, strict=True)
        ]
        leaves = [
            torch.tensor(w, dtype=torch.float64).reshape(p.shape)
            for w, p in zip(start, tree.leaves(path[0]), strict=True)
        ]
        params = tree.unflatten(leaves, tree.structure(path[0]))
        moved = [
            w - LR * torch.tensor(g, dtype=torch.float64).reshape(w.shape)
            for w, g in zip(leaves, gradient(params, model, 10 * t), strict=True)
        ]
        torch.testing.assert_close(tree.leaves(path[10 * t]), moved, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("noise", ["normal", "init"])
@pytest.mark.parametrize("every", ["task", "step"])
def test_nothing_shrunk_and_nothing_added_is_the_inner_algorithm_to_the_bit(noise, every):
    for tx in (sgd(0.1, 0.9), adam(0.01)):
        wrapped = shrink_and_perturb(finetuning(net(), tx), 0, 0, noise=noise, every=every)
        assert identical(list(train(wrapped, 10, 3)), list(train(finetuning(net(), tx), 10, 3)))


def test_a_head_that_waits_for_its_task_is_not_touched():
    algorithm = shrink_and_perturb(finetuning(net(til(3, 3)), sgd(LR)), 0.5, 0.1)
    params, state = algorithm.begin_task(*algorithm.init(KEY), task(0))
    params, state, _ = algorithm.step(params, state, batch(0))
    params, state = algorithm.end_task(params, state)
    bank = state.inner.head.bank.rows["head"]
    trained = params["head"]
    params, state = algorithm.begin_task(params, state, task(1))
    assert identical(params["head"], tree.index(bank, 1)) and identical(
        state.inner.head.bank.rows["head"], bank
    )
    params, state = algorithm.begin_task(*algorithm.end_task(params, state), task(0))
    assert identical(params["head"], trained)


@pytest.mark.parametrize("noise", ["normal", "init"])
def test_members_of_a_sweep_are_each_alone(noise):
    members = [
        shrink_and_perturb(finetuning(net(), sgd(LR)), s, e, noise=noise, every="step")
        for s, e in ((0, 0.1), (0.1, 0))
    ]
    keys = split(key(3))
    together, state = sweep(members).init(keys)
    alone = [member.init(k) for member, k in zip(members, keys, strict=True)]
    for step in range(STEPS):
        together, state, _ = sweep(members).step(together, state, tree.stack([batch(step)] * 2))
        alone = [m.step(*carry, batch(step))[:2] for m, carry in zip(members, alone, strict=True)]
        torch.testing.assert_close((together, state), tree.stack(alone), rtol=1e-12, atol=1e-12)
        together, state = tree.stack(alone)


@pytest.mark.compiled
def test_a_compiled_step_with_a_fresh_network_as_noise_is_the_eager_one():
    algorithm = shrink_and_perturb(
        finetuning(net(), sgd(LR)), SHRINK, SIGMA, noise="init", every="step"
    )
    params, state = algorithm.init(KEY)
    step = torch.compile(algorithm.step, fullgraph=True)
    for number in range(3):
        expected = algorithm.step(params, state, batch(number))
        torch.testing.assert_close(
            step(params, state, batch(number)), expected, rtol=1e-12, atol=1e-12
        )
        params, state, _ = expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shrink": 1.5}, r"shrink must be a number in \[0, 1\], given 1.5"),
        ({"sigma": -0.5}, "sigma must be a number in .*, given -0.5"),
        ({"noise": "uniform"}, "noise must be one of normal, init, given 'uniform'"),
        ({"every": "epoch"}, "every must be one of task, step, given 'epoch'"),
    ],
)
def test_impossible_arguments_are_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        shrink_and_perturb(finetuning(net(), sgd(LR)), **arguments)


def test_what_records_updates_goes_around_it_and_not_within():
    plain = finetuning(net(), sgd(LR))
    inner = amnesiac(plain, num_tasks=3)
    for within in (inner, reduce_on_plateau(inner)):
        with pytest.raises(
            ValueError,
            match=r"^shrink_and_perturb moves what amnesiac would have no record of: wrap am",
        ):
            shrink_and_perturb(within)
    assert amnesiac(shrink_and_perturb(plain), num_tasks=3).unlearn is not None
    assert shrink_and_perturb(amnesiac(plain, num_tasks=3, record=False)).unlearn is None
