"""`sweep`: many algorithms as one, their states stacked and their functions under `vmap`.

A number that enters an algorithm through `scalar` is a leaf of its state, so members that differ in such numbers, and in
their keys, are one program. Every member's functions are the same, and any of them will do for all.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.func import vmap

from clfunc import tree
from clfunc.settings import of_part
from clfunc.types import Algorithm, Keys, Params, Settings, State


def sweep(algorithms: Sequence[Algorithm]) -> Algorithm:
    """An algorithm whose every tensor has a first axis of runs, one for each member.

    `init` takes a key a run, `[runs, 2]`, or one for all. Batches, tasks and metrics have the axis too. Run i is what
    `algorithms[i]` would be alone.

    Raises:
        ValueError: No members, or members that are not one program: the setting in which they differ is named.
    """
    if not algorithms:
        raise ValueError("sweep needs at least one algorithm, given none")
    first = algorithms[0]
    for member in algorithms[1:]:
        _refuse_static_difference(of_part(first, first.step), of_part(member, member.step))

    fields: dict[str, Any] = {name: vmap(f) for name, f in first._asdict().items() if callable(f)}
    if first.bank is not None:
        hooks: dict[str, Any] = {name: vmap(f) for name, f in first.bank._asdict().items() if callable(f)}
        fields["bank"] = first.bank._replace(**hooks)
    return _of(first._replace(**fields), tuple(algorithms))


@dataclasses.dataclass(frozen=True, eq=False)
class Members:
    """A sweep's `init`, which is all that its members do not share."""

    algorithms: tuple[Algorithm, ...]

    def __call__(self, key: Keys, /) -> tuple[Params, State]:
        keys = key.expand(len(self.algorithms), 2)
        return tree.stack([member.init(k) for member, k in zip(self.algorithms, keys, strict=True)])


def part(algorithm: Algorithm, runs: Sequence[int]) -> Algorithm:
    """The sweep of some of a sweep's members, by number: with the same functions, so programs compiled for one serve both.

    An algorithm by itself is every part of itself.

    Raises:
        ValueError: The sweep's `init` was replaced by one that does not say what it stacks.
    """
    if members(algorithm) is None:
        return algorithm
    if not isinstance(algorithm.init, Members):
        raise ValueError(
            "part needs a sweep as sweep() makes it, given one with another init: replace the members' own"
        )
    return _of(algorithm, tuple(algorithm.init.algorithms[run] for run in runs))


def _of(functions: Algorithm, algorithms: tuple[Algorithm, ...]) -> Algorithm:
    settings = {"name": "sweep", "members": [member.settings for member in algorithms]}
    return functions._replace(init=Members(algorithms), settings=settings)


def members(algorithm: Algorithm) -> int | None:
    """How many runs a sweep has; None for an algorithm by itself."""
    return len(algorithm.settings["members"]) if algorithm.settings.get("name") == "sweep" else None


def coordinates(algorithm: Algorithm) -> dict[str, list[float]]:
    """The numbers in which a sweep's members differ, by the shortest name that tells them apart, one value a run."""
    rows = [numbers(settings) for settings in algorithm.settings.get("members", [])]
    differing = [name for name in (rows[0] if rows else {}) if len({row[name] for row in rows}) > 1]
    short = {name: name.split(".")[-1] for name in differing}
    unique = {name: s if list(short.values()).count(s) == 1 else name for name, s in short.items()}
    return {unique[name]: [row[name] for row in rows] for name in differing}


def configurations(algorithm: Algorithm, runs: int) -> list[list[int]]:
    """The runs of each configuration, by number: those that differ in nothing but their seeds."""
    rows = algorithm.settings["members"] if members(algorithm) else [{}] * runs
    found: dict[tuple[float, ...], list[int]] = {}
    for run, settings in enumerate(rows):
        found.setdefault(tuple(numbers(settings).values()), []).append(run)
    return list(found.values())


def numbers(settings: Settings) -> dict[str, float]:
    """The settings that may differ within a sweep, by dotted name."""
    return {name: float(leaf) for name, leaf in tree.items(settings) if isinstance(leaf, Tensor)}


def plain(settings: Any) -> Any:
    """Settings as JSON can hold them: tensors become numbers."""
    if isinstance(settings, Tensor):
        return float(settings)
    if isinstance(settings, dict):
        return {name: plain(value) for name, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [plain(value) for value in settings]
    return settings if isinstance(settings, (str, int, float, bool, type(None))) else str(settings)


def _refuse_static_difference(a: Settings, b: Settings) -> None:
    left, right = dict(tree.items(a)), dict(tree.items(b))
    for name in sorted(left.keys() | right.keys()):
        x, y = left.get(name), right.get(name)
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            continue
        if x is not y and x != y:
            raise ValueError(
                f"members of a sweep must differ in numbers only, given {name} = {_shown(x)} and {_shown(y)}: run them apart"
            )


def _shown(value: Any) -> Any:
    return float(value) if isinstance(value, Tensor) else value
