"""Schedules are torch's, stepped once a batch, and their own formulas."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.torch_optimisers import CONTEXT, KEY, PARAMS, STEPS, assert_follows_torch
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, StepLR
from torch.testing import assert_close

from clfunc import schedules
from clfunc.transforms import adamw, chain, sgd

SCHEDULES = {
    "constant": (schedules.constant(0.3, 7), lambda o: ConstantLR(o, 0.3, 7)),
    "constant for one": (schedules.constant(0.3, 1), lambda o: ConstantLR(o, 0.3, 1)),
    "step": (schedules.step(7), lambda o: StepLR(o, 7)),
    "step of one": (schedules.step(1, 0.9), lambda o: StepLR(o, 1, 0.9)),
    "cosine": (schedules.cosine(STEPS), lambda o: CosineAnnealingLR(o, STEPS)),
    "cosine to a floor": (
        schedules.cosine(STEPS, 0.25),
        lambda o: CosineAnnealingLR(o, STEPS, 0.25 * 0.1),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            sgd(0.1, 0.9, nesterov=True, weight_decay=0.1),
            lambda p: SGD(p, 0.1, 0.9, nesterov=True, weight_decay=0.1),
        ),
        (adamw(0.1), lambda p: AdamW(p, 0.1)),
    ],
    ids=["sgd", "adamw"],
)
def test_a_schedule_after_an_optimiser_is_torchs_scheduler_stepped_once_a_batch(name, ours, theirs):
    schedule, scheduler = SCHEDULES[name]
    assert_follows_torch(chain(ours, schedule), theirs, scheduler=scheduler)


@given(st.floats(0, 1), st.integers(1, 40), st.integers(1, 40), st.floats(0, 2))
def test_every_schedule_is_its_formula_at_every_count_also_after_its_end(
    floor, length, every, factor
):
    formulas = [
        (schedules.constant(factor, length), lambda i: factor if i < length else 1.0),
        (schedules.step(every, factor), lambda i: factor ** (i // every)),
        (
            schedules.cosine(length, floor),
            lambda i: (
                floor + (1 - floor) * (1 + math.cos(math.pi * i / length)) / 2
                if i < length
                else floor
            ),
        ),
    ]
    for tx, formula in formulas:
        state, one = tx.init(KEY, PARAMS), torch.ones(1, dtype=torch.float64)
        for i in range(STEPS):
            updates, state = tx.update({"w": one}, state, {"w": one}, CONTEXT)
            assert_close(updates["w"].item(), formula(i), rtol=1e-12, atol=1e-15)
