"""The tests' networks: one row for each kind, small, on grey images of 6x6; and each as a case for the laws."""

import pytest
import torch

from clfunc import convnet, dil, finetuning, mlp, resnet
from clfunc.random import fold_in, key, normal
from clfunc.testing import Case

IMAGE = (6, 6)
NETS = {
    "mlp": lambda head=None, **more: mlp(IMAGE, (5, 4), head or dil(1, 3), **more),
    "mlp layer": lambda head=None, **more: mlp(
        IMAGE, (5, 4), head or dil(1, 3), norm="layer", **more
    ),
    "convnet": lambda head=None, **more: convnet(
        IMAGE, (5,), head or dil(1, 3), channels=(3, 4), **more
    ),
    "convnet layer": lambda head=None, **more: convnet(
        IMAGE, (5, 4), head or dil(1, 3), channels=(3, 4), norm="layer", **more
    ),
    "convnet group": lambda head=None, **more: convnet(
        IMAGE, (5,), head or dil(1, 3), channels=(16,), kernel=1, norm="group", **more
    ),
    "resnet": lambda head=None, **more: resnet(
        IMAGE, (5,), head or dil(1, 3), channels=(3, 4), blocks=2, **more
    ),
    "resnet layer": lambda head=None, **more: resnet(
        IMAGE, (), head or dil(1, 3), channels=(3, 4), norm="layer", **more
    ),
    "resnet group": lambda head=None, **more: resnet(
        IMAGE, (5,), head or dil(1, 3), channels=(16, 4), norm="group", **more
    ),
}
TASK = torch.tensor(0)


def images(seed, count=4, dtype=torch.float64):
    return normal(key(seed), (count, *IMAGE), dtype=dtype)


def noise_like(leaf, name, size=1.0):
    """Standard normal, a draw of its own for each name."""
    return size * normal(fold_in(key(99), sum(map(ord, name))), tuple(leaf.shape), dtype=leaf.dtype)


def _square(model):
    side = round(model.settings["inputs"] ** 0.5)
    return (side, side), model.head, getattr(torch, model.settings["dtype"].removeprefix("torch."))


def _case(name, build):
    def make(model, tx):
        image, head, dtype = _square(model)
        return finetuning(build(image, head, dtype), tx)

    return Case(name, make, is_finetuning=True)


def _of(factory, hidden, own=False, **more):
    def build(image, head, dtype):
        return factory(
            image, hidden, head, per_task_norm=own and head.owns != (), dtype=dtype, **more
        )

    return build


cases = (
    _case("convnet", _of(convnet, (6,), channels=(4, 3))),
    _case("resnet", _of(resnet, (6,), channels=(3, 4))),
    _case("mlp with norms of each task", _of(mlp, (8, 6), own=True, norm="layer")),
    _case(
        "convnet with norms of each task", _of(convnet, (6,), own=True, channels=(4,), norm="layer")
    ),
    _case(
        "resnet with norms of each task", _of(resnet, (), own=True, channels=(3, 4), norm="group")
    ),
)

# norms that a task has for itself add little to what is compiled: left to `scripts/test --all`
compiled_cases = [
    pytest.param(c, id=c.name, marks=pytest.mark.long if "norms" in c.name else ()) for c in cases
]
