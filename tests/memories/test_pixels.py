"""A memory of pixels keeps bytes, and trains what a memory of floats trains, bit for bit."""

import pytest
import torch
from support.streams import toy

import clfunc as cl
from clfunc import memories, terms
from clfunc.testing.laws import identical

DATA = toy("bytes", (30, 30, 30, 30), (5, 5, 5, 5), (1, 4, 4))
QUIET = {"engine": "eager", "progress": False, "batch_size": 16}
KEYS = cl.random.split(cl.random.key(1), 2)
KINDS = {"permuted": cl.scenarios.permuted, "split": cl.scenarios.split}


def trained(scenario, memory):
    model = cl.mlp(scenario.inputs, (6,), scenario.head(together=True))
    algorithm = cl.finetuning(model, cl.sgd(0.1, 0.9), terms=(terms.replay(8),), memory=memory)
    return cl.run(algorithm, scenario, KEYS, **QUIET)


@pytest.mark.parametrize("make", [memories.reservoir, memories.balanced])
@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_of_pixels_trains_the_same_bits(kind, make):
    scenario = KINDS[kind](DATA, 2, cl.random.key(0), paradigm="cil")
    floats = trained(scenario, make(20))
    pixels = trained(scenario, memories.pixels(make(20), *scenario.pixels))
    assert identical(floats.params, pixels.params)
    kept, whole = (result.state.parts.memory.rows for result in (pixels, floats))
    assert kept.x.dtype == torch.uint8 and whole.x.dtype == torch.float32
    assert identical(kept._replace(x=()), whole._replace(x=()))


def test_scenarios_without_whole_pixels_have_none():
    for made in (
        cl.scenarios.rotated(DATA, 2, cl.random.key(0)),
        cl.scenarios.slowly_changing_regression(2, cl.random.key(0)),
        cl.scenarios.combined((DATA, DATA), cl.random.key(0)),
    ):
        assert made.pixels is None


def test_a_spread_of_zero_is_refused():
    with pytest.raises(ValueError, match="std must be above 0, given 0"):
        memories.pixels(memories.reservoir(5), 1.0, 0.0)
