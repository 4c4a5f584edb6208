"""Where two runs part: the first step, run and leaf at which their results differ.

Equal means equal value by value: NaN equals NaN, 0 equals -0, and nothing else is close enough.
Messages are for a person: they count events and tasks from 1, and runs from 0 as every label does.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clfunc.driver.checkpoint import NEWEST, PREVIOUS
from clfunc.results import store

if TYPE_CHECKING:
    import xarray

# Settings on which no result depends.
_ASIDE = ("arguments.out", "arguments.progress", "arguments.resume")
_NOTHING = "nothing"  # shown for a field that one side does not have
_MOST_SHOWN = 4  # fields of a setting; of more only the count is shown
# Axis -> the variable that holds the steps of its entries.
_STEPS = {"step": "step", "epoch": "epoch_step", "probe": "probe_step"}
_COUNTED_FROM_1 = {"event": "event", "tested": "task"}  # axis -> its word


class Difference(NamedTuple):
    """The first place at which two things of one name differ."""

    step: float  # training steps done there; infinity for the end
    name: str
    run: int | None
    where: str
    values: tuple[Any, Any]

    def __str__(self) -> str:
        of_run = "" if self.run is None else f" of run {self.run}"
        left, right = self.values
        return f"{self.name}{of_run}{self.where}: {left} and {right}"


def settings(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The fields in which two configurations differ, a line each.

    >>> settings({"lr": 0.1, "tasks": 2}, {"lr": 0.2, "tasks": 2})
    ['lr: 0.1 and 0.2']
    """
    return list(_differing_fields("", a, b))


def _differing_fields(name: str, a: Any, b: Any) -> Iterator[str]:
    """A line for each field below a name that differs, or for everything there that only one side
    has.
    """
    if name in _ASIDE:
        return
    left = _fields(a)
    right = _fields(b)
    if left is None or right is None or isinstance(a, dict) != isinstance(b, dict):
        if str(a) != str(b):
            yield f"{name}: {_shown(a)} and {_shown(b)}"
        return
    if isinstance(a, list) and len(a) != len(b):
        yield f"{name}: {_shown(a)} and {_shown(b)}"
        common = range(min(len(a), len(b)))
        left = {i: left[i] for i in common}
        right = {i: right[i] for i in common}
    for key in left | right:
        field = f"{name}.{key}".lstrip(".")
        yield from _differing_fields(field, left.get(key, _NOTHING), right.get(key, _NOTHING))


def _fields(value: Any) -> dict[Any, Any] | None:
    """The fields of a dict or a list; None for anything else."""
    if isinstance(value, dict):
        return value
    return dict(enumerate(value)) if isinstance(value, list) else None


def _shown(value: Any) -> str:
    fields = _fields(value)
    if fields is None:
        return str(value)
    is_flat = not any(map(_fields, fields.values()))
    if is_flat and len(fields) <= _MOST_SHOWN:
        return str(value)
    return f"{len(fields)} entries"


def results(a: "xarray.Dataset", b: "xarray.Dataset") -> list[Difference]:
    """Where each variable first differs, the earliest step first; those of one step are in the
    order of the file.
    """
    names = dict.fromkeys([*map(str, a.variables), *map(str, b.variables)])
    found = []
    for name in names:
        difference = _variable(name, a, b)
        if difference is not None:
            found.append(difference)
    return sorted(found, key=lambda difference: difference.step)


def _variable(
    name: str,
    a: "xarray.Dataset",
    b: "xarray.Dataset",
) -> Difference | None:
    """Where a variable first differs; None if it does not."""

    def at_the_end(where: str, values: tuple[Any, Any]) -> Difference:
        return Difference(step=np.inf, name=name, run=None, where=where, values=values)

    if name not in a.variables or name not in b.variables:
        return at_the_end("", _presence(name in a.variables))
    axes = a[name].dims
    left = a[name].values
    right = b[name].values
    if axes != b[name].dims or left.ndim != right.ndim:
        return at_the_end(" has axes", (axes, b[name].dims))
    # Of two sizes the common entries are compared first.
    sizes = zip(left.shape, right.shape, strict=True)
    common = tuple(slice(0, min(pair)) for pair in sizes)
    is_same = np.asarray(_same(left[common], right[common]), dtype=bool)
    places = [tuple(place) for place in np.argwhere(~is_same).tolist()]
    if not places:
        same_shape = left.shape == right.shape
        return None if same_shape else at_the_end(" has shape", (left.shape, right.shape))
    place = min(places, key=lambda place: (_step(a, axes, place), place))
    return Difference(
        step=_step(a, axes, place),
        name=name,
        run=place[axes.index("run")] if "run" in axes else None,
        where=_where(a, axes, place),
        values=(left[place], right[place]),
    )


def _presence(is_left: bool) -> tuple[str, str]:
    return ("there", "not there") if is_left else ("not there", "there")


def _same(x: Any, y: Any) -> Any:
    """Which entries of two arrays, or of two tensors, are equal. NaN differs from itself."""
    return (x == y) | ((x != x) & (y != y))


def _step(
    data: "xarray.Dataset",
    axes: tuple[Any, ...],
    place: tuple[int, ...],
) -> float:
    """Training steps done at an entry of a variable."""
    for axis, position in zip(axes, place, strict=True):
        if axis in _STEPS and _STEPS[axis] in data.variables:
            return float(data[_STEPS[axis]].values[position])
        if axis == "event" and "training_task" in data.variables:
            events = data["task"] if "task" in data.variables else data["event"]
            is_inside = data["training_task"].values == events.values[position]
            steps = data["step"].values[is_inside]
            return float(steps[-1]) if len(steps) else np.inf
    return np.inf


def _where(
    data: "xarray.Dataset",
    axes: tuple[Any, ...],
    place: tuple[int, ...],
) -> str:
    """An entry of a variable in words, without its run."""
    words = []
    for axis, position in zip(axes, place, strict=True):
        if axis != "run":
            words.append(_named(data, axis, position))
    return " at " + ", ".join(words) if words else ""


def _named(data: "xarray.Dataset", axis: Any, position: int) -> str:
    """An entry of an axis in the words of labels."""
    if axis in _STEPS and _STEPS[axis] in data.variables:
        return f"step {data[_STEPS[axis]].values[position]}"
    value = data[axis].values[position] if axis in data.variables else position
    if axis in _COUNTED_FROM_1:
        return f"{_COUNTED_FROM_1[axis]} {value + 1}"
    return f"{axis} {value}"


def leaves(
    a: Iterable[tuple[str, Any]],
    b: Iterable[tuple[str, Any]],
    runs: int = 1,
    step: float = np.inf,
) -> Iterator[Difference]:
    """The named tensors that differ, in their order, each with the first run and entry that does.

    Args:
        a: Pairs of a name and a tensor.
        b: Likewise.
        runs: How many runs there are; several are axis 0 of the tensors.
        step: Training steps done, for the differences found.
    """
    left = dict(a)
    right = dict(b)
    for name in left | right:
        if name not in left or name not in right:
            yield Difference(step, name, None, "", _presence(name in left))
            continue
        x = left[name].detach().cpu()
        y = right[name].detach().cpu()
        if x.shape != y.shape or x.dtype != y.dtype:
            yield Difference(step, name, None, " is", (_kind(x), _kind(y)))
            continue
        places = (~_same(x, y)).nonzero().tolist()
        if places:
            place = places[0]
            has_runs = runs > 1 and x.shape[0] == runs
            entry = place[1:] if has_runs else place
            count = f"({len(places)} of {x.numel()} entries differ)"
            yield Difference(
                step=step,
                name=name,
                run=place[0] if has_runs else None,
                where=f"{entry or ''} {count}",
                values=(x[tuple(place)].item(), y[tuple(place)].item()),
            )


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype} {list(leaf.shape)}"


def files(a: Path, b: Path, runs: int) -> list[str]:
    """What differs in the files of tensors that both folders have; a line for the first leaf of
    each file.

    Raises:
        ValueError: A file is damaged.
    """
    lines = []
    for path in sorted(a.glob("*.safetensors")):
        is_checkpoint = path.stem in (NEWEST, PREVIOUS)  # two checkpoints may be of other steps
        if is_checkpoint or not (b / path.name).is_file():
            continue
        found = list(leaves(_tensors(path), _tensors(b / path.name), runs))
        if found:
            lines.append(f"{path.name}: {len(found)} leaves differ, first {found[0]}")
    return lines


def _tensors(path: Path) -> list[tuple[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return list(load_file(path).items())
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not a sound file of tensors: {reason}") from error


def folders(a: Path, b: Path) -> tuple[list[str], list[str]]:
    """The settings in which the runs of two folders differ, and what differs in their results, a
    line each.

    Raises:
        ValueError: A folder does not hold a finished run, or a damaged one.
    """
    left_config = store.read_json(a / "config.json")
    right_config = store.read_json(b / "config.json")
    left = store.load(a)
    right = store.load(b)
    lines = []
    differences = results(left, right)
    if differences:
        first = differences[0]
        when = "at the end" if np.isinf(first.step) else f"by step {first.step:.0f}"
        lines.append(f"first difference {when}: {first}")
        lines.append(f"{len(differences)} of {len(left.variables)} variables differ")
    lines += files(a, b, left.sizes["run"])
    return settings(left_config, right_config), lines
