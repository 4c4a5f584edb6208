"""Amnesiac unlearning against a list of every update, and the algebra of its records."""

import pytest
import torch

from clfunc import adam, amnesiac, carry, cbp, cil, dil, finetuning, hat, mlp, sgd, til
from clfunc.random import fold_in, key, normal
from clfunc.testing.laws import distance
from clfunc.types import Batch, Task

TASKS, CLASSES, STEPS = 3, 2, 4
HEADS = {"til": til, "cil": cil, "dil": dil}
OPTIMIZERS = {"sgd": lambda: sgd(0.1), "momentum": lambda: carry(sgd(0.1, 0.9)), "adam": lambda: adam(0.01)}
INNER = {
    "finetuning": finetuning,
    "hat": lambda m, tx: hat(
        m, tx, num_tasks=TASKS, s_max=20.0, freeze_head_after=None if m.head.paradigm == "til" else 2
    ),
    "cbp": lambda m, tx: cbp(m, tx, replacement_rate=0.2, maturity_threshold=2),
}
every_inner = pytest.mark.parametrize("inner", INNER)
every_optimizer = pytest.mark.parametrize("tx", OPTIMIZERS)
every_paradigm = pytest.mark.parametrize("paradigm", HEADS)


def make(inner="finetuning", tx="momentum", paradigm="til", dtype=torch.float64, **settings):
    model = mlp(5, (6, 4), HEADS[paradigm](TASKS, CLASSES), dtype=dtype)
    return amnesiac(INNER[inner](model, OPTIMIZERS[tx]()), num_tasks=TASKS, **settings)


def batch(task, step, paradigm="til", dtype=torch.float64):
    x = normal(fold_in(key(1), task, step), (6, 5), dtype=dtype)
    y = torch.arange(6) % CLASSES + (CLASSES * task if paradigm == "cil" else 0)
    return Batch(x, y, torch.tensor(task), torch.ones(6, dtype=dtype))


def begin(algorithm, params, state, task):
    return algorithm.begin_task(params, state, Task(*torch.tensor([task, STEPS, 1])))


def whole(algorithm, params, state):
    """All parameters there are: those that tasks share, and each task's own."""
    own = algorithm.own(params, state)
    return {group: part for group, part in params.items() if group not in own} | own


def train(algorithm, tasks=range(TASKS), paradigm="til", dtype=torch.float64, carry=None):
    params, state = carry or algorithm.init(key(0))
    for task in tasks:
        params, state = begin(algorithm, params, state, task)
        for step in range(STEPS):
            params, state, _ = algorithm.step(params, state, batch(task, step, paradigm, dtype))
        params, state = algorithm.end_task(params, state)
    return params, state


def asked(*tasks):
    return torch.tensor([task in tasks for task in range(TASKS)])


@every_paradigm
@every_optimizer
@every_inner
def test_unlearning_every_task_gives_the_start(inner, tx, paradigm):
    algorithm = make(inner, tx, paradigm)
    start = whole(algorithm, *algorithm.init(key(0)))
    params, state = train(algorithm, paradigm=paradigm)
    assert distance(whole(algorithm, params, state), start) > 1e-3
    assert distance(whole(algorithm, *algorithm.unlearn(params, state, asked(0, 1, 2))), start) < 1e-12
