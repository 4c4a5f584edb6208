"""Batches that mix tasks: each example has its own task's head, norms and gates."""

import pytest
import torch
from support.nets import IMAGE, NETS, images, noise_like

from clfunc import (
    cil,
    convnet,
    dil,
    finetuning,
    hat,
    memories,
    mlp,
    resnet,
    sgd,
    terms,
    til,
    tree,
)
from clfunc.models.heads import together
from clfunc.random import key
from clfunc.testing.compare import distance
from clfunc.types import Batch, Task

TASKS = torch.tensor([2, 0, 1, 0])
HEADS = {"til": til(3, (2, 3, 2)), "cil": cil(3, 2), "dil": dil(3, 2)}
WITH_NORMS = {
    "mlp": lambda head: mlp(IMAGE, (5, 4), head, norm="layer", per_task_norm=True),
    "convnet": lambda head: convnet(
        IMAGE, (5,), head, channels=(3,), norm="group", per_task_norm=True
    ),
    "resnet": lambda head: resnet(
        IMAGE, (), head, channels=(3, 4), norm="layer", per_task_norm=True
    ),
}


def drawn(model):
    """Params in which no two tasks have equal heads or norms."""
    params = model.init(key(0))
    return tree.map_items(lambda name, leaf: leaf + noise_like(leaf, name, 0.3), params)


def each_alone(apply, x, **gates):
    """The logits of each example in a batch of its own."""
    rows = []
    for row, task in enumerate(TASKS):
        own = {group: gate[row] for group, gate in gates.items()}
        rows.append(apply(x[row, None], task, own or None))
    return torch.cat(rows)


def using_hat(model, tx, **parts):
    """HAT on three tasks."""
    return hat(model, tx, num_tasks=3, **parts)


@pytest.mark.parametrize("paradigm", HEADS)
@pytest.mark.parametrize("name", WITH_NORMS)
def test_an_example_of_a_mixed_batch_has_its_own_tasks_head_and_norms(name, paradigm):
    model = WITH_NORMS[name](together(HEADS[paradigm]))
    params, x = drawn(model), images(1, dtype=torch.float32)
    assert params["norm"][next(iter(params["norm"]))]["weight"].shape[0] == 3
    mixed = model.apply(params, x, TASKS).logits
    alone = each_alone(lambda x, task, _: model.apply(params, x, task).logits, x)
    assert distance(mixed, alone) < 1e-6
    other = model.apply(params, x, (TASKS + 1) % 3).logits
    assert distance(mixed, other) > 1e-3


@pytest.mark.parametrize("position", ["post_act", "pre_act"])
@pytest.mark.parametrize("name", NETS)
def test_an_example_of_a_mixed_batch_passes_its_own_gates(name, position):
    model = NETS[name](together(til(3, 2)))
    params, x = drawn(model), images(1, dtype=torch.float32)
    gates = {}
    for group, width in model.units.items():
        gates[group] = noise_like(torch.zeros(4, width), group).sigmoid()

    def apply(x, task, gates):
        return model.apply(params, x, task, gates=gates, gate_position=position).logits

    assert distance(apply(x, TASKS, gates), each_alone(apply, x, **gates)) < 1e-6


@pytest.mark.parametrize("name", NETS)
def test_a_parked_head_refuses_a_batch_that_mixes_tasks(name):
    model = NETS[name](til(3, 2))
    with pytest.raises(ValueError, match="one that mixes tasks"):
        model.apply(model.init(key(0)), images(1, dtype=torch.float32), TASKS)


def test_every_forward_of_a_step_refuses_a_mixed_batch_under_a_parked_head():
    algorithm = finetuning(mlp(4, (3,), til(3, 2)), sgd(0.1))
    params, state = algorithm.init(key(0))
    batch = Batch(x=torch.zeros(4, 4), y=torch.zeros(4).long(), task=TASKS, weight=torch.ones(4))
    with pytest.raises(ValueError, match="mixes tasks"):
        algorithm.step(params, state, batch)
    with pytest.raises(ValueError, match="mixes tasks"):
        algorithm.predict(params, state, batch.x, TASKS)


@pytest.mark.parametrize("make", [finetuning, using_hat])
def test_predict_takes_a_task_an_example(make):
    model = mlp(4, (5,), together(til(3, (2, 3, 2))))
    replayed = {"terms": (terms.replay(2),), "memory": memories.reservoir(6)}
    algorithm = make(model, sgd(0.1), **replayed)
    params, state = algorithm.init(key(0))
    one = torch.tensor(1)
    for task in (0, 1):
        about = Task(id=torch.tensor(task), steps_per_epoch=one, epochs=one)
        params, state = algorithm.begin_task(params, state, about)
        params, state = algorithm.end_task(params, state)
    x = images(3)[:, 0, :4].float()
    mixed = algorithm.predict(params, state, x, TASKS)
    for row, task in enumerate(TASKS):
        alone = algorithm.predict(params, state, x[row, None], task)
        assert distance(mixed[row], alone[0]) < 1e-6
