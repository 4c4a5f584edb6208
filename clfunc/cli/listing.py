"""`clfunc list`: everything that has a name, or one thing in full."""

import difflib
import textwrap
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rich.console import Console

from clfunc.cli import registry
from clfunc.compose import explain
from clfunc.models import heads, mlp
from clfunc.transforms import sgd
from clfunc.types import Algorithm


class Kind(NamedTuple):
    """A kind of things that have names."""

    singular: str
    title: str
    table: Mapping[str, registry.Factory]
    owner: str = ""  # of its settings, with {} for the name of the thing


KINDS = (
    Kind("algorithm", "algorithms", registry.ALGORITHMS),
    Kind("wrapper", "wrappers (--wrap)", registry.WRAPPERS),
    Kind("term", "terms (--term)", registry.TERMS, "terms.{}"),
    Kind("memory", "memories (--memory)", registry.MEMORIES, "memory"),
    Kind("optimizer", "optimizers", registry.OPTIMIZERS),
    Kind("model", "models", registry.MODELS),
    Kind("scenario", "scenarios", registry.SCENARIOS),
)
_TASKS = 5  # of the small algorithm that is explained


def prepare(name: str | None, console: Console) -> Callable[[], None]:
    """A function that prints everything, or one thing in full.

    Raises:
        ValueError: Nothing has this name; the message lists names that are near to it.
    """
    if name is None:
        return lambda: list_all(console)
    found = [kind for kind in KINDS if name in kind.table]
    if not found:
        raise ValueError(f"nothing is named {name!r}: {_advice(name)}")

    def work() -> None:
        for number, kind in enumerate(found):
            if number:
                console.print()
            _print_in_full(console, kind, name)

    return work


def list_all(console: Console) -> None:
    """Print everything that has a name, with its settings and papers."""
    for kind in KINDS:
        console.print(f"[bold]{kind.title}[/bold]")
        for name in kind.table:
            _print_briefly(console, kind, name)
    console.print("[bold]datasets[/bold]")
    console.print("  " + ", ".join(registry.DATASETS), highlight=False)


def _advice(name: str) -> str:
    """Which names are near to one that nothing has."""
    names = sorted({known for kind in KINDS for known in kind.table})
    near = difflib.get_close_matches(name, names)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return "`clfunc list` prints all names"


def _print_briefly(console: Console, kind: Kind, name: str) -> None:
    factory = kind.table[name]
    paragraph, papers = registry.about(factory)
    console.print(f"  [bold cyan]{name}[/bold cyan]  {paragraph}", highlight=False)
    for line in _settings(kind, name).values():
        console.print(f"      {line}", highlight=False, markup=False)
    if papers:
        console.print(f"      {papers}", highlight=False, markup=False, style="dim")


def _print_in_full(console: Console, kind: Kind, name: str) -> None:
    factory = kind.table[name]
    paragraph, papers = registry.about(factory)
    meanings = registry.meanings(factory)

    def say(text: str, indent: int, **style: Any) -> None:
        margin = " " * indent
        wrapped = textwrap.fill(
            text,
            width=console.width,
            initial_indent=margin,
            subsequent_indent=margin,
            break_on_hyphens=False,
        )
        console.print(wrapped, highlight=False, markup=False, **style)

    console.print(f"[bold]{kind.singular}[/bold] [bold cyan]{name}[/bold cyan]")
    say(paragraph, 2)
    settings = _settings(kind, name)
    if kind.owner and settings:
        say(f"--{kind.singular} {name}={next(iter(settings)).upper()}", 4)
    for option, line in settings.items():
        say(line, 4)
        if option in meanings:
            say(meanings[option], 8)
    if papers:
        say(papers, 2, style="dim")
    explained = _explained(kind, factory)
    if explained:
        say("what it is made of, on a small network:", 2)
    for line in explained:
        console.print(f"    {line}", highlight=False, markup=False)


def _settings(kind: Kind, name: str) -> dict[str, str]:
    """Each setting of a thing as `--set` takes it, with its default."""
    owner = kind.owner.format(name)
    lines = {}
    for option, default in registry.options(kind.table[name]).items():
        value = f"={default}" if registry.has_default(default) else ""
        lines[option] = f"--set {registry.spelled(owner, option)}{value}"
    return lines


def _explained(kind: Kind, factory: registry.Factory) -> list[str]:
    """The lines that say what an algorithm is made of; none for another kind of thing."""
    if kind.singular != "algorithm":
        return []
    algorithm = small(factory)
    return [] if algorithm is None else explain(algorithm).splitlines()


def small(factory: registry.Factory) -> Algorithm | None:
    """A small algorithm of this factory, on the first head that it accepts; None if there is none.

    >>> small(registry.ALGORITHMS["joint"]).settings["model"]["head"]["name"]
    'mtl'
    """
    classes = 10
    some_heads = (
        heads.dil(_TASKS, classes),
        heads.til(_TASKS, classes),
        heads.mtl(_TASKS, classes),
        heads.stl(classes),
    )
    settings = registry.with_tasks(factory, {}, _TASKS, can_forget=False)
    for head in some_heads:
        model = mlp(64, (16,), head)
        try:
            with warnings.catch_warnings():
                # an algorithm may say that a head that tasks share forgets
                warnings.simplefilter("ignore")
                return factory(model, sgd(0.1), **settings)
        except ValueError:
            continue
    return None
