"""`Standing`: where a run is, and all that it has gathered; and the same as tensors by name and plain numbers, to be saved."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.driver.checkpoint import Refused
from clfunc.engine.scan import engines
from clfunc.results.result import Curve
from clfunc.types import Params, State


class Standing(NamedTuple):
    """A run under way. The number fields say where it is; the first two, snapshots and what is `logged` are on its device."""

    params: Params
    state: State
    accuracy: Tensor  # [events, tested, *runs], NaN where not tested
    diverged: Tensor  # [*runs]: the step (from 1) that ends the first chunk after which the run was not finite; or -1
    training: Curve
    validation: Curve
    probes: Curve
    logged: Curve  # of the current epoch's steps
    pictures: dict[str, Tensor]
    snapshots: tuple[tuple[Params, State], ...]  # right after each unlearning
    event: int = 0  # the current one
    epoch: int = 0  # of it
    step: int = 0  # steps done in the epoch
    done: int = 0  # steps done in all
    seconds: float = 0.0  # spent training
    wall: float = 0.0  # spent in all before this process


_CURVES = ("training", "validation", "probes", "logged")
_NUMBERS = ("event", "epoch", "step", "done", "seconds", "wall")


def begun(start: tuple[Params, State], shape: tuple[int, ...]) -> Standing:
    """Before the first event; `shape` is that of the accuracies."""
    none = no_points()
    accuracy = torch.full(shape, torch.nan, dtype=torch.float64)
    return Standing(*start, accuracy, torch.full(shape[2:], -1), none, none, none, none, {}, ())


def no_points() -> Curve:
    none = torch.zeros(0, dtype=torch.int64)
    return Curve(none, none, {})


def extended(curve: Curve, more: Curve) -> Curve:
    """A curve with more points."""
    if not len(curve.step) or not len(more.step):
        return curve if len(curve.step) else more
    return tree.map(lambda *parts: torch.cat(parts), curve, more)


def settled(at: Standing) -> Standing:
    """With params and state laid out in memory as they would be when loaded, so that no bit depends on having been."""
    params, state = tree.map(
        lambda leaf: leaf if leaf.is_contiguous() and not leaf.storage_offset() else _own(leaf),
        (at.params, at.state),
    )
    return at._replace(params=params, state=state)


def _own(leaf: Tensor) -> Tensor:
    return leaf.clone(memory_format=torch.contiguous_format)


def packed(at: Standing) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A standing as tensors by name, and what JSON can hold."""
    fields = at._asdict()
    place = {name: fields.pop(name) for name in _NUMBERS}
    names = {name: list(fields[name].values) for name in _CURVES} | {"pictures": list(at.pictures)}
    pairs = tree.items(fields)
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(
            "two leaves of params or state have one dotted name: rename one, so that they can be saved"
        )
    return found, {"place": place, "names": names, "snapshots": len(at.snapshots)}


def check(about: dict[str, Any], events: int, epochs: int, steps: int) -> None:
    """Raise ValueError unless `about` is what `packed` says of a run of so many events, epochs and steps an epoch."""
    place, names, plan = (about.get(name) for name in ("place", "names", "plan"))
    if (
        not isinstance(place, dict)
        or set(place) != set(_NUMBERS)
        or not all(_number(n) for n in place.values())
    ):
        raise ValueError("it does not say where the run was")
    over = {"event": events, "epoch": epochs - 1, "step": steps, "done": events * epochs * steps}
    for name, most in over.items():
        if not isinstance(place[name], int) or place[name] > most:
            raise ValueError(f"it was taken at {name} {place[name]}, and the last is {most}")
    lists = (
        names.values()
        if isinstance(names, dict) and set(names) == {*_CURVES, "pictures"}
        else (None,)
    )
    if not all(
        isinstance(found, list) and all(isinstance(name, str) for name in found) for found in lists
    ):
        raise ValueError("it does not say what was measured")
    if about.get("snapshots") not in range(events + 1):
        raise ValueError("it does not say how many snapshots it holds")
    known = isinstance(plan, list) and len(plan) == 2 and plan[0] in engines and plan[0] != "auto"
    if plan is not None and not (known and isinstance(plan[1], int) and plan[1] in range(1, 1025)):
        raise ValueError("it does not say which engine it was taken with")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def unpacked(start: Standing, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> Standing:
    """The standing that was packed, in the structure and on the device of the same run's beginning.

    Raises:
        Refused: It is another algorithm's.
    """
    names, empty = about["names"], torch.zeros(0)
    shape = start._asdict() | {
        name: Curve(empty, empty, dict.fromkeys(names[name], empty)) for name in _CURVES
    }
    shape |= {"pictures": dict.fromkeys(names["pictures"], empty)}
    shape |= {"snapshots": ((start.params, start.state),) * about["snapshots"]}
    shape = {name: field for name, field in shape.items() if name not in _NUMBERS}
    wanted = [name for name, _ in tree.items(shape)]
    if set(wanted) != set(tensors):
        odd = sorted(set(wanted) ^ set(tensors))[0]
        raise Refused(
            f"cannot resume: the checkpoint is another algorithm's, {odd} is in one of them only"
        )
    like = {name: field for name, field in shape.items() if name not in (*_CURVES, "pictures")}
    for name, leaf in tree.items(like):
        found = tensors[name]
        if (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
            kinds = f"{found.dtype} {list(found.shape)} there, {leaf.dtype} {list(leaf.shape)} here"
            raise Refused(
                f"cannot resume: the checkpoint is another algorithm's, {name} is {kinds}"
            )
    for name in _CURVES:
        _check_curve(
            name,
            {leaf: tensors[leaf] for leaf, _ in tree.items({name: shape[name]})},
            start.diverged,
        )
    device = tree.leaves(start.params)[0].device
    fields = tree.map_items(lambda name, _: _placed(name, tensors[name], device), shape)
    return Standing(**fields, **about["place"])


def _check_curve(name: str, found: dict[str, Tensor], runs: Tensor) -> None:
    """Raise Refused unless tensors are a curve's: steps, tasks and, for each, a number (or several) for each run."""
    steps, tasks = found.pop(f"{name}.step"), found.pop(f"{name}.task")
    counts = (
        (steps.dtype, tasks.dtype) == (torch.int64, torch.int64)
        and steps.shape == tasks.shape
        and steps.ndim == 1
    )
    shapes = [leaf.shape[: 1 + runs.ndim] == steps.shape + runs.shape for leaf in found.values()]
    if not counts or not all(shapes):
        raise Refused(
            f"cannot resume: the checkpoint is another algorithm's, {name} is no curve of {runs.numel()} run(s)"
        )


def _placed(name: str, leaf: Tensor, device: torch.device) -> Tensor:
    return (
        leaf.to(device)
        if name.startswith(("params.", "state.", "snapshots.", "logged.values."))
        else leaf
    )
