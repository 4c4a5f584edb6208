"""`resnet`: the network that torch's own layers make, its table of wires, its streams' gates, and
that it learns.
"""

import pytest
import torch
from torch import nn

from clfunc import adam, datasets, dil, finetuning, resnet, run, scenarios, tree
from clfunc.random import key, normal
from clfunc.testing.laws import identical

TASK = torch.tensor(0)


def _norm(norm, width):
    if norm is None:
        return nn.Identity()
    return nn.GroupNorm({16: 2, 8: 1, 3: 1}[width] if norm == "group" else 1, width)


class Block(nn.Module):
    def __init__(self, before, width, norm, down):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride=2 if down else 1, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(before, width, 1, stride=2) if down else None
        self.norm1, self.norm2, self.norm3 = (_norm(norm, width) for _ in range(3))

    def forward(self, x):
        identity = x if self.shortcut is None else self.norm3(self.shortcut(x))
        return torch.relu(self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))) + identity)


class Reference(nn.Module):
    """The same network of torch's layers: three stages of two blocks, one linear layer."""

    def __init__(self, norm):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 16, 3, padding=1), _norm(norm, 16)
        for s, (before, width) in enumerate([(16, 16), (16, 8), (8, 3)], 1):
            self.add_module(f"stage{s}_block1", Block(before, width, norm, s > 1))
            self.add_module(f"stage{s}_block2", Block(width, width, norm, False))
        self.hidden1, self.norm1 = nn.Linear(3, 4), nn.LayerNorm(4) if norm else nn.Identity()
        self.head = nn.Linear(4, 5)
        self.double()

    def forward(self, x):
        h = torch.relu(self.norm(self.stem(x)))
        for s in (1, 2, 3):
            for b in (1, 2):
                h = getattr(self, f"stage{s}_block{b}")(h)
        return self.head(torch.relu(self.norm1(self.hidden1(h.mean((2, 3))))))

    def layer(self, name):
        """The layer of this name, and its norm."""
        if name in ("stem", "hidden1", "head"):
            return getattr(self, name), {"stem": self.norm, "hidden1": self.norm1}.get(name)
        block, part = name.rsplit("_", 1)
        inside = getattr(self, block)
        return getattr(inside, part), {
            "conv1": inside.norm1,
            "conv2": inside.norm2,
            "shortcut": inside.norm3,
        }[part]


def weights_of(reference, params, gradient=False):
    def of(name, leaf):
        *path, part = name.split(".")
        module = reference.layer(path[-1])[len(path) - 1]
        return (
            getattr(module, part).grad.clone()
            if gradient
            else getattr(module, part).detach().clone()
        )

    return tree.map_items(of, params)


@pytest.mark.parametrize("norm", [None, "layer", "group"])
def test_it_is_the_network_of_torchs_own_layers_in_value_and_gradient(norm):
    torch.manual_seed(0)
    reference, x = Reference(norm), normal(key(1), (3, 2, 7, 10), dtype=torch.float64)
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.2)
    expected = reference(x)
    expected.square().sum().backward()
    model = resnet(
        (2, 7, 10), (4,), dil(1, 5), channels=(16, 8, 3), blocks=2, norm=norm, dtype=torch.float64
    )
    params = weights_of(reference, model.init(key(0)))
    assert sum(leaf.numel() for leaf in tree.leaves(params)) == sum(
        p.numel() for n, p in reference.named_parameters() if p.grad is not None
    )
    torch.testing.assert_close(
        model.apply(params, x, TASK).logits, expected.detach(), rtol=1e-12, atol=1e-12
    )
    ours = torch.func.grad(lambda p: model.apply(p, x, TASK).logits.square().sum())(params)
    theirs = weights_of(reference, params, gradient=True)
    tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11), ours, theirs)


def test_the_wires_are_those_of_the_drawing():
    model = resnet((6, 6), (5,), dil(1, 2), channels=(3, 4), blocks=2, norm="layer")
    weights = {w.path[0]: (w.pre, w.post) for w in model.wires if w.path[1:] == ("weight",)}
    assert weights == {
        "stem": (None, "stage1"),
        "stage1_block1_conv1": ("stage1", "stage1_block1"),
        "stage1_block1_conv2": ("stage1_block1", "stage1"),
        "stage1_block2_conv1": ("stage1", "stage1_block2"),
        "stage1_block2_conv2": ("stage1_block2", "stage1"),
        "stage2_block1_conv1": ("stage1", "stage2_block1"),
        "stage2_block1_conv2": ("stage2_block1", "stage2"),
        "stage2_block1_shortcut": ("stage1", "stage2"),
        "stage2_block2_conv1": ("stage2", "stage2_block2"),
        "stage2_block2_conv2": ("stage2_block2", "stage2"),
        "hidden1": ("stage2", "hidden1"),
        "head": ("hidden1", None),
    }
    ends = {w.path[-2]: (w.pre, w.post) for w in model.wires if w.path[-1] == "bias"}
    gains = {w.path[1]: (w.pre, w.post) for w in model.wires if w.path[0] == "norm"}
    assert (
        ends
        == gains
        == {layer: (None, post) for layer, (_, post) in weights.items() if layer != "head"}
    )
    assert model.units == {
        "stage1_block1": 3, "stage1_block2": 3, "stage1": 3, "stage2_block1": 4, "stage2_block2": 4, "stage2": 4, "hidden1": 5,
    }  # fmt: skip


@pytest.mark.parametrize("position", ["post_act", "pre_act"])
def test_a_streams_gate_stands_after_each_addition(position):
    model = resnet(
        (5, 5), (), dil(1, 2), channels=(2,), blocks=2, activation="tanh", dtype=torch.float64
    )
    params, x = model.init(key(0)), normal(key(1), (3, 5, 5), dtype=torch.float64)
    gates = {g: torch.linspace(0.2, 0.9, n, dtype=torch.float64) for g, n in model.units.items()}

    def conv(name, h):
        return nn.functional.conv2d(h, params[name]["weight"], params[name]["bias"], padding=1)

    def active(group, h):
        g = gates[group][:, None, None]
        return torch.tanh(h) * g if position == "post_act" else torch.tanh(h * g)

    stream = active("stage1", conv("stem", x[:, None]))
    for block in ("stage1_block1", "stage1_block2"):
        inner = active(block, conv(f"{block}_conv1", stream))
        stream = active("stage1", conv(f"{block}_conv2", inner) + stream)
    output = model.apply(params, x, TASK, gates=gates, gate_position=position)
    torch.testing.assert_close(output.features["stage1"], stream, rtol=0, atol=1e-12)
    torch.testing.assert_close(output.features["stage1_block2"], inner, rtol=0, atol=1e-12)
    logits = stream.mean((2, 3)) @ params["head"]["weight"].T + params["head"]["bias"]
    torch.testing.assert_close(output.logits, logits, rtol=0, atol=1e-12)


def test_grey_images_come_with_or_without_their_axis_of_channels():
    model = resnet((4, 6), (), dil(1, 2), channels=(2,))
    params, x = model.init(key(0)), normal(key(1), (3, 4, 6))
    assert identical(model.apply(params, x, TASK), model.apply(params, x[:, None], TASK))


@pytest.mark.parametrize("norm", [None, "group"])
def test_it_learns_two_tasks_of_digits(norm):
    scenario = scenarios.split(datasets.load("digits"), 2, key(4))
    model = resnet(scenario.inputs, (), scenario.head(), channels=(8, 16), norm=norm)
    result = run(
        finetuning(model, adam(1e-2)), scenario, key(5), epochs=6, engine="eager", progress=False
    )
    assert (result.accuracy.diagonal() > 0.7).all(), (
        f"accuracy {result.accuracy.tolist()} where chance is 0.2"
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"inputs": 64}, r"inputs must be an image, .*, given \(64,\)"),
        ({"channels": ()}, r"channels must hold at least one width of at least 1, given \[\]"),
        ({"channels": (4, 0)}, r"given \[4, 0\]"),
        ({"hidden": (0,)}, r"hidden must hold only widths of at least 1, given \[0\]"),
        ({"blocks": 0}, "blocks must be a number of at least 1, given 0"),
        ({"activation": "step"}, "activation must be one of"),
        ({"norm": "batch"}, "norm must be layer, group or none, given 'batch'"),
        ({"per_task_norm": True}, "per_task_norm needs a norm"),
    ],
)
def test_impossible_networks_are_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        resnet(**({"inputs": (8, 8), "hidden": (), "head": dil(1, 2)} | arguments))
    assert "\n" not in str(error.value)


def test_every_argument_is_a_setting():
    model = resnet(
        (8, 8), (), dil(1, 2), channels=(2,), blocks=2, norm="group", dtype=torch.float64
    )
    names = ("hidden", "channels", "blocks", "activation", "norm", "per_task_norm", "dtype")
    values = ([], [2], 2, "relu", "group", False, "torch.float64")
    assert tuple(model.settings[name] for name in names) == values and model.settings["inputs"] == [
        1,
        8,
        8,
    ]
