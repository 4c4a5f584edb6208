"""The IDX format (LeCun's MNIST files), plain or gzipped, read without trusting it.

A file is refused before its promised size is allocated if it is not exactly as long as its header says.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_LARGEST = 2**34  # bytes; no data set of images in this format comes near

_DENSEST = 1032  # bytes that deflate can make of one


def read_idx(path: Path) -> np.ndarray:
    """The array in an IDX or IDX.gz file.

    Raises:
        ValueError: The file is not IDX, is truncated, is longer than its header says, or is not sound gzip.
        OSError: The file cannot be read.
    """
    with open(path, "rb") as plain:
        zipped = plain.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if zipped else open(path, "rb") as file:
            kind, shape = _header(path, file.read(4), file)
            size = math.prod(shape) * kind.itemsize
            if math.prod(max(n, 1) for n in shape) > _LARGEST or size > min(
                _LARGEST, path.stat().st_size * (_DENSEST if zipped else 1)
            ):
                raise ValueError(
                    f"{path} is truncated: its header promises {size} bytes of shape {shape}"
                )
            data = _read_up_to(file, size + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is corrupt: {error}") from error
    if len(data) != size:
        found = "fewer" if len(data) < size else "more"
        raise ValueError(
            f"{path} is corrupt: its header promises {size} bytes of shape {shape}, and it holds {found}"
        )
    return np.frombuffer(data, kind).reshape(shape).astype(kind.newbyteorder("="))


def _read_up_to(file, size: int) -> bytes:
    """At most `size` bytes, in pieces: asked for all at once, they would be allocated before one is read."""
    pieces, left = [], size
    while left > 0 and (piece := file.read(min(left, 2**20))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _header(path: Path, magic: bytes, file) -> tuple[np.dtype, tuple[int, ...]]:
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or not 1 <= magic[3] <= 4:
        raise ValueError(
            f"{path} is not an IDX file: it begins with {magic.hex(' ') or 'nothing'}, not 00 00 08 03 or alike"
        )
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise ValueError(f"{path} is truncated in its header")
    return np.dtype(_TYPES[magic[2]]), struct.unpack(f">{magic[3]}I", sizes)


def read_folder(root: Path) -> dict[str, np.ndarray]:
    """`train_x, train_y, test_x, test_y` from a folder whose file names say `train` or `t10k`/`test`, `images` or `labels`."""
    found = {}
    for split, words in (("train", ("train",)), ("test", ("t10k", "test"))):
        for part, word in (("x", "images"), ("y", "labels")):
            files = sorted(
                path
                for path in root.iterdir()
                if word in path.name and any(w in path.name for w in words) and _is_idx(path)
            )
            if not files:
                raise ValueError(
                    f"{root} holds no IDX file of {split} {word}: expected a name like {words[0]}-{word}-idx.gz"
                )
            found[f"{split}_{part}"] = read_idx(files[0])
    return found


def holds_idx(root: Path) -> bool:
    """Whether a folder has any IDX file of images."""
    return root.is_dir() and any("images" in path.name and _is_idx(path) for path in root.iterdir())


def _is_idx(path: Path) -> bool:
    return path.is_file() and "idx" in path.name
