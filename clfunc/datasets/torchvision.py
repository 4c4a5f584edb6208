"""torchvision's data sets by name.

This is the only module that imports torchvision, and it does so only when one of them is loaded.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

# For each name: torchvision's class, and the argument by which it takes the split.
_NAMES = {
    "mnist": ("MNIST", "train"),
    "fashion-mnist": ("FashionMNIST", "train"),
    "kmnist": ("KMNIST", "train"),
    "qmnist": ("QMNIST", "train"),
    "usps": ("USPS", "train"),
    "cifar10": ("CIFAR10", "train"),
    "cifar100": ("CIFAR100", "train"),
    "svhn": ("SVHN", "split"),
}
names = tuple(_NAMES)
# Schemas of the operators that torchvision.datasets needs to be imported.
_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def load_arrays(name: str, root: Path) -> dict[str, np.ndarray]:
    """The arrays `train_x`, `train_y`, `test_x` and `test_y` of a torchvision data set.

    Args:
        name: One of `names`.
        root: The folder that holds the files; torchvision downloads them there if they are missing.

    Raises:
        ValueError: The files are missing and the download fails.
    """
    arrays = {}
    for split in ("train", "test"):
        data = _split_of(name, root, split)
        x = np.asarray(data.data)
        if x.ndim == 4 and x.shape[-1] == 3:
            x = x.transpose(0, 3, 1, 2)  # channels first
        arrays[f"{split}_x"] = x
        labels = data.labels if hasattr(data, "labels") else data.targets
        arrays[f"{split}_y"] = np.asarray(labels)
    return arrays


def _split_of(name: str, root: Path, split: str) -> Any:
    """torchvision's data set of one split."""
    datasets = _import_torchvision()
    class_name, argument = _NAMES[name]
    value = split if argument == "split" else split == "train"
    make = getattr(datasets, class_name)
    try:
        return make(str(root), download=True, **{argument: value})
    except Exception as error:  # a download can raise anything
        message = str(error).strip()
        reason = message.splitlines()[0] if message else type(error).__name__
        raise ValueError(
            f"{name} is not in {root} and could not be downloaded ({reason}):"
            " give --data-root, a folder that holds it"
        ) from error


_library: "torch.library.Library | None" = None


def _import_torchvision() -> ModuleType:
    """`torchvision.datasets`, also if torchvision was built for another torch.

    torchvision then cannot register its operators, and its import fails without their schemas.
    """
    global _library
    if _library is None and not hasattr(torch.ops.torchvision, "nms"):
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _OPERATORS:
            _library.define(schema)
    from torchvision import datasets

    return datasets
