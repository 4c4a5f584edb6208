"""What a run has left in its folder, read without trusting it: a file may be cut short, spoilt, edited or another's.

HDF5 hangs on some spoilt files. So `results.nc` ends with the SHA-256 of what comes before, which HDF5 does not mind; it is
checked before HDF5 sees the file. A file without it (another program's) is read with the other checks alone.
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

_AXES = {"accuracy": ("run", "event", "tested"), "seed": ("run",)}
_AXES |= dict.fromkeys(("average_accuracy", "backward_transfer", "forgetting"), ("run", "event"))
_WORDS = ("kind", "unlearned", "member", "forgotten")  # the variables that hold no numbers
_DESCRIBED = ("algorithm", "scenario", "dataset", "paradigm")

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
        ValueError: There is none, or it is not what a run writes.
    """
    import xarray

    path = folder / "results.nc"
    if not path.is_file():
        raise ValueError(f"no results.nc in {folder}: give folders that --out named")
    try:
        _check_sum(path)
        _check_promises(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a spoilt file may warn before it fails
            data = xarray.load_dataset(path, engine="h5netcdf")
            _check_axes(data)
    except Exception as error:  # whatever a foreign file makes the reader raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} is not a sound file of results: {reason}") from error
    return data


def _check_sum(path: Path) -> None:
    """Raise ValueError if the file is not what its checksum was made of."""
    held = path.read_bytes()
    told = _TRAILER.fullmatch(held[-_LENGTH:])
    if told and hashlib.sha256(held[:-_LENGTH]).hexdigest() != told[1].decode():
        raise ValueError("its bytes are not those that were written")


def _check_promises(path: Path) -> None:
    """Raise ValueError if a variable says it holds more than is in the file, before memory is taken for it."""
    import h5py

    with h5py.File(path) as file:
        for name, held in file.items():
            if not isinstance(held, h5py.Dataset):
                raise ValueError(f"{name} is not a variable")
            if (
                held.nbytes > held.id.get_storage_size()
                and b"not a netCDF variable" not in held.attrs.get("NAME", b"")
            ):
                raise ValueError(
                    f"{name} promises {held.nbytes} bytes and holds {held.id.get_storage_size()}"
                )


def _check_axes(data: "xarray.Dataset") -> None:
    """Raise ValueError unless the variables that all results have are there, with their axes and kinds."""
    for name, axes in _AXES.items():
        if (
            name not in data.variables
            or data[name].dims != axes
            or not np.issubdtype(data[name].dtype, np.number)
        ):
            raise ValueError(f"{name} must be numbers over {', '.join(axes)}")
        if not data[name].size:
            raise ValueError(f"{name} is empty")
    for name in map(str, data.variables):
        if not np.issubdtype(data[name].dtype, np.number) and name not in _WORDS:
            raise ValueError(f"{name} holds no numbers")
    for name in _DESCRIBED:
        if not isinstance(data.attrs.get(name), str):
            raise ValueError(f"its attribute {name} must be a word")


def read_json(path: Path) -> dict[str, Any]:
    """A file of one JSON object.

    Raises:
        ValueError: There is none, or it is not one.
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
