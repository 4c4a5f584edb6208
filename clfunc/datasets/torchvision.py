"""torchvision's data sets by name. The only module that imports torchvision, and only when one is asked for."""

from pathlib import Path

import numpy as np
import torch

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


def load_arrays(name: str, root: Path) -> dict[str, np.ndarray]:
    """`train_x, train_y, test_x, test_y` of a torchvision data set under `root`, downloaded there if it is missing.

    Raises:
        ValueError: The files are not there and cannot be fetched.
    """
    datasets = _import_torchvision()
    class_name, how = _NAMES[name]
    arrays = {}
    for split in ("train", "test"):
        which = {"train": split == "train"} if how == "train" else {"split": split}
        try:
            data = getattr(datasets, class_name)(str(root), download=True, **which)
        except Exception as error:  # whatever a download can raise
            reason = (
                str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            )
            raise ValueError(
                f"{name} is not in {root} and could not be downloaded ({reason}): give --data-root, a folder that holds it"
            ) from error
        labels = data.labels if hasattr(data, "labels") else data.targets
        x = np.asarray(data.data)
        arrays[f"{split}_x"] = x.transpose(0, 3, 1, 2) if x.ndim == 4 and x.shape[-1] == 3 else x
        arrays[f"{split}_y"] = np.asarray(labels)
    return arrays


_fragment: "torch.library.Library | None" = None


def _import_torchvision():
    """torchvision.datasets, also where torchvision was built for another torch (its operators then have no schema)."""
    global _fragment
    if _fragment is None and not hasattr(torch.ops.torchvision, "nms"):
        _fragment = torch.library.Library("torchvision", "FRAGMENT")
        for schema in (
            "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        ):
            _fragment.define(schema)
    from torchvision import datasets

    return datasets
