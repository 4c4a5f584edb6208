"""`RunState`: where a run is and all that it has gathered; and the form in which it is saved."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.driver.checkpoint import Description, Refused
from clfunc.engine.scan import engines
from clfunc.results.result import Curve
from clfunc.types import Params, State


class RunState(NamedTuple):
    """A run under way.

    Params, state, snapshots and `logged` are on the run's device, and everything else is on the
    CPU.
    """

    params: Params
    state: State
    accuracy: Tensor  # [events, tested, *runs], NaN where not tested
    diverged: (
        Tensor  # [*runs]: the step (from 1) that ends the chunk in which a run diverged; or -1
    )
    training: Curve
    validation: Curve
    probes: Curve
    logged: Curve  # the training curve of the current epoch
    pictures: dict[str, Tensor]
    snapshots: tuple[tuple[Params, State], ...]  # right after each unlearning
    event: int = 0  # the current event
    epoch: int = 0  # the current epoch of the event
    step: int = 0  # steps done in the epoch
    done: int = 0  # steps done in all
    seconds: float = 0.0  # spent training
    wall: float = 0.0  # spent in all before this process


_CURVES = ("training", "validation", "probes", "logged")
_NUMBERS = ("event", "epoch", "step", "done", "seconds", "wall")
_ON_DEVICE = ("params.", "state.", "snapshots.", "logged.values.")
_OTHER = "cannot resume: the checkpoint is another algorithm's"


def first_run_state(params: Params, state: State, accuracy_shape: tuple[int, ...]) -> RunState:
    """The run state before the first event; `accuracy_shape` is `[events, tested, *runs]`."""
    return RunState(
        params=params,
        state=state,
        accuracy=torch.full(accuracy_shape, torch.nan, dtype=torch.float64),
        diverged=torch.full(accuracy_shape[2:], -1),
        training=empty_curve(),
        validation=empty_curve(),
        probes=empty_curve(),
        logged=empty_curve(),
        pictures={},
        snapshots=(),
    )


def empty_curve() -> Curve:
    """A curve without points."""
    none = torch.zeros(0, dtype=torch.int64)
    return Curve(step=none, task=none, values={})


def extended(curve: Curve, more: Curve) -> Curve:
    """A curve with more points."""
    if not len(more.step):
        return curve
    if not len(curve.step):
        return more
    return tree.map(lambda *parts: torch.cat(parts), curve, more)


def contiguous(run_state: RunState) -> RunState:
    """Makes params and state contiguous, as a loaded checkpoint's are.

    So a resumed run has the same memory layout, and the same bits, as a run that was never stopped.
    """
    leaves = run_state.params, run_state.state
    params, state = tree.map(_contiguous_leaf, leaves)
    return run_state._replace(params=params, state=state)


def _contiguous_leaf(leaf: Tensor) -> Tensor:
    if leaf.is_contiguous() and not leaf.storage_offset():
        return leaf
    return leaf.clone(memory_format=torch.contiguous_format)


def to_tensors(run_state: RunState) -> tuple[dict[str, Tensor], Description]:
    """A run state as tensors by dotted name, and a description that JSON can hold.

    Raises:
        ValueError: Two leaves have one dotted name.
    """
    fields = run_state._asdict()
    place = {name: fields.pop(name) for name in _NUMBERS}
    names = {name: list(fields[name].values) for name in _CURVES}
    names["pictures"] = list(run_state.pictures)
    pairs = tree.items(fields)
    tensors = dict(pairs)
    if len(tensors) < len(pairs):
        raise ValueError(
            "two leaves of params or state have one dotted name: rename one, so that they can be"
            " saved"
        )
    return tensors, {"place": place, "names": names, "snapshots": len(run_state.snapshots)}


def refuse_unsound(description: Description, events: int, epochs: int, steps: int) -> None:
    """Raise ValueError unless `to_tensors` could have made this description of a run.

    Args:
        description: What a checkpoint's JSON holds.
        events: How many events the run has.
        epochs: How many epochs a task has.
        steps: The most steps that an epoch has.
    """
    _refuse_place(description.get("place"), events, epochs, steps)
    names = description.get("names")
    lists: list[Any] = [None]
    if isinstance(names, dict) and set(names) == {*_CURVES, "pictures"}:
        lists = list(names.values())
    for found in lists:
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise ValueError("it does not say what was measured")
    if description.get("snapshots") not in range(events + 1):
        raise ValueError("it does not say how many snapshots it holds")
    plan = description.get("plan")
    if plan is not None and not _is_plan(plan):
        raise ValueError("it does not say which engine it was taken with")


def _refuse_place(place: Any, events: int, epochs: int, steps: int) -> None:
    is_place = isinstance(place, dict) and set(place) == set(_NUMBERS)
    if not is_place or not all(_is_number(value) for value in place.values()):
        raise ValueError("it does not say where the run was")
    limits = {
        "event": events,
        "epoch": epochs - 1,
        "step": steps,
        "done": events * epochs * steps,
    }
    for name, most in limits.items():
        if not isinstance(place[name], int) or place[name] > most:
            raise ValueError(f"it was taken at {name} {place[name]}, and the last is {most}")


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 <= value < math.inf


def _is_plan(plan: Any) -> bool:
    """Whether this is the name of an engine that runs can have, and a number of steps a program."""
    if not isinstance(plan, list) or len(plan) != 2:
        return False
    engine, unroll = plan
    if engine not in engines or engine == "auto":
        return False
    return isinstance(unroll, int) and unroll in range(1, 1025)


def from_tensors(
    first: RunState, tensors: Mapping[str, Tensor], description: Description
) -> RunState:
    """The run state that was saved, in the structure and on the device of the `first` run state.

    Raises:
        Refused: It is another algorithm's.
    """
    expected = _expected(first, description)
    names = [name for name, _ in tree.items(expected)]
    odd = sorted(set(names) ^ set(tensors))
    if odd:
        raise Refused(f"{_OTHER}, {odd[0]} is in one of them only")
    _refuse_other_leaves(expected, tensors)
    for name in _CURVES:
        leaves = [leaf for leaf, _ in tree.items({name: expected[name]})]
        _refuse_other_curve(name, {leaf: tensors[leaf] for leaf in leaves}, first.diverged)

    device = tree.leaves(first.params)[0].device

    def placed(name: str, _: Tensor) -> Tensor:
        leaf = tensors[name]
        return leaf.to(device) if name.startswith(_ON_DEVICE) else leaf

    fields = tree.map_items(placed, expected)
    return RunState(**fields, **description["place"])


def _expected(first: RunState, description: Description) -> dict[str, Any]:
    """The fields that a checkpoint with this description holds, with leaves of the right names."""
    empty = torch.zeros(0)
    fields = first._asdict()
    for name in _NUMBERS:
        del fields[name]
    for name in _CURVES:
        values = dict.fromkeys(description["names"][name], empty)
        fields[name] = Curve(step=empty, task=empty, values=values)
    fields["pictures"] = dict.fromkeys(description["names"]["pictures"], empty)
    fields["snapshots"] = ((first.params, first.state),) * description["snapshots"]
    return fields


def _refuse_other_leaves(expected: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise Refused unless every leaf has the shape and dtype of the run's own."""
    free = (*_CURVES, "pictures")
    fixed = {name: field for name, field in expected.items() if name not in free}
    for name, leaf in tree.items(fixed):
        found = tensors[name]
        if (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
            there = f"{found.dtype} {list(found.shape)} there"
            here = f"{leaf.dtype} {list(leaf.shape)} here"
            raise Refused(f"{_OTHER}, {name} is {there}, {here}")


def _refuse_other_curve(name: str, found: dict[str, Tensor], runs: Tensor) -> None:
    """Raise Refused unless tensors are those of a curve: its values have a point a step, and the
    axis of runs.
    """
    steps = found.pop(f"{name}.step")
    tasks = found.pop(f"{name}.task")
    is_curve = steps.ndim == 1 and steps.shape == tasks.shape
    is_curve = is_curve and steps.dtype == tasks.dtype == torch.int64
    axes = steps.shape + runs.shape
    for leaf in found.values():
        is_curve = is_curve and leaf.shape[: 1 + runs.ndim] == axes
    if not is_curve:
        raise Refused(f"{_OTHER}, {name} is no curve of {runs.numel()} run(s)")
