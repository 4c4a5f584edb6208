"""`merge`: the results of parts of a sweep as one result. `select`: some runs of a result.

Both do the same to everything in a result that has one entry a run. `_TENSOR_AXES`, `_CURVES` and
`_CONFIG_LISTS` list these things: they are the one place that says where a result has an axis of
runs.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.engine.sweep import coordinates, members, part
from clfunc.results.events import Event
from clfunc.results.result import Curve, Result
from clfunc.types import Algorithm

# Field of a result -> the axis of runs of every tensor in it.
_TENSOR_AXES = {
    "accuracy": -1,
    "params": 0,
    "state": 0,
    "pictures": 0,
    "snapshots": 0,
    "diverged": 0,
}
_CURVES = ("training", "validation", "probes")  # the runs are axis 1 of their values
# List in a result's config with an entry a run -> the entry of a run that has none. The list is
# empty if no run has one.
_CONFIG_LISTS: dict[str, Any] = {"keys": None, "seeds": None, "requests": {}, "skip": []}


def merge(
    results: Sequence[Result],
    algorithm: Algorithm,
    runs: Sequence[Sequence[int]],
) -> Result:
    """The result that the runs `runs[0] + runs[1] + ...` of `algorithm` would leave together.

    Seconds add up.

    Args:
        results: `results[i]` is the result of `part(algorithm, runs[i])`. Nothing but the runs
            differs between them.
        algorithm: The sweep, or an algorithm by itself.
        runs: The runs of each result, by number.
    """
    aligned = _aligned(results)
    every_run = [run for some in runs for run in some]

    def concatenated(axis: int, leaves: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(leaves), axis)

    def joined(lists: Sequence[Sequence[Any]]) -> list[Any]:
        return [entry for entries in lists for entry in entries]

    merged = _combine(aligned, concatenated, joined)
    return merged._replace(
        coordinates=coordinates(part(algorithm, every_run)),
        config=_with_settings_of(merged.config, algorithm),
        train_seconds=sum(result.train_seconds for result in results),
        wall_seconds=sum(result.wall_seconds for result in results),
    )


def select(
    result: Result,
    algorithm: Algorithm,
    runs: Sequence[int],
    kept: Sequence[int],
) -> Result:
    """Some runs of a result.

    Args:
        result: The result of `part(algorithm, runs)`.
        algorithm: The sweep, or an algorithm by itself.
        runs: The runs of the result, by number among those of `algorithm`.
        kept: Which runs of the result to keep, by position in it, in the order wanted.
    """
    positions = torch.tensor(list(kept))

    def selected(axis: int, leaves: Sequence[Tensor]) -> Tensor:
        (leaf,) = leaves
        return leaf.index_select(axis, positions.to(leaf.device))

    def picked(lists: Sequence[Sequence[Any]]) -> list[Any]:
        (entries,) = lists
        return [entries[position] for position in kept]

    chosen = _combine([result], selected, picked)
    chosen_runs = [runs[position] for position in kept]
    return chosen._replace(coordinates=coordinates(part(algorithm, chosen_runs)))


def _combine(
    results: Sequence[Result],
    on_tensors: Callable[[int, Sequence[Tensor]], Tensor],
    on_lists: Callable[[Sequence[Sequence[Any]]], list[Any]],
) -> Result:
    """The first result, with everything that has an entry a run made from that of all results.

    Args:
        results: At least one.
        on_tensors: (axis of runs, a tensor of each result) -> a tensor.
        on_lists: A list of each result, with an entry a run -> a list.
    """
    first = results[0]
    fields: dict[str, Any] = {}
    for name, axis in _TENSOR_AXES.items():
        trees = [getattr(result, name) for result in results]
        fields[name] = _map_leaves(on_tensors, axis, trees)
    for name in _CURVES:
        values = [getattr(result, name).values for result in results]
        combined = _map_leaves(on_tensors, 1, values)
        fields[name] = getattr(first, name)._replace(values=combined)

    events = []
    for number, event in enumerate(first.events):
        forgets = [result.events[number].forgets for result in results]
        events.append(event._replace(forgets=_of_runs(on_lists, forgets, event)))
    fields["events"] = tuple(events)

    config = dict(first.config)
    for name, neutral in _CONFIG_LISTS.items():
        lists = [_each_run(result, name, neutral) for result in results]
        if any(result.config.get(name) for result in results):
            config[name] = on_lists(lists)
    if config["settings"].get("name") == "sweep":
        settings = [result.config["settings"]["members"] for result in results]
        config["settings"] = config["settings"] | {"members": on_lists(settings)}
    return first._replace(config=config, **fields)


def _map_leaves(
    on_tensors: Callable[[int, Sequence[Tensor]], Tensor],
    axis: int,
    trees: Sequence[Any],
) -> Any:
    return tree.map(lambda *leaves: on_tensors(axis, leaves), *trees)


def _of_runs(
    on_lists: Callable[[Sequence[Sequence[Any]]], list[Any]],
    forgets: Sequence[Sequence[Any]],
    event: Event,
) -> tuple[Any, ...]:
    """What each run forgets in an event; a training event has no entries."""
    return tuple(on_lists(forgets)) if event.kind == "unlearned" else ()


def _each_run(result: Result, name: str, neutral: Any) -> list[Any]:
    """A list of the config with an entry a run, also if no run of this result has one."""
    runs = len(result.config["seeds"])
    return list(result.config.get(name) or [neutral] * runs)


def _with_settings_of(
    config: dict[str, Any],
    algorithm: Algorithm,
) -> dict[str, Any]:
    """Chunks of an algorithm by itself are sweeps of it; their merged result has its settings."""
    settings = config["settings"]
    if members(algorithm) is None and settings.get("name") == "sweep":
        return config | {"settings": settings["members"][0]}
    return config


class _Phase(NamedTuple):
    """The steps of a result in which it trains a phase: those after `start`, up to `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


def _aligned(results: Sequence[Result]) -> list[Result]:
    """The results with one list of steps.

    A result does not train a phase that all its runs skip, and it ends a phase early once all its
    runs have diverged. The merged phase is as long as the longest of the results. A result has NaN
    where it was not trained.
    """
    phases = [_phases(result.training) for result in results]
    merged: dict[int, _Phase] = {}
    models: dict[int, int] = {}  # phase -> the result that trains all of it
    start = 0
    for number in sorted(set().union(*phases)):
        lengths = [found[number].length if number in found else 0 for found in phases]
        models[number] = lengths.index(max(lengths))
        merged[number] = _Phase(start, start + max(lengths))
        start = merged[number].stop
    if all(found == merged for found in phases):
        return list(results)

    moved = [_moved(*pair, merged) for pair in zip(results, phases, strict=True)]
    aligned = [result._replace(steps=start) for result in moved]
    for name in _CURVES:
        curves = [getattr(result, name) for result in moved]
        steps, tasks = _model_points(curves, models)
        values = [_at_points(curve, steps, tasks) for curve in curves]
        for position, known in enumerate(_completed(values, 1, moved)):
            field: dict[str, Any] = {name: Curve(steps, tasks, known)}
            aligned[position] = aligned[position]._replace(**field)
    pictures = _completed([result.pictures for result in moved], 0, moved)
    return [
        result._replace(pictures=images) for result, images in zip(aligned, pictures, strict=True)
    ]


def _phases(training: Curve) -> dict[int, _Phase]:
    """The phases that a result trains. The training curve has a point at the end of each."""
    found = {}
    start = 0
    for phase in torch.unique(training.task).tolist():
        stop = int(training.step[training.task == phase][-1])
        found[phase] = _Phase(start, stop)
        start = stop
    return found


def _moved(
    result: Result,
    phases: dict[int, _Phase],
    merged: dict[int, _Phase],
) -> Result:
    """The result with its steps counted as in the merged result."""
    diverged = result.diverged.clone()
    fields: dict[str, Any] = {}
    for name in _CURVES:
        curve = getattr(result, name)
        fields[name] = curve._replace(step=curve.step.clone())
    for number, phase in phases.items():
        shift = merged[number].start - phase.start
        is_inside = (result.diverged > phase.start) & (result.diverged <= phase.stop)
        diverged[is_inside] += shift
        for name in _CURVES:
            curve = fields[name]
            curve.step[curve.task == number] += shift
    return result._replace(diverged=diverged, **fields)


def _model_points(
    curves: Sequence[Curve],
    models: dict[int, int],
) -> tuple[Tensor, Tensor]:
    """The steps and phases of a merged curve: in each phase those of the result that trains all of
    it.
    """
    steps = []
    tasks = []
    for phase, position in models.items():
        curve = curves[position]
        is_inside = curve.task == phase
        steps.append(curve.step[is_inside])
        tasks.append(curve.task[is_inside])
    return torch.cat(steps), torch.cat(tasks)


def _at_points(
    curve: Curve,
    steps: Tensor,
    tasks: Tensor,
) -> dict[str, Tensor]:
    """The curve's values at these steps of these phases; NaN where it has no point."""
    if not len(curve.step):
        return {}
    is_same = (steps[:, None] == curve.step) & (tasks[:, None] == curve.task)
    is_known = is_same.any(1)
    positions = is_same.to(torch.int64).argmax(1)

    def values(leaf: Tensor) -> Tensor:
        found = leaf.index_select(0, positions)
        return torch.where(tree.expand_last(is_known, leaf.ndim), found, torch.nan)

    return tree.map(values, curve.values)


def _completed(
    values: Sequence[dict[str, Tensor]],
    axis: int,
    results: Sequence[Result],
) -> list[dict[str, Tensor]]:
    """The values of each result.

    A result that trains nothing has no values, and gets NaN under the others' names.
    """
    model: dict[str, Tensor] = next(filter(None, values), {})
    completed = []
    for known, result in zip(values, results, strict=True):
        if not known:
            runs = len(result.diverged)
            known = {name: _nan_like(leaf, axis, runs) for name, leaf in model.items()}
        completed.append(known)
    return completed


def _nan_like(leaf: Tensor, axis: int, runs: int) -> Tensor:
    shape = list(leaf.shape)
    shape[axis] = runs
    return torch.full(shape, torch.nan, dtype=leaf.dtype)
