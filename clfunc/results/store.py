"""The files of a finished run, read without trust: a file may be cut short, damaged, edited or of
another program.

HDF5 hangs on some damaged files. So `results.nc` ends with the SHA-256 of the bytes before it,
which HDF5 ignores. It is checked before HDF5 reads the file. A file of another program has no such
end, and is read with the other checks alone.
"""

import hashlib
import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clfunc.results import files

if TYPE_CHECKING:
    import xarray

# The variables that every result has, with their axes.
_AXES = {
    "accuracy": ("run", "event", "tested"),
    "seed": ("run",),
    "average_accuracy": ("run", "event"),
    "backward_transfer": ("run", "event"),
    "forgetting": ("run", "event"),
}
_WORDS = (
    "kind",
    "unlearned",
    "forgets",
    "member",
    "forgotten",
)  # the variables that hold no numbers
_DESCRIPTION = ("algorithm", "scenario", "dataset", "paradigm")  # attributes

_TRAILER = re.compile(rb"\nsha256 ([0-9a-f]{64})\n")
_LENGTH = len(b"\nsha256 \n") + 64


def write(data: "xarray.Dataset", folder: Path) -> None:
    """Write `results.nc` with its checksum, whole or not at all."""

    def writer(temporary: str) -> None:
        data.to_netcdf(temporary, engine="h5netcdf")
        found = hashlib.sha256(Path(temporary).read_bytes()).hexdigest()
        with open(temporary, "ab") as file:
            file.write(f"\nsha256 {found}\n".encode())

    files.write(folder / "results.nc", writer)


def load(folder: Path) -> "xarray.Dataset":
    """The `results.nc` of a folder.

    Raises:
        ValueError: There is none, or no run writes such a file.
    """
    import xarray

    path = folder / "results.nc"
    if not path.is_file():
        raise ValueError(f"no results.nc in {folder}: give folders that --out named")
    try:
        _check_sum(path)
        _check_sizes(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged file may warn before it fails
            data = xarray.load_dataset(path, engine="h5netcdf")
            _check_axes(data)
            _check_kinds(data)
    except Exception as error:  # whatever a foreign file makes the reader raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} is not a sound file of results: {reason}") from error
    return data


def _check_sum(path: Path) -> None:
    """Raise ValueError if the file has a checksum that is not its own."""
    data = path.read_bytes()
    trailer = _TRAILER.fullmatch(data[-_LENGTH:])
    if trailer and hashlib.sha256(data[:-_LENGTH]).hexdigest() != trailer[1].decode():
        raise ValueError("its bytes are not those that were written")


def _check_sizes(path: Path) -> None:
    """Raise ValueError if a variable is larger than what the file stores of it, before memory is
    allocated for it.
    """
    import h5py

    with h5py.File(path) as file:
        for name, variable in file.items():
            if not isinstance(variable, h5py.Dataset):
                raise ValueError(f"{name} is not a variable")
            promised = variable.nbytes
            stored = variable.id.get_storage_size()
            is_axis = b"not a netCDF variable" in variable.attrs.get("NAME", b"")
            if promised > stored and not is_axis:
                raise ValueError(f"{name} promises {promised} bytes and holds {stored}")


def _check_axes(data: "xarray.Dataset") -> None:
    """Raise ValueError unless the variables that every result has are there, with their axes."""
    for name, axes in _AXES.items():
        is_there = name in data.variables and data[name].dims == axes
        if not is_there or not _holds_numbers(data, name):
            raise ValueError(f"{name} must be numbers over {', '.join(axes)}")
        if not data[name].size:
            raise ValueError(f"{name} is empty")


def _check_kinds(data: "xarray.Dataset") -> None:
    """Raise ValueError unless variables hold numbers, and the attributes words."""
    for name in map(str, data.variables):
        if name not in _WORDS and not _holds_numbers(data, name):
            raise ValueError(f"{name} holds no numbers")
    for name in _DESCRIPTION:
        if not isinstance(data.attrs.get(name), str):
            raise ValueError(f"its attribute {name} must be a word")


def _holds_numbers(data: "xarray.Dataset", name: str) -> bool:
    return np.issubdtype(data[name].dtype, np.number)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: There is no file, or it holds something else.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(
            f"no {path.name} in {path.parent}: give folders that --out named"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold one JSON object, given a {type(found).__name__}")
    return found
