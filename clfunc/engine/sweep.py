"""`sweep`: many algorithms as one, their states stacked and their functions under `vmap`.

A number that enters an algorithm through `scalar` is a leaf of its state. So members that differ
only in such numbers, and in their keys, are one program: all members have equal functions, and the
functions of the first member serve every state.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch.func import vmap

from clfunc import settings, tree
from clfunc.types import Algorithm, Keys, Params, State


def sweep(algorithms: Sequence[Algorithm]) -> Algorithm:
    """An algorithm whose every tensor has a first axis of runs, one for each member.

    Run i is the run of `algorithms[i]` alone. `init` takes a key for each run, `[runs, 2]`, or one
    for all. Batches, tasks and metrics have the axis of runs too.

    Args:
        algorithms: The members, at least one. They may differ in numbers only.

    Raises:
        ValueError: There is no member, or two members are not one program. The message names the
            first setting in which they differ.

    >>> import clfunc as cl
    >>> model = cl.mlp((1, 2, 2), hidden=(3,), head=cl.til(2, (2, 2)))
    >>> many = cl.sweep([cl.finetuning(model, cl.sgd(lr)) for lr in (0.1, 0.2)])
    >>> params, state = many.init(cl.random.key(0))
    >>> params["hidden1"]["weight"].shape
    torch.Size([2, 3, 4])
    """
    if not algorithms:
        raise ValueError("sweep needs at least one algorithm, given none")
    first = algorithms[0]
    for member in algorithms[1:]:
        _refuse_static_difference(first, member)

    functions = _batched(first)
    if first.bank is not None:
        functions["bank"] = first.bank._replace(**_batched(first.bank))
    return _with_members(first._replace(**functions), tuple(algorithms))


def _batched(part: Any) -> dict[str, Any]:
    """The functions among the fields of a part, under `vmap`."""
    functions: dict[str, Any] = {}
    for name, field in part._asdict().items():
        if callable(field):
            functions[name] = vmap(field)
    return functions


@dataclasses.dataclass(frozen=True, eq=False)
class Members:
    """A sweep's `init`: it is the one function that the members do not share."""

    algorithms: tuple[Algorithm, ...]

    def __call__(self, key: Keys, /) -> tuple[Params, State]:
        keys = key.expand(len(self.algorithms), 2)
        pairs = zip(self.algorithms, keys, strict=True)
        return tree.stack([member.init(run_key) for member, run_key in pairs])


def part(algorithm: Algorithm, runs: Sequence[int]) -> Algorithm:
    """The sweep of some members of a sweep, with the same functions.

    Args:
        algorithm: A sweep. An algorithm by itself is every part of itself.
        runs: The numbers of the members, from 0.

    Raises:
        ValueError: The sweep's `init` was replaced, so that nobody knows what it stacks.
    """
    if members(algorithm) is None:
        return algorithm
    if not isinstance(algorithm.init, Members):
        raise ValueError(
            "part needs a sweep as sweep() makes it, given one with another init:"
            " replace the init of each member"
        )
    chosen = tuple(algorithm.init.algorithms[run] for run in runs)
    return _with_members(algorithm, chosen)


def _with_members(functions: Algorithm, algorithms: tuple[Algorithm, ...]) -> Algorithm:
    listed = [member.settings for member in algorithms]
    return functions._replace(
        init=Members(algorithms),
        settings={"name": "sweep", "members": listed},
    )


def members(algorithm: Algorithm) -> int | None:
    """How many runs a sweep has; None for an algorithm by itself."""
    if algorithm.settings.get("name") != "sweep":
        return None
    return len(algorithm.settings["members"])


def coordinates(algorithm: Algorithm) -> dict[str, list[float]]:
    """The numbers in which the members of a sweep differ: for each its label, and a value a run.

    A label is the last part of the setting's dotted name (`lr` of `tx.lr`). If this is a position,
    it is the last two parts (`betas.0`). If two labels are equal, both are the whole names.
    """
    rows = []
    for member in algorithm.settings.get("members", []):
        rows.append(settings.numbers(member))
    if not rows:
        return {}
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    varied = {name: column for name, column in columns.items() if len(set(column)) > 1}
    labels = [_label(name) for name in varied]
    found = {}
    for name, column in varied.items():
        label = _label(name)
        found[label if labels.count(label) == 1 else name] = column
    return found


def _label(name: str) -> str:
    parts = name.split(".")
    kept = 2 if parts[-1].isdigit() else 1
    return ".".join(parts[-kept:])


def configurations(algorithm: Algorithm, runs: int) -> list[list[int]]:
    """The runs of each configuration, by number. Runs of one configuration differ only in seeds.

    Args:
        algorithm: A sweep, or an algorithm by itself, whose runs are all of one configuration.
        runs: How many runs there are.
    """
    if members(algorithm) is None:
        return [list(range(runs))]
    found: dict[tuple[float, ...], list[int]] = {}
    for run, member in enumerate(algorithm.settings["members"]):
        values = tuple(settings.numbers(member).values())
        found.setdefault(values, []).append(run)
    return list(found.values())


def _refuse_static_difference(first: Algorithm, member: Algorithm) -> None:
    difference = settings.first_difference(
        settings.of_part(first, first.step), settings.of_part(member, member.step)
    )
    if difference is None:
        return
    name, a, b = difference
    raise ValueError(
        "members of a sweep must differ in numbers only,"
        f" given {name} = {settings.shown(a)} and {settings.shown(b)}: run them apart"
    )
