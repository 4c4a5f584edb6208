"""The IDX format of the MNIST files, plain or gzipped, read without trust in the file.

A file that is not exactly as long as its header says is refused, before memory of the promised size
is allocated.
"""

import gzip
import math
import struct
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np

_GZIP_MAGIC = b"\x1f\x8b"
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_LARGEST = 2**34  # bytes; every data set of images in this format is far smaller
_DEFLATE_RATIO = 1032  # deflate makes at most this many bytes of one
_PIECE = 2**20  # bytes
# For each part of the data, the words of which a file name must hold one.
_SPLIT_WORDS = {"train": ("train",), "test": ("t10k", "test")}
_PART_WORDS = {"x": "images", "y": "labels"}


def read_idx(path: Path) -> np.ndarray:
    """The array in an IDX file or in a gzipped IDX file.

    Args:
        path: The file.

    Raises:
        ValueError: The file is not IDX, is truncated, is longer than its header says, or is not
            sound gzip.
        OSError: The file cannot be read.
    """
    with open(path, "rb") as plain:
        is_gzip = plain.read(2) == _GZIP_MAGIC
    try:
        with gzip.open(path, "rb") if is_gzip else open(path, "rb") as file:
            kind, shape = _read_header(path, file)
            size = math.prod(shape) * kind.itemsize
            _refuse_impossible_size(path, shape, size, is_gzip)
            data = _read_up_to(file, size + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is corrupt: {error}") from error
    if len(data) != size:
        found = "fewer" if len(data) < size else "more"
        raise ValueError(
            f"{path} is corrupt: its header promises {size} bytes of shape {shape},"
            f" and it holds {found}"
        )
    native = kind.newbyteorder("=")
    return np.frombuffer(data, kind).reshape(shape).astype(native)


def _read_header(
    path: Path, file: "gzip.GzipFile | BufferedReader"
) -> tuple[np.dtype, tuple[int, ...]]:
    """The type of the entries and the shape; `file` then stands at the first entry."""
    magic = file.read(4)
    is_idx = len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in _TYPES
    if not is_idx or not 1 <= magic[3] <= 4:
        start = magic.hex(" ") or "nothing"
        raise ValueError(
            f"{path} is not an IDX file: it begins with {start}, not 00 00 08 03 or alike"
        )
    num_axes = magic[3]
    sizes = file.read(4 * num_axes)
    if len(sizes) < 4 * num_axes:
        raise ValueError(f"{path} is truncated in its header")
    return np.dtype(_TYPES[magic[2]]), struct.unpack(f">{num_axes}I", sizes)


def _refuse_impossible_size(path: Path, shape: tuple[int, ...], size: int, is_gzip: bool) -> None:
    """Raise ValueError if a file of this length cannot hold `size` bytes."""
    ratio = _DEFLATE_RATIO if is_gzip else 1
    most = min(_LARGEST, path.stat().st_size * ratio)
    entries = math.prod(max(length, 1) for length in shape)
    if entries > _LARGEST or size > most:
        raise ValueError(f"{path} is truncated: its header promises {size} bytes of shape {shape}")


def _read_up_to(file: "gzip.GzipFile | BufferedReader", size: int) -> bytes:
    """At most `size` bytes of a file.

    They are read in pieces: one read of all would allocate them before the first is there.
    """
    pieces = []
    missing = size
    while missing > 0:
        piece = file.read(min(missing, _PIECE))
        if not piece:
            break
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def read_folder(root: Path) -> dict[str, np.ndarray]:
    """The arrays `train_x`, `train_y`, `test_x` and `test_y` of a folder of IDX files.

    The names of the files say `train`, or `t10k` or `test`; and `images` or `labels`.

    Args:
        root: The folder.

    Raises:
        ValueError: A file is missing or cannot be read as IDX.
    """
    arrays = {}
    for split, split_words in _SPLIT_WORDS.items():
        for part, part_word in _PART_WORDS.items():
            files = []
            for path in sorted(root.iterdir()):
                is_split = any(word in path.name for word in split_words)
                if part_word in path.name and is_split and _is_idx(path):
                    files.append(path)
            if not files:
                raise ValueError(
                    f"{root} holds no IDX file of {split} {part_word}:"
                    f" expected a name like {split_words[0]}-{part_word}-idx.gz"
                )
            arrays[f"{split}_{part}"] = read_idx(files[0])
    return arrays


def holds_idx(root: Path) -> bool:
    """Whether a folder holds an IDX file of images.

    Args:
        root: The folder, which need not exist.
    """
    if not root.is_dir():
        return False
    return any("images" in path.name and _is_idx(path) for path in root.iterdir())


def _is_idx(path: Path) -> bool:
    return path.is_file() and "idx" in path.name
