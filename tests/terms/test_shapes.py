"""The terms that keep the weights of a layer in shape: what each promises of them."""

import pytest
import torch

import clfunc as cl
from clfunc import terms
from clfunc.random import key, normal, permutation
from clfunc.testing import toy_stream
from clfunc.testing.laws import identical
from clfunc.testing.play import play


def network(hidden=(7, 7, 6)):
    scenario = toy_stream(paradigm="dil")
    return cl.mlp(scenario.inputs, hidden, scenario.head(), dtype=torch.float64), scenario


def pull_of(term, model):
    """The term's state and its penalty at the first parameters."""
    params = model.init(key(0))
    s = term.init(key(1), params, model)
    return params, s, term.penalty(s, params)


def test_parseval_holds_the_square_layers_alone():
    model, _ = network()
    params, s, found = pull_of(terms.parseval(0.3, scale=1.5), model)
    weight = params["hidden2"]["weight"]
    expected = 0.0
    for i in range(7):
        for j in range(7):
            product = sum(float(weight[i, k] * weight[j, k]) for k in range(7))
            expected += (product - 1.5 * (i == j)) ** 2
    assert list(s.identity) == ["hidden2"]
    assert abs(float(found) - 0.3 * (64 / 7) ** 2 * expected) < 1e-9


def test_parseval_at_strength_0_is_finetuning_to_the_bit():
    model, scenario = network()

    def trained(*parts):
        return play(cl.finetuning(model, cl.sgd(0.1, 0.9), terms=parts), scenario, key(0))[0]

    plain = trained()
    assert identical(trained(terms.parseval(0.0)), plain)
    assert not identical(trained(terms.parseval(0.01)), plain)


def test_parseval_pulls_nowhere_at_an_orthogonal_layer():
    model, _ = network()
    term = terms.parseval(0.3)
    params, s, _ = pull_of(term, model)
    square = torch.linalg.qr(normal(key(2), (7, 7), dtype=torch.float64)).Q * 2**0.5
    params["hidden2"] = params["hidden2"] | {"weight": square}
    assert float(term.penalty(s, params)) < 1e-20


def test_parseval_without_a_square_layer_is_refused():
    model, _ = network((7, 6))
    with pytest.raises(ValueError, match="parseval holds hidden layers as wide as the one before"):
        cl.finetuning(model, cl.sgd(0.1), terms=(terms.parseval(0.3),)).init(key(0))


def test_spectral_follows_the_largest_singular_values_of_all_layers():
    model, scenario = network()
    algorithm = cl.finetuning(model, cl.sgd(0.05), terms=(terms.spectral(0.01),))
    params, state = play(algorithm, scenario, key(0))
    s = state.parts.terms["spectral"]
    assert list(s.left) == ["hidden1", "hidden2", "hidden3", "head"]
    for group, left in s.left.items():
        weight = params[group]["weight"]
        sigma = left @ weight @ s.right[group]
        assert abs(sigma - torch.linalg.matrix_norm(weight, 2)) < 1e-3 * sigma


def test_spectral_takes_a_convolution_as_a_matrix_and_leaves_own_heads_free():
    head = cl.heads.together(cl.til(3, classes=2))
    model = cl.convnet((1, 4, 4), (5,), head, channels=(3,), dtype=torch.float64)
    params, s, _ = pull_of(terms.spectral(0.01), model)
    assert list(s.left) == ["conv1", "hidden1"]
    kernel = params["conv1"]["weight"]
    assert s.right["conv1"].shape == (kernel[0].numel(),)


def test_wasserstein_does_not_mind_which_weight_has_which_value():
    model, _ = network()
    term = terms.wasserstein(0.3)
    params, s, found = pull_of(term, model)
    assert float(found) == 0
    weight = params["hidden1"]["weight"]
    order = permutation(key(3), weight.numel())
    params["hidden1"] = params["hidden1"] | {"weight": weight.flatten()[order].view_as(weight)}
    assert float(term.penalty(s, params)) == 0
    params["hidden1"] = params["hidden1"] | {"weight": 2 * weight}
    assert abs(float(term.penalty(s, params)) - 0.3 * float((weight * weight).sum())) < 1e-12
