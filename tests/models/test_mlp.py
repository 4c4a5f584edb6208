"""Models: what they compute, how they are drawn, and that their wires say what feeds what."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clfunc import dil, finetuning, mlp, mtl, sgd, til
from clfunc.models.layers import activations
from clfunc.random import key, normal
from clfunc.testing.laws import identical
from clfunc.types import Batch

pytestmark = pytest.mark.typed
widths = st.lists(st.integers(1, 6), min_size=1, max_size=4)
TASK = torch.tensor(0)


@given(widths, st.sampled_from(sorted(activations)), st.integers(1, 5))
def test_every_mlp_is_the_sequence_of_its_layers(hidden, activation, classes):
    model = mlp((2, 3), hidden, dil(1, classes), activation=activation, dtype=torch.float64)
    params, x = model.init(key(0)), normal(key(1), (7, 2, 3), dtype=torch.float64)
    h, output = x.reshape(7, 6), model.apply(params, x, TASK)
    for name in model.units:
        h = activations[activation](h @ params[name]["weight"].T + params[name]["bias"])
        torch.testing.assert_close(output.features[name], h, rtol=0, atol=1e-12)
    logits = h @ params["head"]["weight"].T + params["head"]["bias"]
    torch.testing.assert_close(output.logits, logits, rtol=0, atol=1e-12)
    assert list(model.units.values()) == hidden == [f.shape[1] for f in output.features.values()]


def test_init_draws_from_torchs_own_linear_distribution():
    drawn = mlp(300, (400,), dil(1, 10), dtype=torch.float64).init(key(0))
    torch.manual_seed(0)
    layer = nn.Linear(300, 400, dtype=torch.float64)
    for name in ("weight", "bias"):
        ours, theirs = drawn["hidden1"][name], getattr(layer, name).detach()
        assert ours.shape == theirs.shape and ours.abs().max() <= 300**-0.5
        torch.testing.assert_close(ours.std(), theirs.std(), rtol=0.1, atol=0)
        assert abs(ours.mean()) < 4 * 300**-0.5 / (3 * ours.numel()) ** 0.5
    quantiles = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    expected = (2 * quantiles - 1) * 300**-0.5
    torch.testing.assert_close(
        drawn["hidden1"]["weight"].flatten().quantile(quantiles), expected, rtol=0, atol=4e-4
    )
    assert not identical(drawn, mlp(300, (400,), dil(1, 10), dtype=torch.float64).init(key(1)))


@given(widths, st.sampled_from([til(3, 2), mtl(3, 2), dil(3, 2)]))
def test_the_wires_cover_every_weight_and_say_what_feeds_it(hidden, head):
    model = mlp(5, hidden, head)
    params = model.init(key(0))
    wires = {wire.path: wire for wire in model.wires}
    assert set(wires) == {(g, p) for g in params for p in params[g]} - {("head", "bias")}
    for path, wire in wires.items():
        leaf = params[path[0]][path[1]]
        assert wire.pre is None or leaf.shape[wire.pre_axis] == model.units[wire.pre] * wire.spread
        assert wire.post is None or leaf.shape[wire.post_axis] == model.units[wire.post]
        assert leaf.abs().max() <= wire.bound or wire.reset == "zero"


@given(widths, st.data())
def test_a_unit_that_is_gated_to_zero_reaches_nothing_beyond_its_wires(hidden, data):
    model = mlp(5, hidden, dil(1, 3), activation="sigmoid", dtype=torch.float64)
    params, x = model.init(key(0)), normal(key(1), (4, 5), dtype=torch.float64)
    group = data.draw(st.sampled_from(sorted(model.units)))
    unit = data.draw(st.integers(0, model.units[group] - 1))
    gates = {g: torch.ones(n, dtype=torch.float64) for g, n in model.units.items()}
    gates[group][unit] = 0.0
    gated = model.apply(params, x, TASK, gates=gates)
    assert (gated.features[group][:, unit] == 0).all()
    wire = next(w for w in model.wires if w.pre == group)
    cut = params[wire.path[0]] | {"weight": params[wire.path[0]]["weight"].clone()}
    cut["weight"].select(wire.pre_axis, unit).zero_()
    ablated = model.apply(params | {wire.path[0]: cut}, x, TASK)
    torch.testing.assert_close(gated.logits, ablated.logits, rtol=0, atol=1e-12)


def test_dropout_zeroes_its_share_scales_the_rest_and_is_off_without_a_key():
    model = mlp(5, (4000,), dil(1, 3), dropout_rate=0.3, dtype=torch.float64)
    plain = mlp(5, (4000,), dil(1, 3), dtype=torch.float64)
    params, x = model.init(key(0)), normal(key(1), (2, 5), dtype=torch.float64)
    assert model.stochastic and not plain.stochastic
    assert identical(model.apply(params, x, TASK), plain.apply(params, x, TASK))
    linear = {
        **params,
        "head": {
            "weight": torch.eye(4000, dtype=torch.float64)[:3],
            "bias": torch.zeros(3).double(),
        },
    }
    hidden = model.apply(params, x, TASK).features["hidden1"][:, :3]
    seen = torch.stack([model.apply(linear, x, TASK, key=key(n)).logits for n in range(400)])
    kept = seen != 0
    torch.testing.assert_close(seen[kept], (hidden / 0.7).expand(seen.shape)[kept])
    share = kept[:, hidden != 0].double().mean()
    assert abs(share - 0.7) < 4 * (0.3 * 0.7 / kept[:, hidden != 0].numel()) ** 0.5


def test_a_step_with_dropout_uses_a_new_key_every_time():
    algorithm = finetuning(mlp(5, (50,), dil(1, 3), dropout_rate=0.5), sgd(0.0))
    params, state = algorithm.init(key(0))
    batch = Batch(normal(key(1), (8, 5)), torch.arange(8) % 3, TASK, torch.ones(8))
    losses = []
    for _ in range(3):
        params, state, metrics = algorithm.step(params, state, batch)
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"hidden": ()}, "hidden must hold at least one width"),
        ({"hidden": (3, 0)}, r"given \[3, 0\]"),
        ({"activation": "step"}, "activation must be one of relu, .*, given 'step'"),
        ({"dropout_rate": 1.0}, r"dropout_rate must be in \[0, 1\), given 1.0"),
    ],
)
def test_impossible_networks_are_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        mlp(**({"inputs": 5, "hidden": (3,), "head": dil(1, 2)} | arguments))


@pytest.mark.parametrize("activation", ["relu", "tanh", "leaky_relu", "sigmoid"])
def test_a_kaiming_start_is_torch_s_with_biases_of_zero(activation):
    model = mlp(40, (500,), til(1, 2), activation=activation, weight_init="kaiming")
    drawn = model.init(key(0))["hidden1"]
    slope = 0.01 if activation == "leaky_relu" else None
    bound = torch.nn.init.calculate_gain(activation, slope) * (3 / 40) ** 0.5
    assert (drawn["bias"] == 0).all() and 0.99 * bound < drawn["weight"].abs().max() <= bound
    assert next(wire.bound for wire in model.wires) == pytest.approx(bound)


def test_a_start_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="weight_init must be one of torch, kaiming, given 'he'"):
        mlp(4, (3,), til(1, 2), weight_init="he")
