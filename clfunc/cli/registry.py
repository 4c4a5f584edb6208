"""What the command line can name, read off the library itself: an export in `algorithms` is an
algorithm here.

The first parameter of a factory says what the factory makes: `model` an algorithm, `inner` a
wrapper, `inputs` a network. Of a scenario it says which data the scenario takes: `dataset` one data
set, `datasets` several, `num_tasks` none. The other parameters are what `--set` sets.
"""

import ast
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

from clfunc import algorithms, datasets, models, scenarios, transforms
from clfunc.scenarios import Scenario
from clfunc.types import choice

Factory = Callable[..., Any]
Arrangement = Callable[[Scenario, int], Scenario]

# The parameters that other flags give, or that a command line cannot give.
_NOT_SETTINGS = {
    "dataset",
    "datasets",
    "dtype",
    "head",
    "hidden",
    "inner",
    "inputs",
    "key",
    "loss",
    "model",
    "num_tasks",
    "paradigm",
    "forget_sets",
    "tx",
    "valid",
}
_LARGEST = 10**18  # a whole number below it fits in an int64 tensor


def first_parameter(factory: Factory) -> str:
    """The name of a factory's first parameter.

    >>> first_parameter(SCENARIOS["permuted"])
    'dataset'
    """
    return next(iter(inspect.signature(factory).parameters))


def _factories(module: Any, first: str) -> dict[str, Factory]:
    """The public functions of a module whose first parameter has this name, in alphabetic order."""
    found = {}
    for name, value in sorted(vars(module).items()):
        public = inspect.isfunction(value) and not name.startswith("_")
        if public and first_parameter(value) == first:
            found[name] = value
    return found


def _mix_tasks(scenario: Scenario, task: int) -> Scenario:
    return scenarios.joint(scenario)


def _pick_task(scenario: Scenario, task: int) -> Scenario:
    if not 1 <= task <= scenario.num_tasks:
        raise ValueError(f"--task must be in 1..{scenario.num_tasks}, given {task}")
    return scenarios.single(scenario, task - 1)


ALGORITHMS = _factories(algorithms, "model")
WRAPPERS = _factories(algorithms, "inner")
OPTIMIZERS = {name: getattr(transforms, name) for name in ("sgd", "adam", "adamw", "upgd")}
MODELS = _factories(models, "inputs")
_STREAMS = ("permuted", "split", "rotated", "combined", "slowly_changing_regression")
SCENARIOS = {name: getattr(scenarios, name) for name in _STREAMS}
DATASETS = dict.fromkeys(datasets.names, datasets.load)

# How the scenario is arranged for an algorithm that does not train task after task; it is given the
# scenario and --task, which counts from 1.
ARRANGEMENTS: dict[str, Arrangement] = {"joint": _mix_tasks, "single": _pick_task}


def named(kind: str, name: str, table: Mapping[str, Factory]) -> Factory:
    """The factory of this name.

    Raises:
        ValueError: The table has no such name; the message lists the names that it has.
    """
    if name not in table:
        raise ValueError(f"--{kind} must be one of {', '.join(table)}, given {name!r}")
    return table[name]


def options(factory: Factory) -> dict[str, Any]:
    """The settings of a factory with their defaults, as `--set` names them.

    >>> list(options(OPTIMIZERS["sgd"]))[:2]
    ['lr', 'momentum']
    """
    settings = _parameters(factory)
    return {name: parameter.default for name, (_, parameter) in settings.items()}


def _parameters(factory: Factory) -> dict[str, tuple[str, inspect.Parameter]]:
    """Each setting of a factory: the argument that has it, and how it is declared.

    An argument whose default is a tuple with named fields (the `gates` of `hat`) has its fields as
    settings.
    """
    found: dict[str, tuple[str, inspect.Parameter]] = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        if name in _NOT_SETTINGS or parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        if hasattr(parameter.default, "_fields"):
            fields = inspect.signature(type(parameter.default)).parameters
            for field, declared in fields.items():
                found[field] = (name, declared)
        else:
            found[name] = (name, parameter)
    return found


def route(
    settings: Mapping[str, Any], factories: Mapping[str, Factory]
) -> dict[str, dict[str, Any]]:
    """Give each setting to the first factory that takes it.

    Raises:
        ValueError: No factory takes a setting, and the message lists what can be set; or the value
            of a setting is of the wrong kind.
    """
    takers: dict[str, str] = {}
    for name, factory in factories.items():
        for option in options(factory):
            takers.setdefault(option, name)
    routed: dict[str, dict[str, Any]] = {name: {} for name in factories}
    for setting, value in settings.items():
        if setting not in takers:
            known = ", ".join(sorted(takers))
            raise ValueError(f"cannot set {setting!r} here: one of {known}")
        taker = takers[setting]
        argument, parameter = _parameters(factories[taker])[setting]
        _check_value(value, parameter)
        if argument == setting:
            routed[taker][setting] = value
        else:
            default = inspect.signature(factories[taker]).parameters[argument].default
            part = routed[taker].get(argument, default)
            routed[taker][argument] = part._replace(**{setting: value})
    return routed


# What a message says of the kind of a setting's default, and the types that fit it.
_KINDS: dict[type, tuple[str, Any]] = {
    bool: ("true or false", bool),
    str: ("a word", str),
    tuple: ("numbers in brackets", (tuple, list)),
    int: ("a whole number", int),
}
_NUMBER = ("a number", (int, float))


def _check_value(value: Any, setting: inspect.Parameter) -> None:
    """Raise ValueError unless a value is of its setting's kind and no number in it is too large."""
    annotation = setting.annotation
    optional = setting.default is None
    wanted, kind = _KINDS.get(_default_type(setting), _NUMBER)
    entries = value if isinstance(value, (tuple, list)) else []
    entry_kind = int if get_args(annotation) == (int,) else (int, float)
    fits = _is(value, kind) and all(_is(entry, entry_kind) for entry in entries)
    if not fits and not (optional and value is None):
        raise ValueError(f"{setting.name} must be {wanted}, given {value!r}")
    if get_origin(annotation) is Literal:
        choice(value, setting.name, get_args(annotation))
    for number in entries or [value]:
        if isinstance(number, int) and abs(number) > _LARGEST:
            raise ValueError(f"{setting.name} must be below {_LARGEST:.0e}, given {number}")


def _default_type(setting: inspect.Parameter) -> type:
    """The type of a setting's default; where the default is None, the first type of its union."""
    if setting.default is None:
        return next(iter(get_args(setting.annotation)), float)
    found = type(setting.default)
    if found is int and setting.annotation is not int:
        return float  # the default is a number that happens to be whole
    return found


def _is(value: Any, kind: Any) -> bool:
    """`isinstance`, but True and False are no numbers."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind)


def parsed(pair: str, flag: str) -> tuple[str, str]:
    """The name and the value of `name=value`.

    >>> parsed("lr=0.1", "--set")
    ('lr', '0.1')
    """
    name, equals, value = pair.partition("=")
    if not (name and equals and value):
        raise ValueError(f"{flag} takes name=value, given {pair!r}")
    return name.strip(), value.strip()


_WORDS = {"true": True, "false": False, "none": None}


def literal(text: str) -> Any:
    """A value as a person types it: a number, true, false, none, a list, or else a word.

    >>> literal("0.5"), literal("True"), literal("[1, 2]"), literal("relu")
    (0.5, True, [1, 2], 'relu')
    """
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def about(factory: Factory) -> tuple[str, str]:
    """The first sentence of the factory's file, and the papers that the file cites."""
    text = inspect.getdoc(sys.modules[factory.__module__]) or ""
    sentence = " ".join(text.split("\n\n")[0].split())
    papers = []
    for line in map(str.strip, text.splitlines()):
        if ("arXiv:" in line or line.startswith("[")) and line not in sentence:
            papers.append(line)
    return sentence, " ".join(papers)
