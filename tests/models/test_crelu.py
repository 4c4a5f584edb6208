"""Concatenated relu: beside a module as anyone would write it, and in the wires, gates and dropout."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clfunc import dil, finetuning, mlp, mtl, sgd, til, tree
from clfunc.random import key, normal
from clfunc.types import Batch, Task
from clfunc.units import masks

widths = st.lists(st.integers(1, 5), min_size=1, max_size=3)
TASK = torch.tensor(0)


def net(hidden, head=None, **settings):
    head = dil(1, 3) if head is None else head
    model = mlp(5, hidden, head, activation="crelu", dtype=torch.float64, **settings)
    return model, model.init(key(0)), normal(key(1), (4, 5), dtype=torch.float64)


class CReLU(nn.Module):
    """All relu(x), then all relu(-x)."""

    def forward(self, x):
        return torch.relu(torch.cat((x, -x), 1))


def by_hand(hidden, params):
    """The same network as a torch module, its weights' columns in the module's order."""
    layers, inputs = [], 5
    for i, name in enumerate((*[f"hidden{i}" for i in range(1, len(hidden) + 1)], "head")):
        weight, bias = params[name]["weight"], params[name]["bias"]
        if i > 0:
            layers.append(CReLU())
            weight = torch.cat((weight[:, 0::2], weight[:, 1::2]), 1)
        layer = nn.Linear(inputs, len(bias), dtype=torch.float64)
        layer.load_state_dict({"weight": weight.clone(), "bias": bias.clone()})
        layers, inputs = [*layers, layer], 2 * len(bias)
    return nn.Sequential(*layers)


@given(widths)
def test_a_step_of_sgd_is_that_of_a_module_that_concatenates(hidden):
    model, params, x = net(hidden)
    y = torch.arange(4) % 3
    module = by_hand(hidden, params)
    logits = module(x)
    torch.testing.assert_close(model.apply(params, x, TASK).logits, logits, rtol=0, atol=1e-12)
    nn.functional.cross_entropy(logits, y).backward()
    torch.optim.SGD(module.parameters(), 0.1).step()
    algorithm = finetuning(model, sgd(0.1))
    _, state = algorithm.begin_task(*algorithm.init(key(0)), Task(TASK, TASK + 1, TASK + 1))
    moved, _, _ = algorithm.step(
        params, state, Batch(x, y, TASK, torch.ones(4, dtype=torch.float64))
    )
    expected = by_hand(hidden, moved).state_dict()
    torch.testing.assert_close(dict(module.state_dict()), dict(expected), rtol=0, atol=1e-12)


@given(widths)
def test_a_units_features_are_its_two_sides_of_which_one_is_zero(hidden):
    model, params, x = net(hidden)
    features = model.apply(params, x, TASK).features
    first = x @ params["hidden1"]["weight"].T + params["hidden1"]["bias"]
    torch.testing.assert_close(
        features["hidden1"][..., 0] - features["hidden1"][..., 1], first, rtol=0, atol=1e-12
    )
    for name, width in model.units.items():
        assert features[name].shape == (4, width, 2) and (features[name] >= 0).all()
        assert (features[name].amin(2) == 0).all()


@given(widths, st.sampled_from([til(3, 2), mtl(3, 2), dil(3, 2)]))
def test_the_wires_fit_and_masks_reach_both_inputs_of_a_unit(hidden, head):
    model, params, _ = net(hidden, head)
    assert {wire.path for wire in model.wires} == {(g, p) for g in params for p in params[g]} - {
        ("head", "bias")
    }
    used = {name: torch.arange(width) % 2 for name, width in model.units.items()}
    for wire in model.wires:
        leaf = params[wire.path[0]][wire.path[1]]
        assert wire.pre is None or leaf.shape[wire.pre_axis] == model.units[wire.pre] * wire.spread
        assert wire.post is None or leaf.shape[wire.post_axis] == model.units[wire.post]
        assert wire.reset == "zero" or leaf.abs().max() <= wire.bound == leaf.shape[-1] ** -0.5
        assert wire.spread == (2 if wire.pre else 1)
    expanded = masks.of_weights(model, params, used)
    for name, before in zip(list(model.units)[1:], model.units, strict=False):
        for i, j in torch.cartesian_prod(
            torch.arange(model.units[name]), torch.arange(2 * model.units[before])
        ):
            assert expanded[name]["weight"][i, j] == min(i % 2, (j // 2) % 2)


@given(widths, st.sampled_from(["post_act", "pre_act"]), st.data())
def test_a_unit_gated_to_zero_reaches_nothing_beyond_its_wires(hidden, position, data):
    model, params, x = net(hidden)
    group = data.draw(st.sampled_from(sorted(model.units)))
    unit = data.draw(st.integers(0, model.units[group] - 1))
    gates = {g: torch.ones(n, dtype=torch.float64) for g, n in model.units.items()}
    gates[group][unit] = 0.0
    gated = model.apply(params, x, TASK, gates=gates, gate_position=position)
    assert (gated.features[group][:, unit] == 0).all()
    wire = next(w for w in model.wires if w.pre == group)
    kept = (torch.arange(model.units[group]) != unit).double()
    weight = params[wire.path[0]]["weight"]
    cut = weight * masks.along(kept, wire.pre_axis, weight.ndim, wire.spread)
    ablated = model.apply(
        {**params, wire.path[0]: {**params[wire.path[0]], "weight": cut}}, x, TASK
    )
    torch.testing.assert_close(gated.logits, ablated.logits, rtol=0, atol=1e-12)


@given(widths, st.floats(0.1, 2.0))
def test_a_gate_scales_both_sides_before_the_activation_as_after(hidden, factor):
    model, params, x = net(hidden)
    gates = {g: torch.full((n,), factor, dtype=torch.float64) for g, n in model.units.items()}
    before, after = (
        model.apply(params, x, TASK, gates=gates, gate_position=p) for p in ("pre_act", "post_act")
    )
    torch.testing.assert_close(before.logits, after.logits, rtol=0, atol=1e-12)
    plain = model.apply(params, x, TASK).features["hidden1"]
    torch.testing.assert_close(after.features["hidden1"], plain * factor, rtol=0, atol=1e-12)


def test_dropout_drops_inputs_of_the_next_layer_and_leaves_the_features():
    model, params, x = net((400,), dropout_rate=0.3)
    plain = model.apply(params, x, TASK)
    dropped = model.apply(params, x, TASK, key=key(2))
    assert torch.equal(dropped.features["hidden1"], plain.features["hidden1"])
    eye = torch.eye(800, dtype=torch.float64)
    passing = {**params, "head": {"weight": eye, "bias": torch.zeros(800, dtype=torch.float64)}}
    seen = model.apply(passing, x, TASK, key=key(2)).logits
    flat = plain.features["hidden1"].reshape(4, 800)
    alive = flat > 0
    share = (seen[alive] > 0).double().mean()
    assert abs(share - 0.7) < 4 * (0.3 * 0.7 / int(alive.sum())) ** 0.5
    torch.testing.assert_close(seen[seen > 0], flat[seen > 0] / 0.7, rtol=1e-12, atol=0)


def test_an_unknown_activation_is_refused_with_crelu_among_those_there_are():
    with pytest.raises(
        ValueError, match=r"activation must be one of relu, .*, crelu, given 'step'"
    ):
        mlp(5, (3,), dil(1, 2), activation="step")


@pytest.mark.compiled
def test_a_compiled_step_is_the_eager_one():
    algorithm = finetuning(mlp(5, (6, 4), dil(1, 3), activation="crelu"), sgd(0.1, 0.9))
    params, state = algorithm.init(key(0))
    batch = Batch(normal(key(1), (8, 5)), torch.arange(8) % 3, TASK, torch.ones(8))
    eager, compiled = (
        algorithm.step(params, state, batch),
        torch.compile(algorithm.step, fullgraph=True)(params, state, batch),
    )
    tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6), eager, compiled)
