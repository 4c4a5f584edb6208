"""`merge`: the results of parts of a sweep as one, and `pack` and `unpack`: a result as bytes (safetensors), without pickle."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import safetensors
import safetensors.torch as safe
import torch
from torch import Tensor

from clfunc import tree
from clfunc.engine.sweep import coordinates, part
from clfunc.results.events import Event
from clfunc.results.result import Curve, Result
from clfunc.settings import plain
from clfunc.types import Algorithm
from clfunc.unlearning.forget_sets import from_plain
from clfunc.unlearning.forget_sets import plain as plain_set

_CURVES = ("training", "validation", "probes")
_EACH = ("keys", "seeds", "requests", "skip")  # in the configuration, an entry for each run
_PLAIN = ("config", "coordinates", "steps", "train_seconds", "wall_seconds", "engine")


def merge(results: Sequence[Result], algorithm: Algorithm, runs: Sequence[Sequence[int]]) -> Result:
    """What the runs `runs[0] + runs[1] + ...` of `algorithm` would have left together.

    Seconds add up. Nothing but the runs may differ between the results, which are those of `part(algorithm, runs[i])`.
    """
    results, every = _aligned(results), [i for some in runs for i in some]
    merged = _along_runs(lambda axis, *leaves: torch.cat(leaves, axis), results)
    events = [
        event._replace(
            forgets=tuple(
                forgets for result in results for forgets in result.events[number].forgets
            )
        )
        for number, event in enumerate(results[0].events)
    ]
    config = {
        name: [x for result in results for x in result.config[name]]
        for name in _EACH
        if name in merged.config
    }
    return _named(merged, algorithm, every, config)._replace(
        events=tuple(events),
        train_seconds=sum(result.train_seconds for result in results),
        wall_seconds=sum(result.wall_seconds for result in results),
    )


def _aligned(results: Sequence[Result]) -> list[Result]:
    """The results with the points of the longest: where all runs of a part have diverged, it stops before the others do."""
    longest = max(results, key=lambda result: result.steps)

    def drawn_out(curve: Curve, whole: Curve) -> Curve:
        if torch.equal(curve.step, whole.step):
            return curve
        there, more = curve.step == whole.step[: len(curve.step)], len(whole.step) - len(curve.step)

        def values(leaf: Tensor) -> Tensor:
            known = torch.where(tree.expand_last(there, leaf.ndim), leaf, torch.nan)
            return torch.cat([known, known.new_full((more, *leaf.shape[1:]), torch.nan)])

        return whole._replace(values=tree.map(values, curve.values))

    def aligned(result: Result) -> Result:
        curves: dict[str, Any] = {
            name: drawn_out(getattr(result, name), getattr(longest, name)) for name in _CURVES
        }
        return result._replace(steps=longest.steps, **curves)

    return [aligned(result) for result in results]


def select(
    result: Result, algorithm: Algorithm, runs: Sequence[int], kept: Sequence[int]
) -> Result:
    """The entries `kept` of the result of `part(algorithm, runs)`, by number among `runs`."""
    at = torch.tensor(list(kept))
    events = tuple(
        e._replace(forgets=tuple(e.forgets[i] for i in kept) if e.forgets else ())
        for e in result.events
    )
    config = {
        name: [result.config[name][i] for i in kept] for name in _EACH if result.config.get(name)
    }
    chosen = _along_runs(lambda axis, leaf: leaf.index_select(axis, at.to(leaf.device)), [result])
    return _named(chosen._replace(events=events), algorithm, [runs[i] for i in kept], config)


def _named(
    result: Result, algorithm: Algorithm, runs: Sequence[int], config: dict[str, Any]
) -> Result:
    chosen = part(algorithm, runs)
    told = result.config | config | {"settings": plain(chosen.settings)}
    return result._replace(config=told, coordinates=coordinates(chosen))


def _along_runs(f: Callable[..., Tensor], results: Sequence[Result]) -> Result:
    """`f(axis of the runs, *leaves)` of everything in results that has such an axis."""

    def joined(name: str, axis: int) -> Any:
        return tree.map(
            lambda *leaves: f(axis, *leaves), *(getattr(result, name) for result in results)
        )

    def curve(name: str) -> Curve:
        values = tree.map(
            lambda *leaves: f(1, *leaves), *(getattr(result, name).values for result in results)
        )
        return getattr(results[0], name)._replace(values=values)

    fields: dict[str, Any] = {name: curve(name) for name in _CURVES}
    fields |= {
        name: joined(name, 0) for name in ("params", "state", "pictures", "snapshots", "diverged")
    }
    return results[0]._replace(accuracy=joined("accuracy", -1), **fields)


def pack(result: Result, mark: str = "") -> bytes:
    """A result of many runs as the bytes of a safetensors file; `mark` says what it is a result of."""
    trees = {
        name: getattr(result, name) for name in result._fields if name not in (*_PLAIN, "events")
    }
    tensors = {name: leaf.detach().cpu().contiguous().clone() for name, leaf in tree.items(trees)}
    numbers = {name: getattr(result, name) for name in _PLAIN} | {"events": _plain_events(result)}
    words = {
        "mark": mark,
        "result": json.dumps(numbers),
        "order": json.dumps(list(tensors)),
    }  # safetensors sorts
    return safe.save(tensors, words)


def _plain_events(result: Result) -> list[tuple[str, int, list[Any]]]:
    """Events as JSON can hold them."""
    events = []
    for event in result.events:
        forgets = [[plain_set(one) for one in forget_sets] for forget_sets in event.forgets]
        events.append((event.kind, event.task, forgets))
    return events


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
        trees |= {
            "params": _nested(tensors, "params", params),
            "state": _nested(tensors, "state", state),
        }
        events = tuple(
            Event(kind, task, tuple(tuple(map(from_plain, sets)) for sets in forgets))
            for kind, task, forgets in numbers.pop("events")
        )
        count = sum(event.kind == "unlearned" for event in events)
        trees |= {
            "events": events,
            "snapshots": tuple(
                _nested(tensors, f"snapshots.{i}", (params, state)) for i in range(count)
            ),
        }
        trees |= {name: tensors[name] for name in ("accuracy", "diverged")}
        return Result(pictures=_below(tensors, "pictures."), **trees, **numbers)
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
        raise ValueError(
            f"a file that promises a header of {size} bytes and has {max(0, len(data) - 8)}"
        )
    header = json.loads(data[8 : 8 + size])
    return header.get("__metadata__", {}) if isinstance(header, dict) else {}


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): leaf for name, leaf in tensors.items() if name.startswith(prefix)
    }


def _nested(tensors: dict[str, Tensor], prefix: str, like: Any) -> Any:
    return tree.map_items(lambda name, _: tensors[f"{prefix}.{name}"], like)


def _curve(tensors: dict[str, Tensor], name: str) -> Curve:
    return Curve(
        tensors[f"{name}.step"], tensors[f"{name}.task"], _below(tensors, f"{name}.values.")
    )
