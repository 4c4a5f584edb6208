"""What the command line can name, read off the library itself: an export in `algorithms` is an algorithm here.

Factories say what they take: one whose first argument is `model` is an algorithm, `inner` a wrapper. Their keyword arguments
are what `--set` sets.
"""

import ast
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

from clfunc import algorithms, datasets, models, scenarios, transforms
from clfunc.types import choice

Factory = Callable[..., Any]
_GIVEN = {
    "model",
    "tx",
    "inner",
    "loss",
    "requests",
    "num_tasks",
    "head",
    "inputs",
    "hidden",
    "dtype",
}
_LARGEST = 10**18  # of whole numbers: what a tensor of them holds
_GIVEN |= {"dataset", "datasets", "key", "paradigm", "valid"}


def _factories(module: Any, first: str) -> dict[str, Factory]:
    public = {
        name: f
        for name, f in vars(module).items()
        if inspect.isfunction(f) and not name.startswith("_")
    }
    return {
        name: f
        for name, f in sorted(public.items())
        if next(iter(inspect.signature(f).parameters)) == first
    }


ALGORITHMS = _factories(algorithms, "model")
WRAPPERS = _factories(algorithms, "inner")
OPTIMIZERS = {name: getattr(transforms, name) for name in ("sgd", "adam", "adamw", "upgd")}
MODELS = _factories(models, "inputs")
_STREAMS = ("permuted", "split", "rotated", "combined", "slowly_changing_regression")
SCENARIOS = {name: getattr(scenarios, name) for name in _STREAMS}
DATASETS = dict.fromkeys(datasets.names, datasets.load)


def named(kind: str, name: str, table: Mapping[str, Factory]) -> Factory:
    """The entry of this name; ValueError lists those there are."""
    if name not in table:
        raise ValueError(f"--{kind} must be one of {', '.join(table)}, given {name!r}")
    return table[name]


def options(factory: Factory) -> dict[str, Any]:
    """The settings of a factory with their defaults, as `--set` names them."""
    return {name: parameter.default for name, (_, parameter) in _parameters(factory).items()}


def _parameters(factory: Factory) -> dict[str, tuple[str, inspect.Parameter]]:
    """Each setting of a factory: the argument that has it, and how it is declared.

    An argument whose default is a tuple with named fields (the `gates` of `hat`) has its fields as settings.
    """
    found: dict[str, tuple[str, inspect.Parameter]] = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        if name in _GIVEN or parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        if hasattr(parameter.default, "_fields"):
            fields = inspect.signature(type(parameter.default)).parameters
            found |= {field: (name, declared) for field, declared in fields.items()}
        else:
            found[name] = (name, parameter)
    return found


def route(
    settings: Mapping[str, Any], factories: Mapping[str, Factory]
) -> dict[str, dict[str, Any]]:
    """Each setting, with the first factory that takes it.

    Raises:
        ValueError: None does, and the message lists what can be set; or the value is of the wrong kind.
    """
    routed: dict[str, dict[str, Any]] = {name: {} for name in factories}
    for setting, value in settings.items():
        owner = next(
            (name for name, factory in factories.items() if setting in options(factory)), None
        )
        if owner is None:
            known = sorted(
                {option for factory in factories.values() for option in options(factory)}
            )
            raise ValueError(f"cannot set {setting!r} here: one of {', '.join(known)}")
        argument, parameter = _parameters(factories[owner])[setting]
        fitting = _fitting(value, parameter)
        if argument == setting:
            routed[owner][setting] = fitting
        else:
            default = inspect.signature(factories[owner]).parameters[argument].default
            part = routed[owner].get(argument, default)
            routed[owner][argument] = part._replace(**{setting: fitting})
    return routed


def _fitting(value: Any, setting: inspect.Parameter) -> Any:
    """`value`, if it is of the default's kind, or where that is None, of the annotation's; ValueError says what would be."""
    kinds: dict[type, tuple[str, Any]] = {
        bool: ("true or false", bool),
        str: ("a word", str),
        tuple: ("numbers in brackets", (tuple, list)),
        int: ("a whole number", int),
    }
    optional = setting.default is None
    given = next(iter(get_args(setting.annotation)), float) if optional else type(setting.default)
    if given is int and not optional and setting.annotation is not int:
        given = float  # a number that happens to be whole
    wanted, kind = kinds.get(given, ("a number", (int, float)))
    listed = value if isinstance(value, (tuple, list)) else []
    whole = get_args(setting.annotation) == (int,)
    right = _is(value, kind) and all(_is(entry, int if whole else (int, float)) for entry in listed)
    if not right and not (optional and value is None):
        raise ValueError(f"{setting.name} must be {wanted}, given {value!r}")
    if get_origin(setting.annotation) is Literal:
        choice(value, setting.name, get_args(setting.annotation))
    for number in listed or [value]:
        if isinstance(number, int) and abs(number) > _LARGEST:
            raise ValueError(f"{setting.name} must be below {_LARGEST:.0e}, given {number}")
    return value


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def parsed(pair: str, flag: str) -> tuple[str, str]:
    """The two sides of `name=value`."""
    name, equals, value = pair.partition("=")
    if not (name and equals and value):
        raise ValueError(f"{flag} takes name=value, given {pair!r}")
    return name.strip(), value.strip()


def literal(text: str) -> Any:
    """A value as it was typed: a number, true, false, none, a list, or else a word."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def about(factory: Factory) -> tuple[str, str]:
    """The first sentence of the factory's file, and the papers that it cites."""
    text = inspect.getdoc(sys.modules[factory.__module__]) or ""
    sentence = " ".join(text.split("\n\n")[0].split())
    papers = [
        line.strip()
        for line in text.splitlines()
        if "arXiv:" in line or line.strip().startswith("[")
    ]
    return sentence, " ".join(paper for paper in papers if paper not in sentence)
