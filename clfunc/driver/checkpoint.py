"""Checkpoints: a folder keeps the last two of a run.

Each is a `.safetensors` file of tensors and a `.json` file that describes them.
`checkpoint` is the newest and `checkpoint.previous` the one before it. The JSON holds the size and
SHA-256 of the file of tensors, and a SHA-256 of its own. So a file that was cut short, edited or
put there by something else is noticed before it is read. Files are replaced whole, in an order in
which one of the two is good at every instant: a run may be killed at any time.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clfunc.results.files import write, write_text

NEWEST, PREVIOUS = "checkpoint", "checkpoint.previous"
_FORMAT = 1
_SHOWN = 40  # characters of a value in a message

Description = dict[str, Any]  # what the JSON of a checkpoint holds


class Refused(ValueError):
    """There are checkpoints, and a run cannot go on from them."""


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, and left a checkpoint."""


def save(out: Path, tensors: Mapping[str, Tensor], description: Description) -> None:
    """Make this the newest checkpoint of the folder `out`, and the newest the previous one.

    Raises:
        OSError: It cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    stored = {name: _on_cpu(leaf) for name, leaf in tensors.items()}
    # the number of the process, so that two processes with one folder do not share the file
    temporary = out / f".{NEWEST}.{os.getpid()}"
    try:
        try:
            save_file(stored, temporary)
        except SafetensorError as error:
            raise OSError(f"cannot write a checkpoint to {out}: {error}") from error
        body = description | {
            "format": _FORMAT,
            "bytes": temporary.stat().st_size,
            "sha256": _digest_file(temporary),
        }
        text = json.dumps(body | {"checksum": _digest(body)}, indent=2) + "\n"
        for suffix in (".safetensors", ".json"):
            newest = out / (NEWEST + suffix)
            if newest.exists():
                write(out / (PREVIOUS + suffix), partial(_same_file, newest))
        os.replace(temporary, out / f"{NEWEST}.safetensors")
        write_text(out / f"{NEWEST}.json", text)
    finally:
        temporary.unlink(missing_ok=True)


def load(
    out: Path, check: Callable[[Description], None], warn: Callable[[str], None]
) -> tuple[dict[str, Tensor], Description] | None:
    """The tensors of the newest good checkpoint in `out`, on the CPU, and its description.

    It is None if there are no checkpoints.

    `check` gets the description before a tensor is read, and raises ValueError if it is wrong.
    `warn` gets a line if the newest checkpoint is not usable and the previous one is.

    Raises:
        Refused: There are checkpoints, and none is good.
    """
    wrong = []
    for name in (NEWEST, PREVIOUS):
        files = [out / (name + suffix) for suffix in (".json", ".safetensors")]
        if not any(path.exists() for path in files):
            continue
        try:
            tensors, description = read(out, name, check)
        except Refused:
            raise
        except ValueError as error:
            wrong.append(f"{name} in {out} is not usable ({error})")
            continue
        if wrong:
            warn(f"{wrong[0]}: going on from {name}, which is")
        return tensors, description
    if wrong:
        raise Refused(f"cannot resume: {'; '.join(wrong)}; run without resume to start anew")
    return None


def read(
    out: Path, name: str, check: Callable[[Description], None] = lambda _: None
) -> tuple[dict[str, Tensor], Description]:
    """The tensors of one of a folder's checkpoints and its description. `check` is as in `load`.

    Raises:
        ValueError: It is not sound, in one line; or what `check` raises.
    """
    try:
        description = _description(out / f"{name}.json", out / f"{name}.safetensors")
        check(description)
        return _tensors(out / f"{name}.safetensors"), description
    except Refused:
        raise
    except OSError as error:
        file = Path(error.filename or out).name
        raise ValueError(f"{file}: {error.strerror or error}") from error
    except (ValueError, RecursionError, SafetensorError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def clear(out: Path) -> None:
    """Remove the checkpoints of a folder."""
    for name in (NEWEST, PREVIOUS):
        for suffix in (".json", ".safetensors"):
            (out / (name + suffix)).unlink(missing_ok=True)


def differences(there: Any, here: Any, name: str = "") -> list[str]:
    """The entries in which two plain trees differ: `epochs (2 there, 3 here)`.

    >>> differences({"epochs": 2, "lr": [0.1, 0.2]}, {"epochs": 3, "lr": [0.1, 0.3]})
    ['epochs (2 there, 3 here)', 'lr.1 (0.2 there, 0.3 here)']
    """
    pairs = []
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys((*there, *here)):
            pairs.append((key, there.get(key, "nothing"), here.get(key, "nothing")))
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for position, (a, b) in enumerate(zip(there, here, strict=True)):
            pairs.append((position, a, b))
    elif there == here:
        return []
    else:
        return [f"{name} ({_short(there)} there, {_short(here)} here)"]
    found = []
    for key, a, b in pairs:
        found += differences(a, b, f"{name}.{key}".lstrip("."))
    return found


def digest(tensors: Iterable[Tensor], words: str = "") -> str:
    """SHA-256 of some words and of the bytes of tensors."""
    found = hashlib.sha256(words.encode())
    for leaf in tensors:
        data = leaf.cpu().contiguous().view(-1).view(torch.uint8)
        found.update(data.numpy().data)
    return found.hexdigest()


def _on_cpu(leaf: Tensor) -> Tensor:
    """A copy on the CPU that shares no memory, as the file format asks for."""
    return leaf.detach().cpu().clone(memory_format=torch.contiguous_format)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _same_file(old: Path, new: str) -> None:
    try:
        os.link(old, new)
    except OSError:  # a file system without links
        shutil.copyfile(old, new)


def _description(path: Path, tensors: Path) -> Description:
    """The JSON of a checkpoint, if it is whole and belongs to the file of tensors."""
    description = json.loads(path.read_text())
    if not isinstance(description, dict) or description.get("format") != _FORMAT:
        raise ValueError("it is not a checkpoint of this library")
    body = {name: value for name, value in description.items() if name != "checksum"}
    if _digest(body) != description.get("checksum"):
        raise ValueError("its JSON has been edited")
    size = tensors.stat().st_size
    written = description.get("bytes")
    if size != written:
        raise ValueError(f"its tensors are {size} bytes where {written} were written")
    if _digest_file(tensors) != description.get("sha256"):
        raise ValueError("its tensors are not those that were written")
    return description


def _tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt", device="cpu") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def _digest(body: Description) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _digest_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
