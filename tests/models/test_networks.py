"""What holds for every model: its wires, what a masked unit reaches, sweeps and compiled programs
of it.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.nets import NETS, TASK, cases, compiled_cases, images, noise_like

from clfunc import mtl, til, tree
from clfunc.random import key, split
from clfunc.testing import laws
from clfunc.testing.laws import TOLERANCE, distance, identical
from clfunc.testing.strategies import unit_masks
from clfunc.units.masks import along, of_weights

pytestmark = pytest.mark.usefixtures("no_figures")
names = st.sampled_from(sorted(NETS))
fitting = [
    law for law in laws.algorithm_laws if law.__name__ != "learns_two_real_tasks"
]  # permuted images are not for convolutions


@pytest.mark.parametrize("head", [None, til(3, 2), mtl(3, 2)], ids=["dil", "til", "mtl"])
@pytest.mark.parametrize("name", NETS)
def test_the_wires_name_every_weight_once_and_fit_it(name, head):
    model = NETS[name](head)
    params = model.init(key(0))
    leaves, wired = dict(tree.items(params)), [".".join(wire.path) for wire in model.wires]
    assert sorted(wired) == sorted(set(leaves) - {"head.bias"})
    for wire, leaf in zip(model.wires, (leaves[path] for path in wired), strict=True):
        if wire.pre is not None:
            assert leaf.shape[wire.pre_axis] == model.units[wire.pre] * wire.spread
        if wire.post is not None:
            assert leaf.shape[wire.post_axis] == model.units[wire.post]
        start = {
            "draw": leaf.abs().max() <= wire.bound,
            "zero": wire.post is not None,
            "one": (leaf == 1).all(),
        }
        assert start[wire.reset] and (wire.bound > 0) == (wire.reset == "draw")
    assert {wire.post for wire in model.wires} == {*model.units, None}
    output = model.apply(params, images(1, dtype=torch.float32), TASK)
    assert {group: feature.shape[1] for group, feature in output.features.items()} == model.units
    assert list(output.features) == list(model.units)


@given(
    names,
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(["post_act", "pre_act"]),
    st.data(),
)
def test_weights_without_two_used_ends_do_not_reach_the_gated_logits(name, dtype, position, data):
    model = NETS[name](dtype=dtype)
    params, x = model.init(key(0)), images(1, dtype=dtype)
    gates = data.draw(unit_masks(model.units))
    free = tree.map(lambda held: 1 - held == 1, of_weights(model, params, gates))
    free["head"] = {
        "weight": (1 - along(gates[list(gates)[-1]], 1, 2) == 1).expand(
            params["head"]["weight"].shape
        ),
        "bias": torch.zeros(3, dtype=torch.bool),
    }
    moved = tree.map_items(
        lambda n, leaf, f: torch.where(f, noise_like(leaf, n, 10.0), leaf), params, free
    )
    before, after = (
        model.apply(p, x, TASK, gates=gates, gate_position=position) for p in (params, moved)
    )
    assert torch.equal(before.logits, after.logits)
    for group, gate in gates.items():
        assert torch.equal(before.features[group], after.features[group])
        assert (before.features[group][:, gate == 0] == 0).all()


@pytest.mark.parametrize("name", NETS)
def test_weights_between_used_units_do_reach_the_gated_logits(name):
    model = NETS[name](activation="tanh", dtype=torch.float64)
    params, x = model.init(key(0)), images(1)
    gates = {group: (torch.arange(n) % 3 != 1).double() for group, n in model.units.items()}
    before = model.apply(params, x, TASK, gates=gates).logits
    for path, leaf in tree.items(of_weights(model, params, gates)):
        moved = tree.map_items(
            lambda n, p, held, path=path: (
                torch.where(held == 1, p + noise_like(p, n), p) if n == path else p
            ),
            params,
            of_weights(model, params, gates),
        )
        reached = not torch.equal(before, model.apply(moved, x, TASK, gates=gates).logits)
        assert reached == bool(leaf.any()), path


@given(names, st.data())
def test_the_output_does_not_depend_on_what_comes_from_a_unit_with_gate_0(name, data):
    model = NETS[name](activation="sigmoid", dtype=torch.float64)
    params, x = model.init(key(0)), images(1)
    group = data.draw(st.sampled_from(sorted(model.units)))
    unit = data.draw(st.integers(0, model.units[group] - 1))
    gates = {g: torch.ones(n, dtype=torch.float64) for g, n in model.units.items()}
    open_logits = model.apply(params, x, TASK, gates=gates).logits
    if "norm" not in params:
        torch.testing.assert_close(
            open_logits, model.apply(params, x, TASK).logits, rtol=0, atol=1e-12
        )
    gates[group][unit] = 0.0
    gated = model.apply(params, x, TASK, gates=gates)
    cut = tree.clone(params)
    for wire in model.wires:
        leaf = cut[wire.path[0]][wire.path[1]]
        if wire.pre == group:
            leaf.narrow(wire.pre_axis, unit * wire.spread, wire.spread).fill_(7.0)
        elif wire.post == group and len(wire.path) == 2:
            leaf.select(wire.post_axis, unit).fill_(7.0)
    assert not identical(cut, params) and not torch.equal(open_logits, gated.logits)
    assert torch.equal(gated.logits, model.apply(cut, x, TASK, gates=gates).logits)


@given(st.sampled_from([name for name in NETS if " " not in name]), st.data())
def test_a_unit_without_outgoing_weights_is_heard_by_nobody_whatever_its_incoming_ones(name, data):
    model = NETS[name](activation="sigmoid", dtype=torch.float64)
    params, x = model.init(key(0)), images(1)
    group = data.draw(st.sampled_from(sorted(model.units)))
    unit = data.draw(st.integers(0, model.units[group] - 1))
    for wire in model.wires:
        if wire.pre == group:
            params[wire.path[0]][wire.path[1]].narrow(
                wire.pre_axis, unit * wire.spread, wire.spread
            ).zero_()
    before = model.apply(params, x, TASK)
    for wire in model.wires:
        if wire.post == group:
            params[wire.path[0]][wire.path[1]].select(wire.post_axis, unit).fill_(0.7)
    after = model.apply(params, x, TASK)
    assert torch.equal(before.logits, after.logits)
    assert not torch.equal(before.features[group][:, unit], after.features[group][:, unit])


@pytest.mark.parametrize("name", NETS)
def test_gates_of_one_change_nothing_and_soft_gates_multiply_what_they_gate(name):
    model = NETS[name](activation="tanh", dtype=torch.float64)
    params, x = model.init(key(0)), images(1)
    plain = model.apply(params, x, TASK)
    group = next(g for g in model.units if g.startswith(("hidden1", "conv1", "stage1_block1")))
    for position in ("post_act", "pre_act"):
        gates = {g: torch.ones(n, dtype=torch.float64) for g, n in model.units.items()}
        assert identical(model.apply(params, x, TASK, gates=gates, gate_position=position), plain)
        gates[group][:] = 0.5
        half = model.apply(params, x, TASK, gates=gates, gate_position=position).features[group]
        if "norm" not in params:
            whole = plain.features[group]
            expected = whole / 2 if position == "post_act" else torch.tanh(torch.atanh(whole) / 2)
            torch.testing.assert_close(half, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", NETS)
def test_two_networks_at_once_are_each_of_them_alone(name, dtype):
    model, x = NETS[name](dtype=dtype), torch.stack([images(s, dtype=dtype) for s in (1, 2)])

    def value_and_gradient(params, x):
        def total(params):
            output = model.apply(params, x, TASK)
            return output.logits.square().sum(), output

        return torch.func.grad(total, has_aux=True)(params)

    params = torch.func.vmap(model.init)(split(key(0), 2))
    together = torch.func.vmap(value_and_gradient)(params, x)
    for i in range(2):
        alone = value_and_gradient(tree.index(params, i), x[i])
        assert distance(alone, tree.index(together, i)) <= TOLERANCE[dtype]


@pytest.mark.parametrize("law", fitting, ids=lambda law: law.__name__)
@pytest.mark.parametrize("case", cases, ids=lambda case: case.name)
def test_finetuning_of_every_network_obeys(case, law):
    law(case)


@pytest.mark.compiled
@pytest.mark.parametrize("law", laws.compiled_laws, ids=lambda law: law.__name__)
@pytest.mark.parametrize("case", compiled_cases)
def test_finetuning_of_every_network_compiled_obeys(case, law):
    law(case)
