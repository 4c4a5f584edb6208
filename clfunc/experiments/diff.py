"""Where two runs part: the first step, run and leaf at which what they left differs.

Equal means equal value by value: NaN equals NaN, 0 equals -0, and nothing is close enough. Steps, runs and tasks are named as
every label is, tasks from 1 and runs from 0.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clfunc.driver.checkpoint import NEWEST, PREVIOUS
from clfunc.results import store as archive

if TYPE_CHECKING:
    import xarray

_ASIDE = ("arguments.out", "arguments.progress", "arguments.resume")  # what no result depends on
_NOTHING = "nothing"  # shown where a side has no such field
_STEPS = {
    "step": "step",
    "epoch": "epoch_step",
    "probe": "probe_step",
}  # an axis, and the variable of its steps


class Part(NamedTuple):
    """The first place at which two things of one name differ."""

    step: float  # training steps done there; infinity where it is the end
    name: str
    run: int | None
    where: str
    values: tuple[Any, Any]

    def __str__(self) -> str:
        at = "" if self.run is None else f" of run {self.run}"
        return f"{self.name}{at}{self.where}: {self.values[0]} and {self.values[1]}"


def settings(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The fields in which two configurations differ, a line each."""
    return list(_apart("", a, b))


def _apart(name: str, a: Any, b: Any) -> Iterator[str]:
    """What differs below a name: a line for each field, or for all that one side alone has there."""
    if name in _ASIDE:
        return
    left, right = _fields(a), _fields(b)
    if left is None or right is None or isinstance(a, dict) != isinstance(b, dict):
        if str(a) != str(b):
            yield f"{name}: {_shown(a)} and {_shown(b)}"
        return
    if isinstance(a, list) and len(a) != len(b):
        yield f"{name}: {_shown(a)} and {_shown(b)}"
        left, right = ({i: side[i] for i in range(min(len(a), len(b)))} for side in (left, right))
    for key in left | right:
        yield from _apart(
            f"{name}.{key}".lstrip("."), left.get(key, _NOTHING), right.get(key, _NOTHING)
        )


def _fields(value: Any) -> dict[Any, Any] | None:
    return (
        value
        if isinstance(value, dict)
        else dict(enumerate(value))
        if isinstance(value, list)
        else None
    )


def _shown(value: Any) -> str:
    fields = _fields(value)
    short = fields is None or (len(fields) <= 4 and not any(map(_fields, fields.values())))
    return str(value) if short or fields is None else f"{len(fields)} entries"


def results(a: "xarray.Dataset", b: "xarray.Dataset") -> list[Part]:
    """Where each variable first differs, the earliest first; what is measured at one step in the order of the file."""
    names = [str(name) for name in a.variables] + [
        str(name) for name in b.variables if name not in a.variables
    ]
    found = [part for name in names if (part := _variable(name, a, b))]
    return sorted(found, key=lambda part: part.step)


def _variable(name: str, a: "xarray.Dataset", b: "xarray.Dataset") -> Part | None:
    if name not in a.variables or name not in b.variables:
        there = ("there", "not there") if name in a.variables else ("not there", "there")
        return Part(np.inf, name, None, "", there)
    (left, right), axes = (data[name].values for data in (a, b)), a[name].dims
    if axes != b[name].dims or left.ndim != right.ndim:
        return Part(np.inf, name, None, " has axes", (axes, b[name].dims))
    common = tuple(slice(0, min(sizes)) for sizes in zip(left.shape, right.shape, strict=True))
    places = np.argwhere(~np.asarray(_same(left[common], right[common]), dtype=bool))
    if not len(places):
        return (
            None
            if left.shape == right.shape
            else Part(np.inf, name, None, " has shape", (left.shape, right.shape))
        )
    place = min(map(tuple, places.tolist()), key=lambda place: (_step(a, axes, place), place))
    run = place[axes.index("run")] if "run" in axes else None
    where = " at " + ", ".join(
        _named(a, axis, i) for axis, i in zip(axes, place, strict=True) if axis != "run"
    )
    return Part(
        _step(a, axes, place),
        name,
        run,
        where if where != " at " else "",
        (left[place], right[place]),
    )


def _same(x: Any, y: Any) -> Any:
    """Which entries of two arrays, or of two tensors, are equal."""
    return (x == y) | ((x != x) & (y != y))


def _step(data: "xarray.Dataset", axes: tuple[Any, ...], place: tuple[int, ...]) -> float:
    """Training steps done at an entry of a variable."""
    for axis, i in zip(axes, place, strict=True):
        if axis in _STEPS and _STEPS[axis] in data.variables:
            return float(data[_STEPS[axis]].values[i])
        if axis == "event" and "training_task" in data.variables:
            task = data["task"].values[i] if "task" in data.variables else data["event"].values[i]
            own = data["step"].values[data["training_task"].values == task]
            return float(own[-1]) if len(own) else np.inf
    return np.inf


def _named(data: "xarray.Dataset", axis: Any, i: int) -> str:
    """An entry of an axis, by the word that labels have for it."""
    words = {"event": "event", "tested": "task"}
    if axis in _STEPS and _STEPS[axis] in data.variables:
        return f"step {data[_STEPS[axis]].values[i]}"
    value = data[axis].values[i] if axis in data.variables else i
    if axis in words:
        return f"{words[axis]} {value + 1}"  # a person counts from 1
    return f"{axis} {value}"


def leaves(
    a: Iterable[tuple[str, Any]], b: Iterable[tuple[str, Any]], runs: int = 1, step: float = np.inf
) -> Iterator[Part]:
    """The named tensors that differ, in their order, each with the first run and entry; with several runs they are axis 0."""
    left, right = dict(a), dict(b)
    for name in left | right:
        if name not in left or name not in right:
            there = ("there", "not there") if name in left else ("not there", "there")
            yield Part(step, name, None, "", there)
            continue
        x, y = (side[name].detach().cpu() for side in (left, right))
        if x.shape != y.shape or x.dtype != y.dtype:
            yield Part(
                step,
                name,
                None,
                " is",
                (f"{x.dtype} {list(x.shape)}", f"{y.dtype} {list(y.shape)}"),
            )
            continue
        places = (~_same(x, y)).nonzero()
        if len(places):
            place = places[0].tolist()
            run = place[0] if runs > 1 and x.shape[0] == runs else None
            entry = place if run is None else place[1:]
            where = f"{entry if entry else ''} ({len(places)} of {x.numel()} entries differ)"
            yield Part(step, name, run, where, (x[tuple(place)].item(), y[tuple(place)].item()))


def files(a: Path, b: Path, runs: int) -> list[str]:
    """What differs in the tensors that both folders keep under one name; a line for each first leaf.

    Raises:
        ValueError: One is not a sound file of tensors.
    """
    said = []
    for path in sorted(a.glob("*.safetensors")):
        if (b / path.name).is_file() and path.stem not in (
            NEWEST,
            PREVIOUS,
        ):  # those may be of other steps
            found = list(leaves(_tensors(path), _tensors(b / path.name), runs))
            if found:
                said.append(f"{path.name}: {len(found)} leaves differ, first {found[0]}")
    return said


def _tensors(path: Path) -> list[tuple[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return list(load_file(path).items())
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is not a sound file of tensors: {' '.join(str(error).split())}"
        ) from error


def folders(a: Path, b: Path) -> tuple[list[str], list[str]]:
    """The settings in which two runs' folders differ, and what differs in what they hold, a line each.

    Raises:
        ValueError: A folder does not hold a finished run, or a spoilt one.
    """
    configs = [archive.read_json(folder / "config.json") for folder in (a, b)]
    left, right = (archive.load(folder) for folder in (a, b))
    parts = results(left, right)
    said = []
    if parts:
        first = parts[0]
        when = "at the end" if np.isinf(first.step) else f"by step {first.step:.0f}"
        said = [
            f"first difference {when}: {first}",
            f"{len(parts)} of {len(left.variables)} variables differ",
        ]
    return settings(*configs), said + files(a, b, left.sizes["run"])
