"""bfloat16 products: what is multiplied in it, what is not, and that hat's promise does not depend
on it.
"""

import pytest
import torch
from support.promises import play_with_promise

import clfunc as cl
from clfunc import tree
from clfunc.cli.command import main
from clfunc.models.heads import dil
from clfunc.random import key, normal
from clfunc.testing import play, toy_stream
from clfunc.testing.laws import distance
from clfunc.transforms import adamw, carry, sgd

IMAGE, TASK = (6, 6), torch.tensor(0)
NETWORKS = {
    "mlp": lambda inputs, head, **more: cl.mlp(inputs, (6, 5), head, **more),
    "convnet": lambda inputs, head, **more: cl.convnet(inputs, (5,), head, channels=(4, 3), **more),
    "resnet": lambda inputs, head, **more: cl.resnet(inputs, (4,), head, channels=(4, 5), **more),
}


def both(name, **more):
    """A network that multiplies in float32, the same in bfloat16, their parameters and some images."""
    plain, mixed = (
        NETWORKS[name](IMAGE, dil(1, 3), compute_dtype=d, **more) for d in (None, "bfloat16")
    )
    return plain, mixed, plain.init(key(0)), normal(key(1), (8, *IMAGE))


def short(x):
    """The nearest number with 8 significant bits, ties to even, as a float64."""
    mantissa, exponent = torch.frexp(x.to(torch.float64))
    return torch.ldexp((mantissa * 2**8).round() / 2**8, exponent)


@pytest.mark.parametrize("gate_position", ["post_act", "pre_act"])
def test_an_mlp_rounds_what_it_multiplies_and_sums_and_nothing_else(gate_position):
    _, mixed, params, x = both("mlp")
    gates = {name: torch.sigmoid(normal(key(2), (width,))) for name, width in mixed.units.items()}
    found = mixed.apply(params, x, TASK, gates=gates, gate_position=gate_position)
    for row in range(len(x)):
        h = x[row].flatten()
        for name in mixed.units:
            weight, bias = params[name]["weight"], params[name]["bias"]
            for unit in range(len(bias)):
                total = sum(
                    a * b
                    for a, b in zip(short(h).tolist(), short(weight[unit]).tolist(), strict=True)
                )
                gate = gates[name][unit].double()
                given = short(torch.tensor(total)) + bias[unit].double()
                value = (
                    torch.relu(given) * gate
                    if gate_position == "post_act"
                    else torch.relu(given * gate)
                )
                # a sum in float32 may round to the neighbouring bfloat16
                torch.testing.assert_close(
                    found.features[name][row, unit].double(), value, rtol=2**-7, atol=2**-8
                )
            h = found.features[name][row]
        logits = h @ params["head"]["weight"].T + params["head"]["bias"]
        torch.testing.assert_close(found.logits[row], logits, rtol=1e-6, atol=1e-6)


def test_a_gate_keeps_all_its_bits():
    _, mixed, params, x = both("mlp")
    gate = torch.tensor([1.0, 1 + 2**-20, 0.0, 1 / 3, 2**-30, 0.7])
    ones = {name: torch.ones(width) for name, width in mixed.units.items()}
    whole, gated = (
        mixed.apply(params, x, TASK, gates=g).features["hidden1"]
        for g in (ones, ones | {"hidden1": gate})
    )
    assert torch.equal(gated, whole * gate) and (whole > 0).any(0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_params_gradients_features_and_logits_stay_float32_and_near(name):
    plain, mixed, params, x = both(name)

    def loss(params, model):
        output = model.apply(params, x, TASK)
        return output.logits.square().mean(), output

    (gradient, (_, output)), (expected, (_, exact)) = (
        torch.func.grad_and_value(loss, has_aux=True)(params, model) for model in (mixed, plain)
    )
    assert {leaf.dtype for leaf in tree.leaves((mixed.init(key(0)), gradient, output))} == {
        torch.float32
    }
    torch.testing.assert_close(output.logits, exact.logits, rtol=0.02, atol=0.01)
    assert not torch.equal(output.logits, exact.logits)
    assert 0 < tree.global_norm(tree.sub(gradient, expected)) <= 0.02 * tree.global_norm(expected)


@pytest.mark.parametrize("make", [cl.hat, cl.cbp], ids=["hat", "cbp"])
def test_state_and_metrics_are_of_the_dtypes_that_they_are_without(make):
    scenario = toy_stream(num_tasks=2)
    more = (
        {"num_tasks": 2} if make is cl.hat else {"maturity_threshold": 2, "replacement_rate": 0.1}
    )
    seen = {}
    for compute_dtype in (None, "bfloat16"):
        model = NETWORKS["mlp"](scenario.inputs, scenario.head(), compute_dtype=compute_dtype)

        def call(name, f, *args, to=compute_dtype):
            result = f(*args)
            seen.setdefault(to, []).extend((n, leaf.dtype) for n, leaf in tree.items(result))
            return result

        play(make(model, sgd(0.1, 0.9), **more), scenario, key(0), call)
    assert seen[None] == seen["bfloat16"]


@pytest.mark.parametrize("norm", [None, "layer"])
@pytest.mark.parametrize("name", NETWORKS)
def test_hat_s_promise_holds(name, norm):
    scenario = toy_stream(num_tasks=3)
    more = {"norm": norm, "per_task_norm": norm is not None, "compute_dtype": "bfloat16"}
    model = NETWORKS[name](scenario.inputs, scenario.head(), **more)
    promise = play_with_promise(model, scenario, carry(adamw(0.05, weight_decay=0.1)))
    assert promise.frozen > 0 and len(promise.logits) == 3


@pytest.mark.parametrize("method", ["finetuning", "hat"])
def test_digits_are_learnt_as_well(method):
    scenario = cl.scenarios.permuted(cl.datasets.load("digits"), 1, key(4))
    accuracy = {}
    for compute_dtype in (None, "bfloat16"):
        model = cl.mlp(scenario.inputs, (32,), scenario.head(), compute_dtype=compute_dtype)
        tx = sgd(0.1, 0.9)
        algorithm = cl.hat(model, tx, num_tasks=1) if method == "hat" else cl.finetuning(model, tx)
        result = cl.run(algorithm, scenario, key(5), epochs=4, engine="eager", progress=False)
        accuracy[compute_dtype] = result.accuracy.diagonal()
    assert (accuracy[None] > 0.8).all()
    assert ((accuracy["bfloat16"] - accuracy[None]).abs() < 0.03).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_another_compute_dtype_is_refused(name):
    with pytest.raises(ValueError, match="compute_dtype must be one of bfloat16, given 'float16'"):
        NETWORKS[name](IMAGE, dil(1, 3), compute_dtype="float16")


def test_the_command_line_sets_it(tmp_path, capsys):
    run = ["run", "--engine", "eager", "--no-progress", "--tasks", "1", "--hidden", "8"]
    assert main([*run, "--set", "compute_dtype=bfloat16", "--out", str(tmp_path / "out")]) == 0
    assert '"compute_dtype": "bfloat16"' in (tmp_path / "out" / "config.json").read_text()
    assert main([*run, "--set", "compute_dtype=float16"]) == 2
    assert "compute_dtype must be one of bfloat16" in capsys.readouterr().err


@pytest.mark.compiled
@pytest.mark.parametrize(
    "name, make", [("mlp", cl.hat), ("convnet", lambda m, tx, num_tasks: cl.finetuning(m, tx))]
)
def test_a_compiled_sweep_is_the_eager_one_within_bfloat16(name, make):
    scenario = toy_stream(num_tasks=1)
    model = NETWORKS[name](scenario.inputs, scenario.head(), compute_dtype="bfloat16")
    algorithm = make(model, sgd(0.05), num_tasks=1)
    keys = cl.random.split(key(0), 2)
    eager, compiled = (
        cl.run(algorithm, scenario, keys, batch_size=20, engine=e, progress=False)
        for e in ("eager", "compile")
    )
    assert distance(eager.params, compiled.params) <= 0.02
    assert {leaf.dtype for leaf in tree.leaves(compiled.params)} == {torch.float32}
