"""`convnet`: the network that torch's own layers make, its pooling, its refusals, and that it
learns.
"""

import pytest
import torch
from torch import nn

from clfunc import adam, convnet, datasets, dil, finetuning, run, scenarios, tree
from clfunc.models.images import max_pooled
from clfunc.random import key, normal
from clfunc.testing.laws import identical

pytestmark = pytest.mark.typed
TASK = torch.tensor(0)


class Reference(nn.Module):
    """The same network of torch's layers, on images of 3x7x6: two blocks, two linear layers."""

    def __init__(self, norm):
        super().__init__()
        group = {
            None: lambda n: nn.Identity(),
            "layer": lambda n: nn.GroupNorm(1, n),
            "group": lambda n: _groups_of_8(n),
        }
        layer = nn.Identity if norm is None else lambda: nn.LayerNorm(5)
        self.conv1, self.norm1 = nn.Conv2d(3, 16, 5, padding=2), group[norm](16)
        self.conv2, self.norm2 = nn.Conv2d(16, 3, 5, padding=2), group[norm](3)
        self.hidden1, self.norm3 = nn.Linear(3, 5), layer()
        self.hidden2, self.norm4 = nn.Linear(5, 5), layer()
        self.head = nn.Linear(5, 4)
        self.double()

    def forward(self, x):
        h = nn.functional.max_pool2d(torch.relu(self.norm1(self.conv1(x))), 2)
        h = nn.functional.max_pool2d(torch.relu(self.norm2(self.conv2(h))), 2)
        h = torch.relu(self.norm3(self.hidden1(h.flatten(1))))
        return self.head(torch.relu(self.norm4(self.hidden2(h))))


def _groups_of_8(channels):
    return nn.GroupNorm({16: 2, 3: 1}[channels], channels)


PLACES = {"conv1": "norm1", "conv2": "norm2", "hidden1": "norm3", "hidden2": "norm4"}


def weights_of(reference, params):
    """`params` filled with the reference's tensors, or their gradients, by name."""
    norms = {("norm", place): getattr(reference, name) for place, name in PLACES.items()}
    plain = {(name,): getattr(reference, name) for name in (*PLACES, "head")}
    modules = {".".join(path): module for path, module in (plain | norms).items()}

    def of(name, leaf, gradient):
        place, _, part = name.rpartition(".")
        tensor = getattr(modules[place], part)
        return (tensor.grad if gradient else tensor.detach()).clone()

    return tuple(tree.map_items(lambda n, leaf, g=g: of(n, leaf, g), params) for g in (False, True))


@pytest.mark.parametrize("norm", [None, "layer", "group"])
def test_it_is_the_network_of_torchs_own_layers_in_value_and_gradient(norm):
    torch.manual_seed(0)
    reference, x = Reference(norm), normal(key(1), (4, 3, 7, 7), dtype=torch.float64)
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.3)
    expected = reference(x)
    expected.square().sum().backward()
    model = convnet(
        (3, 7, 7), (5, 5), dil(1, 4), channels=(16, 3), kernel=5, norm=norm, dtype=torch.float64
    )
    params, gradient = weights_of(reference, model.init(key(0)))
    torch.testing.assert_close(
        model.apply(params, x, TASK).logits, expected.detach(), rtol=1e-12, atol=1e-12
    )
    ours = torch.func.grad(lambda p: model.apply(p, x, TASK).logits.square().sum())(params)
    tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-11), ours, gradient)


@pytest.mark.parametrize("shape", [(2, 3, 6, 4), (1, 2, 7, 5), (2, 1, 2, 3)])
def test_pooling_takes_the_largest_of_each_square_and_leaves_out_an_odd_edge(shape):
    x = normal(key(3), shape, dtype=torch.float64)
    pooled = max_pooled(x)
    assert pooled.shape == (*shape[:2], shape[2] // 2, shape[3] // 2)
    for i in range(pooled.shape[2]):
        for j in range(pooled.shape[3]):
            square = x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(2)
            assert torch.equal(pooled[:, :, i, j], square.max(-1).values)


def test_grey_images_come_with_or_without_their_axis_of_channels():
    model, same = (convnet(shape, (3,), dil(1, 2), channels=(2,)) for shape in ((4, 6), (1, 4, 6)))
    params, x = model.init(key(0)), normal(key(1), (3, 4, 6))
    assert identical(params, same.init(key(0))) and model.settings == same.settings
    assert identical(model.apply(params, x, TASK), same.apply(params, x[:, None], TASK))


def test_features_are_the_gated_activations_before_pooling():
    model = convnet((5, 4), (3,), dil(1, 2), channels=(2, 3), dtype=torch.float64)
    params, x = model.init(key(0)), normal(key(1), (2, 5, 4), dtype=torch.float64)
    gates = {"conv1": torch.tensor([0.0, 0.5]), "conv2": torch.ones(3), "hidden1": torch.ones(3)}
    features = model.apply(params, x, TASK, gates=gates).features
    conv = nn.functional.conv2d(
        x[:, None], params["conv1"]["weight"], params["conv1"]["bias"], padding=1
    )
    expected = torch.relu(conv) * torch.tensor([0.0, 0.5])[:, None, None]
    torch.testing.assert_close(features["conv1"], expected, rtol=0, atol=1e-12)
    assert {name: tuple(f.shape) for name, f in features.items()} == {
        "conv1": (2, 2, 5, 4),
        "conv2": (2, 3, 2, 2),
        "hidden1": (2, 3),
    }


def test_init_is_torchs_own_distribution_and_dropout_is_of_the_linear_layers():
    model = convnet(
        (3, 8, 8), (400,), dil(1, 10), channels=(64,), dropout_rate=0.5, dtype=torch.float64
    )
    params, x = model.init(key(0)), normal(key(1), (8, 3, 8, 8), dtype=torch.float64)
    torch.manual_seed(0)
    theirs = {"conv1": nn.Conv2d(3, 64, 3, padding=1), "hidden1": nn.Linear(64 * 16, 400)}
    for name, module in theirs.items():
        for part in ("weight", "bias"):
            ours, drawn = params[name][part], getattr(module, part).detach().double()
            assert (
                ours.shape == drawn.shape
                and ours.abs().max() <= 1 / module.weight[0].numel() ** 0.5
            )
            torch.testing.assert_close(ours.std(), drawn.std(), rtol=0.25, atol=0)
    plain, dropped = (model.apply(params, x, TASK, key=k) for k in (None, key(2)))
    assert model.stochastic and identical(plain.features, dropped.features)
    assert not torch.equal(plain.logits, dropped.logits)


@pytest.mark.parametrize("norm", [None, "layer"])
def test_it_learns_two_tasks_of_digits(norm):
    scenario = scenarios.split(datasets.load("digits"), 2, key(4))
    model = convnet(scenario.inputs, (32,), scenario.head(), channels=(8, 16), norm=norm)
    result = run(
        finetuning(model, adam(3e-3)), scenario, key(5), epochs=4, engine="eager", progress=False
    )
    assert (result.accuracy.diagonal() > 0.8).all(), (
        f"accuracy {result.accuracy.tolist()} where chance is 0.2"
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"inputs": 64}, r"inputs must be an image, .*, given \(64,\)"),
        ({"inputs": (8, 0)}, r"inputs must be an image, .*, given \(8, 0\)"),
        ({"inputs": (1, 1, 8, 8)}, "inputs must be an image"),
        ({"inputs": (8, 3)}, "channels must hold at most 1 blocks for images of 8x3, given 2"),
        ({"channels": ()}, r"channels must hold at least one width of at least 1, given \[\]"),
        ({"channels": (4, 0)}, r"given \[4, 0\]"),
        ({"hidden": ()}, "hidden must hold at least one width"),
        ({"kernel": 4}, "kernel must be an odd number of at least 1, given 4"),
        ({"kernel": -1}, "given -1"),
        ({"activation": "step"}, "activation must be one of"),
        ({"norm": "batch"}, "norm must be layer, group or none, given 'batch'"),
        ({"per_task_norm": True}, "per_task_norm needs a norm"),
        ({"dropout_rate": 1.0}, r"dropout_rate must be in \[0, 1\), given 1.0"),
    ],
)
def test_impossible_networks_are_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        convnet(**({"inputs": (8, 8), "hidden": (3,), "head": dil(1, 2)} | arguments))
    assert "\n" not in str(error.value)


def test_every_argument_is_a_setting():
    model = convnet(
        (8, 8), (3,), dil(1, 2), channels=(2,), kernel=5, norm="group", dtype=torch.float64
    )
    names = (
        "hidden",
        "channels",
        "kernel",
        "activation",
        "norm",
        "per_task_norm",
        "dropout_rate",
        "dtype",
    )
    values = ([3], [2], 5, "relu", "group", False, 0.0, "torch.float64")
    assert tuple(model.settings[name] for name in names) == values and model.settings["inputs"] == [
        1,
        8,
        8,
    ]
