"""`reduce_on_plateau` is torch's scheduler, run by run."""

import math
import re
from typing import NamedTuple

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.testing import assert_close

import clfunc
from clfunc import tree
from clfunc.algorithms import reduce_on_plateau
from clfunc.types import Algorithm, Batch, Task, scalar

KEY = clfunc.random.key(0)


class ToyState(NamedTuple):
    opt: dict
    lrs: torch.Tensor  # ends like a rate's name, and is none


def toy(*rates):
    """An algorithm that descends a slope of one, at each of its rates in turn."""

    def init(key):
        opt = {f"group{i}": {"lr": scalar(rate)} for i, rate in enumerate(rates)}
        return {"w": torch.zeros((), dtype=torch.float64)}, ToyState(opt, scalar(7.0))

    def step(params, state, batch):
        lr = sum(tree.leaves(state.opt))
        return {"w": params["w"] - lr}, state, {"loss": params["w"]}

    return Algorithm(init, step, lambda params, state, x, task: x, settings={"name": "toy"})


def rates_after(algorithm, losses):
    """The inner rates after each epoch."""
    params, state = algorithm.init(KEY)
    for loss in losses:
        params, state = algorithm.end_epoch(
            params, state, {"loss": torch.tensor(loss, dtype=torch.float64)}
        )
        assert state.inner.lrs == 7
        yield tree.map(float, tree.leaves(state.inner.opt))


LOSSES = st.lists(
    st.sampled_from([1.0, 0.9999, 0.99, 0.5, 0.4, 0.1, 0.0, -1.0, math.nan, math.inf]), max_size=30
)


@given(
    LOSSES,
    st.floats(0.1, 0.9),
    st.integers(0, 4),
    st.floats(0, 0.5),
    st.sampled_from([0.0, 0.05, 9.0]),
)
@example([1.0] * 12, 0.5, 1, 1e-4, 0.0)
def test_every_sequence_of_losses_lowers_the_rates_as_torchs_reduce_on_plateau(
    losses, factor, wait, threshold, floor
):
    rates = (0.1, 2.0)
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    optimiser = SGD(groups)
    scheduler = ReduceLROnPlateau(
        optimiser, factor=factor, patience=wait, threshold=threshold, min_lr=floor, eps=0
    )
    ours = reduce_on_plateau(toy(*rates), factor, wait, floor=floor, threshold=threshold)
    for loss, found in zip(losses, rates_after(ours, losses), strict=True):
        scheduler.step(loss)
        assert_close(found, [group["lr"] for group in optimiser.param_groups], rtol=1e-14, atol=0)


@given(
    LOSSES, st.floats(0.1, 1), st.integers(0, 4), st.floats(0, 0.5), st.sampled_from([0.0, 0.05])
)
def test_every_sequence_of_losses_lowers_the_rate_as_the_three_lines_of_the_docstring_say(
    losses, factor, patience, threshold, floor
):
    lr, best, waited = 0.1, math.inf, 0
    ours = reduce_on_plateau(toy(lr), factor, patience, floor=floor, threshold=threshold)
    for loss, (found,) in zip(losses, rates_after(ours, losses), strict=True):
        best, waited = (loss, 0) if loss < best * (1 - threshold) else (best, waited + 1)
        if waited > patience:
            lr, waited = max(lr * factor, floor), 0
        assert_close(found, lr, rtol=1e-14, atol=0)


@pytest.mark.parametrize("waits", [(0, 2), (3, 1), (0, 1, 2, 3)])
def test_runs_of_a_sweep_drop_each_at_its_own_epoch(waits):
    members, epochs = [reduce_on_plateau(toy(0.1), 0.5, wait) for wait in waits], 8
    alone = [[rate for (rate,) in rates_after(member, [1.0] * epochs)] for member in members]
    many, task = clfunc.sweep(members), torch.zeros(len(waits), dtype=torch.int64)
    batch = Batch(task[:, None, None], task[:, None], task, torch.ones(len(waits), 1))
    params, state = many.init(KEY)
    for epoch in range(epochs):
        params, state = many.end_epoch(params, state, {"loss": torch.ones(len(waits))})
        assert state.inner.opt["group0"]["lr"].tolist() == [rates[epoch] for rates in alone]
        params, state, _ = many.step(params, state, batch)
    assert params["w"].tolist() == pytest.approx([-sum(rates) for rates in alone], rel=1e-14)
    assert [rates.index(0.05) for rates in alone] == [1 + wait for wait in waits]


def test_a_task_starts_again_from_the_first_rates_and_forgets_the_best_loss():
    ours = reduce_on_plateau(toy(0.1, 2.0), 0.5, 0)
    params, state = ours.init(KEY)
    for loss in (0.1, 0.2, 0.3):
        params, state = ours.end_epoch(params, state, {"loss": torch.tensor(loss)})
    assert tree.map(float, tree.leaves(state.inner.opt)) == [0.025, 0.5]
    params, state = ours.begin_task(params, state, Task(*(torch.tensor(1) for _ in Task._fields)))
    assert tree.map(float, tree.leaves(state.inner.opt)) == [0.1, 2.0]
    params, state = ours.end_epoch(params, state, {"loss": torch.tensor(9.0)})
    assert tree.map(float, tree.leaves(state.inner.opt)) == [0.1, 2.0]


REFUSED = {
    "plateau factor": (lambda x: reduce_on_plateau(toy(0.1), x), 1.5),
    "plateau factor of none": (lambda x: reduce_on_plateau(toy(0.1), x), 0.0),
    "plateau patience": (lambda x: reduce_on_plateau(toy(0.1), patience=x), -1),
    "plateau floor": (lambda x: reduce_on_plateau(toy(0.1), floor=x), -0.5),
    "plateau threshold": (lambda x: reduce_on_plateau(toy(0.1), threshold=x), -0.5),
    "plateau threshold of one": (lambda x: reduce_on_plateau(toy(0.1), threshold=x), 1.0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_number_out_of_its_documented_range_is_refused_in_one_line_that_gives_it(name):
    make, number = REFUSED[name]
    with pytest.raises(
        ValueError, match=rf"^\w+ must be a number in .*, given {re.escape(repr(number))}$"
    ):
        make(number)
