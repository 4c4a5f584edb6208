"""The tests' networks: one row for each kind, small, on grey images of 6x6; and a case of each."""

import torch
from support.rows import some_at_length

from clfunc import convnet, dil, finetuning, mlp, resnet
from clfunc.random import fold_in, key, normal
from clfunc.testing import Case

IMAGE = (6, 6)
TASK = torch.tensor(0)


def _net(factory, hidden, **settings):
    """`(head, **more) -> Model`: a network of the table; the head is `dil(1, 3)` if not given."""

    def build(head=None, **more):
        return factory(IMAGE, hidden, head or dil(1, 3), **settings, **more)

    return build


NETS = {
    "mlp": _net(mlp, (5, 4)),
    "mlp layer": _net(mlp, (5, 4), norm="layer"),
    "convnet": _net(convnet, (5,), channels=(3, 4)),
    "convnet layer": _net(convnet, (5, 4), channels=(3, 4), norm="layer"),
    "convnet group": _net(convnet, (5,), channels=(16,), kernel=1, norm="group"),
    "resnet": _net(resnet, (5,), channels=(3, 4), blocks=2),
    "resnet layer": _net(resnet, (), channels=(3, 4), norm="layer"),
    "resnet group": _net(resnet, (5,), channels=(16, 4), norm="group"),
}


def images(seed, count=4, dtype=torch.float64):
    """Images of normal noise, `[count, 6, 6]`."""
    return normal(key(seed), (count, *IMAGE), dtype=dtype)


def noise_like(leaf, name, size=1.0):
    """Normal noise of the shape of a leaf, with a draw of its own for each name."""
    number = sum(map(ord, name))
    return size * normal(fold_in(key(99), number), tuple(leaf.shape), dtype=leaf.dtype)


def _case(name, factory, hidden, has_task_norms=False, **settings):
    """Finetuning of a network in place of the laws' own.

    The network has norms of each task if they are asked for and the head has groups of each task.
    """

    def make(model, tx):
        side = round(model.settings["inputs"] ** 0.5)
        dtype = getattr(torch, model.settings["dtype"].removeprefix("torch."))
        per_task_norm = has_task_norms and model.head.owns != ()
        network = factory(
            (side, side),
            hidden,
            model.head,
            per_task_norm=per_task_norm,
            dtype=dtype,
            **settings,
        )
        return finetuning(network, tx)

    return Case(name, make, is_finetuning=True)


cases = (
    _case("convnet", convnet, (6,), channels=(4, 3)),
    _case("resnet", resnet, (6,), channels=(3, 4)),
    _case("mlp with norms of each task", mlp, (8, 6), True, norm="layer"),
    _case("convnet with norms of each task", convnet, (6,), True, channels=(4,), norm="layer"),
    _case("resnet with norms of each task", resnet, (), True, channels=(3, 4), norm="group"),
)

# Norms of each task add little to what is compiled, so only `scripts/test --all` compiles them.
compiled_cases = some_at_length(cases, lambda case: "norms" in case.name)
