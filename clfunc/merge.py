"""`merge`: the results of parts of a sweep as one, and `pack` and `unpack`: a result as bytes (safetensors), without pickle."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import safetensors
import safetensors.torch as safe
import torch
from torch import Tensor

from clfunc import tree
from clfunc.results import Curve, Result
from clfunc.sweep import coordinates, part, plain
from clfunc.types import Algorithm

_CURVES = ("training", "validation", "probes")
_PLAIN = ("config", "coordinates", "steps", "train_seconds", "wall_seconds", "engine")


def merge(results: Sequence[Result], algorithm: Algorithm, runs: Sequence[Sequence[int]]) -> Result:
    """What the runs `runs[0] + runs[1] + ...` of `algorithm` would have left together.

    Seconds add up. Nothing but the runs may differ between the results, which are those of `part(algorithm, runs[i])`.
    """
    first = results[0]

    def joined(of: Callable[[Result], Any], axis: int) -> Any:
        return tree.map(lambda *leaves: torch.cat(leaves, axis), *(of(result) for result in results))

    def curve(name: str) -> Curve:
        return getattr(first, name)._replace(values=joined(lambda result: getattr(result, name).values, 1))

    chosen = part(algorithm, [run for some in runs for run in some])
    config = first.config | {"settings": plain(chosen.settings)}
    config |= {name: [x for result in results for x in result.config[name]] for name in ("keys", "seeds")}
    curves: dict[str, Any] = {name: curve(name) for name in _CURVES}
    return first._replace(
        accuracy=joined(lambda result: result.accuracy, -1),
        params=joined(lambda result: result.params, 0),
        state=joined(lambda result: result.state, 0),
        pictures=joined(lambda result: result.pictures, 0),
        config=config,
        coordinates=coordinates(chosen),
        train_seconds=sum(result.train_seconds for result in results),
        wall_seconds=sum(result.wall_seconds for result in results),
        **curves,
    )


def pack(result: Result, mark: str = "") -> bytes:
    """A result of many runs as the bytes of a safetensors file; `mark` says what it is a result of."""
    trees = {name: getattr(result, name) for name in result._fields if name not in _PLAIN}
    tensors = {name: leaf.detach().cpu().contiguous().clone() for name, leaf in tree.items(trees)}
    numbers = {name: getattr(result, name) for name in _PLAIN}
    words = {"mark": mark, "result": json.dumps(numbers), "order": json.dumps(list(tensors))}  # safetensors sorts
    return safe.save(tensors, words)


def unpack(data: bytes, algorithm: Algorithm) -> Result:
    """The result that `pack` wrote, of `algorithm` or a part of it; the algorithm says how params and state are nested.

    Raises:
        ValueError: The bytes are not such a result.
    """
    try:
        header = _header(data)
        stored, numbers = safe.load(data), json.loads(header["result"])
        tensors = {name: stored[name] for name in json.loads(header["order"])}
        params, state = part(algorithm, [0]).init(torch.zeros(2, dtype=torch.int64))
        trees: dict[str, Any] = {name: _curve(tensors, name) for name in _CURVES}
        trees |= {"params": _nested(tensors, "params", params), "state": _nested(tensors, "state", state)}
        return Result(accuracy=tensors["accuracy"], pictures=_below(tensors, "pictures."), **trees, **numbers)
    except (KeyError, TypeError, safetensors.SafetensorError) as error:
        raise ValueError(f"not the result of a part of this sweep: {error}") from error


def mark_of(data: bytes) -> str:
    """The `mark` that `pack` was given; ValueError for anything that it did not write."""
    try:
        return _header(data)["mark"]
    except KeyError as error:
        raise ValueError(f"not the result of a part of a sweep: no {error}") from error


def _header(data: bytes) -> dict[str, str]:
    """The words that a safetensors file begins with."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise ValueError(f"a file that promises a header of {size} bytes and has {max(0, len(data) - 8)}")
    header = json.loads(data[8 : 8 + size])
    return header.get("__metadata__", {}) if isinstance(header, dict) else {}


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): leaf for name, leaf in tensors.items() if name.startswith(prefix)}


def _nested(tensors: dict[str, Tensor], prefix: str, like: Any) -> Any:
    return tree.map_items(lambda name, _: tensors[f"{prefix}.{name}"], like)


def _curve(tensors: dict[str, Tensor], name: str) -> Curve:
    return Curve(tensors[f"{name}.step"], tensors[f"{name}.task"], _below(tensors, f"{name}.values."))
