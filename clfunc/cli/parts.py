"""Terms and a memory, as `--term NAME=VALUE` and `--memory NAME=VALUE` give them.

The value is that of the first setting of the part. `--set terms.NAME.SETTING=VALUE` and
`--set memory.SETTING=VALUE` give the others.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clfunc.cli import registry
from clfunc.cli.arguments import Run
from clfunc.settings import declared


class Part(NamedTuple):
    """A term or a memory that the arguments ask for."""

    flag: str  # --term or --memory
    name: str
    factory: registry.Factory
    value: str | None  # as it is typed; None where only the name is given

    @property
    def owner(self) -> str:
        """What the names of its settings begin with."""
        return "memory" if self.flag == "--memory" else f"terms.{self.name}"

    @property
    def first_setting(self) -> str | None:
        """The setting that the value is for; None where nothing can be set."""
        option = next(iter(registry.options(self.factory)), None)
        return None if option is None else registry.spelled(self.owner, option)


def given(args: Run) -> list[Part]:
    """The terms and the memory that the arguments ask for, the terms in their order.

    Raises:
        ValueError: An unknown name, a name given twice, or an algorithm that takes no such part.
    """
    parts = [_parsed("term", text, registry.TERMS) for text in args.term]
    names = [part.name for part in parts]
    for name in names:
        times = names.count(name)
        if times > 1:
            raise ValueError(f"--term {name} is given {times} times: give each term once")
    if parts:
        _refuse_algorithm_without(args.algorithm, "terms")
    if args.memory is not None:
        parts.append(_parsed("memory", args.memory, registry.MEMORIES))
        _refuse_algorithm_without(args.algorithm, "memory")
    return parts


def factories(parts: Sequence[Part]) -> dict[str, registry.Factory]:
    """The factory of each part, by what the names of its settings begin with."""
    return {part.owner: part.factory for part in parts}


def settings(parts: Sequence[Part]) -> list[tuple[str, str]]:
    """The settings that the values of the parts give, as names and texts.

    Raises:
        ValueError: A part has a value, and nothing can be set.
    """
    pairs = []
    for part in parts:
        if part.value is None:
            continue
        if part.first_setting is None:
            raise ValueError(f"{part.flag} {part.name} takes no value, given {part.value!r}")
        pairs.append((part.first_setting, part.value))
    return pairs


def refuse_unset(parts: Sequence[Part], names: Sequence[str]) -> None:
    """Raise ValueError for a setting without a default that nothing gives.

    Args:
        parts: The parts.
        names: The settings that are given.
    """
    for part in parts:
        for option, default in registry.options(part.factory).items():
            name = registry.spelled(part.owner, option)
            if registry.has_default(default) or name in names:
                continue
            if name == part.first_setting:
                raise ValueError(
                    f"{part.flag} {part.name} has no default {option}:"
                    f" give {part.flag} {part.name}={option.upper()}"
                )
            raise ValueError(
                f"{part.flag} {part.name} has no default {option}: give --set {name}=VALUE"
            )


def made(
    parts: Sequence[Part],
    settings: Mapping[str, Mapping[str, Any]],
    num_tasks: int,
    *,
    can_forget: bool,
) -> dict[str, Any]:
    """The parts as keywords of the algorithm's factory.

    Args:
        parts: The parts.
        settings: The settings of each part, by its owner.
        num_tasks: Number of tasks of the scenario.
        can_forget: Whether tasks may have to be forgotten. Then each term keeps apart what it
            learned from each task, if it can.

    Raises:
        ValueError: A part refuses a setting, a term draws and there is no memory, or nothing draws
            from the memory.
    """
    terms = []
    keywords: dict[str, Any] = {}
    for part in parts:
        own = registry.with_tasks(part.factory, settings[part.owner], num_tasks, can_forget)
        try:
            one = part.factory(**own)
        except ValueError as error:
            raise ValueError(f"{part.flag} {part.name}: {error}") from error
        if part.flag == "--memory":
            keywords["memory"] = one
        else:
            terms.append(one)
    if terms:
        keywords["terms"] = tuple(terms)
    _refuse_unread(parts, {term.name: term.settings for term in terms})
    return keywords


def _parsed(kind: str, text: str, table: Mapping[str, registry.Factory]) -> Part:
    """The part that `NAME` or `NAME=VALUE` asks for."""
    name, equals, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not name or (equals and not value):
        raise ValueError(f"--{kind} takes NAME or NAME=VALUE, given {text!r}")
    factory = registry.named(kind, name, table)
    return Part(flag=f"--{kind}", name=name, factory=factory, value=value or None)


def _refuse_algorithm_without(algorithm: str, argument: str) -> None:
    """Raise ValueError unless the algorithm takes terms, or a memory."""
    takers = []
    for name, factory in registry.ALGORITHMS.items():
        if registry.has_parameter(factory, argument):
            takers.append(name)
    if algorithm in takers:
        return
    if argument == "memory" and registry.has_own_memory(registry.ALGORITHMS[algorithm]):
        raise ValueError(
            f"--algorithm {algorithm} has a memory of its own:"
            " leave out --memory, and give --set capacity=VALUE"
        )
    raise ValueError(
        f"--algorithm {algorithm} takes no {argument}: give one that does, {' or '.join(takers)}"
    )


def _refuse_unread(parts: Sequence[Part], terms: Mapping[str, Any]) -> None:
    """Raise ValueError for a term that draws without a memory, or a memory that no term draws from.

    The library refuses both too, and names its functions; this names the flags.
    """
    readers = [name for name, _ in declared(dict(terms), "draws")]
    stores = [part.name for part in parts if part.flag == "--memory"]
    if readers and not stores:
        raise ValueError(
            f"--term {readers[0]} needs a memory: give one, such as --memory reservoir=500"
        )
    if stores and not readers:
        raise ValueError(
            f"--memory {stores[0]} is read by no term: give one that does,"
            " such as --term replay=32, or leave the memory out"
        )
