"""`pack` and `unpack`: a result of many runs as the bytes of a safetensors file, without pickle.

The file has a label, which says whose result it is, and a SHA-256 of everything in it, so that a
damaged file is noticed.
"""

import hashlib
import json
from typing import Any

import safetensors
import safetensors.torch as safe
import torch
from torch import Tensor

from clfunc import tree
from clfunc.engine.sweep import part
from clfunc.results.events import Event
from clfunc.results.result import Curve, Result
from clfunc.types import Algorithm
from clfunc.unlearning.forget_sets import from_plain
from clfunc.unlearning.forget_sets import plain as plain_set

_CURVES = ("training", "validation", "probes")
_NO_CHECKSUM = "checksum" * 8  # holds the place of the checksum while it is computed
_NUMBERS = ("config", "coordinates", "steps", "train_seconds", "wall_seconds", "engine")


def pack(result: Result, label: str = "") -> bytes:
    """A result of many runs as bytes.

    Args:
        result: The result; its tensors may be on any device.
        label: Says whose result it is. `label_of` reads it.
    """
    trees = result._asdict()
    numbers: dict[str, Any] = {name: trees.pop(name) for name in _NUMBERS}
    numbers["events"] = [_plain_event(event) for event in trees.pop("events")]
    tensors = {}
    for name, leaf in tree.items(trees):
        tensors[name] = leaf.detach().cpu().contiguous().clone()
    words = {
        "label": label,
        "result": json.dumps(numbers),
        "order": json.dumps(list(tensors)),  # safetensors sorts the names
        "sha256": _NO_CHECKSUM,
    }
    data = safe.save(tensors, words)
    return _filled_in(data, _NO_CHECKSUM, _checksum(data))


def unpack(data: bytes, algorithm: Algorithm) -> Result:
    """The result that `pack` wrote.

    Args:
        data: What `pack` returned.
        algorithm: The algorithm of the result, or a sweep of which it is a part: it says how params
            and state are nested.

    Raises:
        ValueError: The bytes are not such a result, or they are damaged.
    """
    try:
        words = _words(data)
        checksum = words["sha256"]
        if _checksum(_filled_in(data, checksum, _NO_CHECKSUM)) != checksum:
            raise ValueError("the result of a part of a sweep is damaged: its checksum differs")
        stored = safe.load(data)
        tensors = {name: stored[name] for name in json.loads(words["order"])}
        return _unpacked(tensors, json.loads(words["result"]), algorithm)
    except (KeyError, TypeError, safetensors.SafetensorError) as error:
        raise ValueError(f"not the result of a part of this sweep: {error}") from error


def label_of(data: bytes) -> str:
    """The label that `pack` was given.

    Raises:
        ValueError: The bytes were not written by `pack`.
    """
    try:
        return _words(data)["label"]
    except KeyError as error:
        raise ValueError(f"not the result of a part of a sweep: no {error}") from error


def _unpacked(
    tensors: dict[str, Tensor],
    numbers: dict[str, Any],
    algorithm: Algorithm,
) -> Result:
    """A result of the tensors by dotted name and of the numbers that JSON holds."""
    params, state = part(algorithm, [0]).init(torch.zeros(2, dtype=torch.int64))
    events = tuple(_event(event) for event in numbers.pop("events"))
    unlearnings = sum(event.kind == "unlearned" for event in events)
    snapshots = []
    for number in range(unlearnings):
        snapshots.append(_nested(tensors, f"snapshots.{number}", (params, state)))
    curves: dict[str, Any] = {name: _curve(tensors, name) for name in _CURVES}
    return Result(
        accuracy=tensors["accuracy"],
        diverged=tensors["diverged"],
        params=_nested(tensors, "params", params),
        state=_nested(tensors, "state", state),
        pictures=_below(tensors, "pictures."),
        events=events,
        snapshots=tuple(snapshots),
        **curves,
        **numbers,
    )


def _plain_event(event: Event) -> list[Any]:
    """An event as JSON can hold it."""
    forgets = []
    for forget_sets in event.forgets:
        forgets.append([plain_set(forget_set) for forget_set in forget_sets])
    return [event.kind, event.task, forgets]


def _event(plain_event: list[Any]) -> Event:
    kind, task, plain_forgets = plain_event
    forgets = []
    for forget_sets in plain_forgets:
        forgets.append(tuple(from_plain(forget_set) for forget_set in forget_sets))
    return Event(kind, task, tuple(forgets))


def _checksum(data: bytes) -> str:
    """SHA-256 of a file whose header has `_NO_CHECKSUM` in the place of the checksum."""
    return hashlib.sha256(data).hexdigest()


def _filled_in(data: bytes, old: str, new: str) -> bytes:
    """The file with another checksum in its header."""
    header = _header(data)
    return header.replace(old.encode(), new.encode(), 1) + data[len(header) :]


def _header(data: bytes) -> bytes:
    """The beginning of a safetensors file: the size of its JSON in eight bytes, then the JSON.

    Raises:
        ValueError: The file is shorter than that.
    """
    size = int.from_bytes(data[:8], "little")
    there = max(0, len(data) - 8)
    if len(data) < 8 or size > there:
        raise ValueError(f"a file that promises a header of {size} bytes and has {there}")
    return data[: 8 + size]


def _words(data: bytes) -> dict[str, str]:
    """The words in the header of a safetensors file.

    Raises:
        ValueError: There is no such header.
    """
    header = json.loads(_header(data)[8:])
    words = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(words, dict):
        raise ValueError("not the result of a part of a sweep: its header has no words")
    return words


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, under the rest of their names."""
    found = {}
    for name, leaf in tensors.items():
        if name.startswith(prefix):
            found[name.removeprefix(prefix)] = leaf
    return found


def _nested(tensors: dict[str, Tensor], prefix: str, like: Any) -> Any:
    return tree.map_items(lambda name, _: tensors[f"{prefix}.{name}"], like)


def _curve(tensors: dict[str, Tensor], name: str) -> Curve:
    return Curve(
        step=tensors[f"{name}.step"],
        task=tensors[f"{name}.task"],
        values=_below(tensors, f"{name}.values."),
    )
