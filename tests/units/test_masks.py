"""Masks of units become masks of weights: by loops over connections, for every shape of wire."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import clfunc as cl
from clfunc import tree
from clfunc.models.heads import til
from clfunc.testing.strategies import unit_masks
from clfunc.types import Wire
from clfunc.units import masks

UNITS = {"a": torch.tensor([0.0, 1.0, 0.25]), "b": torch.tensor([1.0, 0.5])}
NAIVE = {"min": min, "max": max, "mean": lambda x, y: (x + y) / 2}
WIRES = {
    "linear": (Wire(("w",), "a", "b"), (2, 3)),
    "first layer": (Wire(("w",), None, "b"), (2, 5)),
    "bias": (Wire(("w",), None, "b", pre_axis=None), (2,)),
    "conv": (Wire(("w",), "a", "b"), (2, 3, 3, 3)),
    "conv, flatten, linear": (Wire(("w",), "a", "b", spread=4), (2, 12)),
    "residual": (Wire(("w",), "a", "a"), (3, 3, 1, 1)),
    "transposed": (Wire(("w",), "a", "b", pre_axis=0, post_axis=1), (3, 2)),
}


def naive(wire, shape, aggregate):
    """One connection at a time."""
    mask = torch.zeros(shape)
    for at in (
        torch.cartesian_prod(*(torch.arange(n) for n in shape)).reshape(-1, len(shape)).tolist()
    ):
        post = UNITS[wire.post][at[wire.post_axis]].item()
        value = post
        if wire.pre is not None:
            value = NAIVE[aggregate](post, UNITS[wire.pre][at[wire.pre_axis] // wire.spread].item())
        mask[tuple(at)] = value
    return mask


@pytest.mark.parametrize("aggregate", NAIVE)
@pytest.mark.parametrize("kind", WIRES)
def test_a_weight_s_mask_is_of_the_two_units_it_joins(kind, aggregate):
    wire, shape = WIRES[kind]
    found = masks.of_weight(wire, len(shape), UNITS, aggregate)
    assert torch.equal(found.expand(shape), naive(wire, shape, aggregate))


def test_the_head_s_weights_have_no_mask_and_an_unknown_aggregation_is_refused():
    assert masks.of_weight(Wire(("head", "weight"), "a", None, post_axis=None), 2, UNITS) is None
    with pytest.raises(ValueError, match="aggregate must be one of min, max, mean, given 'sum'"):
        masks.of_weight(WIRES["linear"][0], 2, UNITS, "sum")


@given(data=st.data(), hidden=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_a_weight_with_a_free_end_is_free(data, hidden):
    model = cl.mlp(3, hidden, til(2, 2))
    params = model.init(cl.random.key(0))
    units = data.draw(unit_masks(model.units))
    whole = dict(tree.items(masks.of_weights(model, params, units)))
    assert {name: m.shape for name, m in whole.items()} == {
        name: p.shape for name, p in tree.items(params)
    }
    for wire in model.wires:
        mask = whole[masks.name_of(wire)]
        if wire.post is None:
            assert (mask == 0).all()
            continue
        assert (mask[units[wire.post] == 0] == 0).all()
        if wire.pre is not None:
            assert (mask[:, units[wire.pre] == 0] == 0).all()
            assert (mask[units[wire.post] == 1][:, units[wire.pre] == 1] == 1).all()
