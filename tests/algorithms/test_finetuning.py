"""Finetuning beside a plain PyTorch loop: nn.Module, torch.optim and F.cross_entropy over the same
batches.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clfunc import adam, adamw, carry, cil, dil, finetuning, mlp, sgd, til, tree
from clfunc.random import bits, fold_in, key, normal
from clfunc.types import Batch, Task

TASKS, CLASSES, INPUTS, HIDDEN, STEPS, BATCH = 3, 4, 6, (7, 5), 12, 9
HEADS = {"til": til, "cil": cil, "dil": dil}
OPTIMIZERS = {
    "sgd": (lambda: sgd(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "sgd weight_decay": (
        lambda: sgd(0.1, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.01),
    ),
    "momentum": (lambda: sgd(0.1, 0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    "nesterov": (
        lambda: sgd(0.1, 0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "adam": (lambda: adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    "adamw": (
        lambda: adamw(0.01, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    ),
}


class Network(nn.Module):
    """The network as anyone would write it, with a head for each task in TIL."""

    def __init__(self, params, heads):
        super().__init__()
        self.hidden1 = _linear(params["hidden1"])
        self.hidden2 = _linear(params["hidden2"])
        self.heads = nn.ModuleList([_linear(head) for head in heads])

    def forward(self, x, head):
        return self.heads[head](F.relu(self.hidden2(F.relu(self.hidden1(x)))))


def _linear(weights):
    layer = nn.Linear(*reversed(weights["weight"].shape), dtype=torch.float64)
    layer.load_state_dict({name: leaf.clone() for name, leaf in weights.items()})
    return layer


def _batch(paradigm, task, step):
    k = fold_in(key(3), task, step)
    y = bits(k, (BATCH,), at=1) % CLASSES + (CLASSES * task if paradigm == "cil" else 0)
    x = normal(k, (BATCH, INPUTS), dtype=torch.float64)
    return Batch(x, y, torch.tensor(task), torch.ones(BATCH, dtype=torch.float64))


def _train_functionally(paradigm, tx, order):
    algorithm = finetuning(
        mlp(INPUTS, HIDDEN, HEADS[paradigm](TASKS, CLASSES), dtype=torch.float64), tx
    )
    params, state = algorithm.init(key(0))
    for task in order:
        params, state = algorithm.begin_task(params, state, Task(*torch.tensor([task, STEPS, 1])))
        for step in range(STEPS):
            params, state, metrics = algorithm.step(params, state, _batch(paradigm, task, step))
        params, state = algorithm.end_task(params, state)
    heads = (
        [tree.index(state.head.bank.rows["head"], t) for t in range(TASKS)]
        if paradigm == "til"
        else [params["head"]]
    )
    return params, heads, metrics["loss"]


def _train_plainly(paradigm, make_optimizer, order, kept):
    algorithm = finetuning(
        mlp(INPUTS, HIDDEN, HEADS[paradigm](TASKS, CLASSES), dtype=torch.float64), sgd(0.1)
    )
    params, state = algorithm.init(key(0))
    heads = (
        [tree.index(state.head.bank.rows["head"], t) for t in range(TASKS)]
        if paradigm == "til"
        else [params["head"]]
    )
    network, seen = Network(params, heads), set()
    optimizer = make_optimizer(network.parameters())
    for task in order:
        if not kept:
            optimizer = make_optimizer(network.parameters())
        seen |= set(range(CLASSES * task, CLASSES * (task + 1)))
        for step in range(STEPS):
            batch = _batch(paradigm, task, step)
            logits = network(batch.x, task if paradigm == "til" else 0)
            if paradigm == "cil":
                unseen = torch.tensor([label not in seen for label in range(TASKS * CLASSES)])
                logits = logits.masked_fill(unseen, -torch.inf)
            loss = F.cross_entropy(logits, batch.y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return network, loss


def _assert_equal(functional, plain):
    (params, heads, loss), (network, plain_loss) = functional, plain
    pairs = [(params["hidden1"], network.hidden1), (params["hidden2"], network.hidden2)]
    pairs += list(zip(heads, network.heads, strict=True))
    torch.testing.assert_close(loss, plain_loss, rtol=0, atol=1e-12)
    for ours, theirs in pairs:
        for name in ("weight", "bias"):
            torch.testing.assert_close(ours[name], getattr(theirs, name), rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 2)], ids=["in order", "revisiting"])
@pytest.mark.parametrize("paradigm", HEADS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_finetuning_equals_a_plain_loop_with_a_fresh_optimizer_a_task(name, paradigm, order):
    ours, theirs = OPTIMIZERS[name]
    _assert_equal(
        _train_functionally(paradigm, ours(), order),
        _train_plainly(paradigm, theirs, order, kept=False),
    )


@pytest.mark.parametrize("paradigm", ["cil", "dil"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_carried_finetuning_equals_a_plain_loop_with_one_optimizer(name, paradigm):
    ours, theirs = OPTIMIZERS[name]
    order = (0, 1, 2)
    _assert_equal(
        _train_functionally(paradigm, carry(ours()), order),
        _train_plainly(paradigm, theirs, order, kept=True),
    )


def test_a_carried_optimizer_does_not_push_one_tasks_head_into_the_next():
    algorithm = finetuning(
        mlp(INPUTS, HIDDEN, til(TASKS, CLASSES), dtype=torch.float64), carry(sgd(0.1, 0.9))
    )
    params, state = algorithm.init(key(0))
    params, state = algorithm.begin_task(params, state, Task(*torch.tensor([0, STEPS, 1])))
    params, state, _ = algorithm.step(params, state, _batch("til", 0, 0))
    assert state.opt.trace["head"]["weight"].abs().sum() > 0
    params, state = algorithm.begin_task(
        *algorithm.end_task(params, state), Task(*torch.tensor([1, STEPS, 1]))
    )
    assert state.opt.trace["head"]["weight"].abs().sum() == 0
    assert state.opt.trace["hidden1"]["weight"].abs().sum() > 0


def test_an_example_of_weight_zero_does_not_count():
    algorithm = finetuning(mlp(INPUTS, HIDDEN, dil(1, CLASSES), dtype=torch.float64), sgd(0.1))
    params, state = algorithm.init(key(0))
    batch = _batch("dil", 0, 0)
    first = Batch(*(field[:5] if field.ndim else field for field in batch[:4]))
    weight = (torch.arange(BATCH) < 5).to(torch.float64)
    ignored = batch._replace(x=torch.where(weight[:, None] > 0, batch.x, 1e3), weight=weight)
    moved, expected = (
        algorithm.step(params, state, ignored)[0],
        algorithm.step(params, state, first)[0],
    )
    tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=1e-14), moved, expected)
