"""What the command line can name, read off the library itself: an export in `algorithms` is an
algorithm here.

The first parameter of a factory says what the factory makes: `model` an algorithm, `inner` a
wrapper, `inputs` a network. Of a scenario it says which data the scenario takes: `dataset` one data
set, `datasets` several, `num_tasks` none. The other parameters are what `--set` sets. Every public
function of `terms` makes a term, and every one of `memories` makes a memory.
"""

import ast
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

from clfunc import algorithms, datasets, memories, models, scenarios, terms, transforms
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
    "memory",
    "model",
    "name",
    "num_tasks",
    "paradigm",
    "forget_sets",
    "terms",
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


def has_parameter(factory: Factory, name: str) -> bool:
    """Whether a factory has a parameter of this name.

    >>> has_parameter(ALGORITHMS["finetuning"], "terms")
    True
    """
    return name in inspect.signature(factory).parameters


def has_own_memory(factory: Factory) -> bool:
    """Whether an algorithm's factory makes a memory: it then has a parameter for the capacity.

    >>> has_own_memory(ALGORITHMS["er"])
    True
    """
    return has_parameter(factory, "capacity")


def _public(module: Any) -> dict[str, Factory]:
    """The public functions of a module, in alphabetic order."""
    found: dict[str, Factory] = {}
    for name, value in sorted(vars(module).items()):
        if inspect.isfunction(value) and not name.startswith("_"):
            found[name] = value
    return found


def _factories(module: Any, first: str) -> dict[str, Factory]:
    """The public functions of a module whose first parameter has this name, in alphabetic order."""
    found = {}
    for name, factory in _public(module).items():
        if first_parameter(factory) == first:
            found[name] = factory
    return found


def _mix_tasks(scenario: Scenario, task: int) -> Scenario:
    return scenarios.joint(scenario)


def _pick_task(scenario: Scenario, task: int) -> Scenario:
    if not 1 <= task <= scenario.num_tasks:
        raise ValueError(f"--task must be in 1..{scenario.num_tasks}, given {task}")
    return scenarios.single(scenario, task - 1)


ALGORITHMS = _factories(algorithms, "model")
WRAPPERS = _factories(algorithms, "inner")
TERMS = _public(terms)
# `memories.pixels` stands around another; the command line adds it where it can
MEMORIES = {name: made for name, made in _public(memories).items() if name != "pixels"}
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


def has_default(default: Any) -> bool:
    """Whether what `options` says of a setting is a default; some settings have none.

    >>> has_default(options(TERMS["replay"])["batch"])
    False
    """
    return default is not inspect.Parameter.empty


def spelled(owner: str, option: str) -> str:
    """The name of a setting for `--set`. That of a term or a memory begins with its owner.

    >>> spelled("terms.ewc", "strength"), spelled("optimizer", "lr")
    ('terms.ewc.strength', 'lr')
    """
    is_part = owner == "memory" or owner.startswith("terms.")
    return f"{owner}.{option}" if is_part else option


def with_tasks(
    factory: Factory, settings: Mapping[str, Any], num_tasks: int, can_forget: bool
) -> dict[str, Any]:
    """The settings of a factory, and the number of tasks where it takes one.

    A factory that takes it with a default (`terms.ewc`) keeps something for each task only if tasks
    may have to be forgotten.
    """
    parameter = inspect.signature(factory).parameters.get("num_tasks")
    if parameter is None or (has_default(parameter.default) and not can_forget):
        return dict(settings)
    return {**settings, "num_tasks": num_tasks}


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

    Args:
        settings: The settings, as `spelled` names them.
        factories: The factories by their owners: `algorithm`, `model`, `terms.ewc`, ...

    Raises:
        ValueError: No factory takes a setting, and the message lists what can be set; or the value
            of a setting is of the wrong kind.
    """
    takers: dict[str, tuple[str, str]] = {}
    for name, factory in factories.items():
        for option in options(factory):
            takers.setdefault(spelled(name, option), (name, option))
    routed: dict[str, dict[str, Any]] = {name: {} for name in factories}
    for setting, value in settings.items():
        if setting not in takers:
            known = ", ".join(sorted(takers))
            raise ValueError(f"cannot set {setting!r} here: one of {known}")
        taker, option = takers[setting]
        argument, parameter = _parameters(factories[taker])[option]
        _check_value(value, setting, parameter)
        if argument == option:
            routed[taker][option] = value
        else:
            default = inspect.signature(factories[taker]).parameters[argument].default
            fields = routed[taker].get(argument, default)
            routed[taker][argument] = fields._replace(**{option: value})
    return routed


# What a message says of the kind of a setting's default, and the types that fit it.
_KINDS: dict[type, tuple[str, Any]] = {
    bool: ("true or false", bool),
    str: ("a word", str),
    tuple: ("numbers in brackets", (tuple, list)),
    int: ("a whole number", int),
}
_NUMBER = ("a number", (int, float))


def _check_value(value: Any, name: str, setting: inspect.Parameter) -> None:
    """Raise ValueError unless a value is of its setting's kind and no number in it is too large."""
    annotation = setting.annotation
    optional = setting.default is None
    wanted, kind = _KINDS.get(_default_type(setting), _NUMBER)
    entries = value if isinstance(value, (tuple, list)) else []
    entry_kind = int if get_args(annotation) == (int,) else (int, float)
    fits = _is(value, kind) and all(_is(entry, entry_kind) for entry in entries)
    if not fits and not (optional and value is None):
        raise ValueError(f"{name} must be {wanted}, given {value!r}")
    if get_origin(annotation) is Literal:
        choice(value, name, get_args(annotation))
    for number in entries or [value]:
        if isinstance(number, int) and abs(number) > _LARGEST:
            raise ValueError(f"{name} must be below {_LARGEST:.0e}, given {number}")


def _default_type(setting: inspect.Parameter) -> type:
    """The type of a setting's default. Where there is none, it is the declared one; where the
    default is None, it is the first of the declared ones."""
    if not has_default(setting.default):
        return setting.annotation
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
    """The first paragraph of the factory's file, and the papers that the file cites.

    >>> about(SCENARIOS["split"])[1]
    'The scenario is from Zenke et al. 2017, arXiv:1703.04200.'
    """
    text = inspect.getdoc(sys.modules[factory.__module__]) or ""
    first, *others = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    papers = []
    for paragraph in others:
        cites = re.match(r".*arXiv:\S+", paragraph)
        if paragraph.startswith("["):
            papers.append(paragraph)
        elif cites is not None:
            papers.append(cites.group())
    return first, " ".join(papers)


def meanings(factory: Factory) -> dict[str, str]:
    """What the docstring of a factory says of its settings. Some have no such text.

    >>> meanings(TERMS["replay"])["batch"]
    'Examples to draw at each step, >= 1.'
    """
    found = {}
    for option, (argument, _) in _parameters(factory).items():
        owner: Any = factory
        if argument != option:
            owner = type(inspect.signature(factory).parameters[argument].default)
        text = _documented(owner).get(option)
        if text is not None:
            found[option] = text
    return found


def _documented(owner: Any) -> dict[str, str]:
    """The entries below `Args:` in a docstring, each as one line of text."""
    found: dict[str, str] = {}
    _, _, listed = (inspect.getdoc(owner) or "").partition("\nArgs:\n")
    name = ""
    for line in listed.split("\n\n")[0].splitlines():
        entry = re.match(r" {4}(\w+): +(.*)", line)
        if entry is not None:
            name = entry.group(1)
            found[name] = entry.group(2)
        elif name:
            found[name] += " " + line.strip()
    return found
