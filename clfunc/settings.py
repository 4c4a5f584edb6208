"""Settings: everything that decides what a part does, by value, so that two parts can be told
apart.

A setting is a 0-d tensor (a number that may differ within a sweep), a plain value, a function, or a
dict or list of these. Two functions are equal within a process if they are one object. On disk a
function is its qualified name and a digest of its code. A function that closes over values has no
such description, since the values may differ: `named` gives it one.
"""

import dataclasses
import functools
import hashlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from clfunc import tree
from clfunc.types import Params, Settings


@dataclasses.dataclass(frozen=True, eq=False)
class Named:
    """A function under a name that says all that it closes over. Made by `named`."""

    name: str
    function: Callable[..., Any]

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return self.function(*args, **keywords)


def named(name: str, function: Callable[..., Any]) -> Named:
    """`function`, known on disk by `name`: for one that closes over values, or an object that is
    called.

    >>> double = named("times 2", lambda x: 2 * x)
    >>> double(4), described(double)
    (8, 'named: times 2')
    """
    return Named(name, function)


def of_part(part: Any, function: Callable[..., Any]) -> Settings:
    """The settings of a part.

    Where it declares none, the identity of the `function` that it is made of.
    """
    return part.settings or {"function": function}


def items(settings: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with its dotted name, wherever it is nested."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from items(value, f"{name}.{key}".lstrip("."))
    elif isinstance(settings, list | tuple):
        for position, value in enumerate(settings):
            yield from items(value, f"{name}.{position}".lstrip("."))
        if not settings:
            yield name, settings
    else:
        yield name, settings


def find(settings: Any, name: str) -> Any:
    """The first setting of this name that is not None, however deep in wrappers or members.

    None if there is none.
    """
    if isinstance(settings, dict):
        if settings.get(name) is not None:
            return settings[name]
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        for value in settings:
            found = find(value, name)
            if found is not None:
                return found
    return None


def declares(settings: Any, name: str, value: Any = True) -> str | None:
    """The name of the first part that declares `name` as `value`, however deep; None if none does.

    >>> declares({"name": "outer", "inner": {"name": "fix", "freezes": True}}, "freezes")
    'fix'
    """
    for part, found in declared(settings, name):
        if type(found) is type(value) and found == value:
            return part
    return None


def declared(settings: Any, field: str, name: str = "") -> list[tuple[str, Any]]:
    """The name of each part that declares a field, and what it declares, however deep.

    A part without a `name` has the name under which it is listed.

    >>> declared({"name": "er", "terms": {"replay": {"draws": 32}}}, "draws")
    [('replay', 32)]
    """
    found = []
    if isinstance(settings, dict):
        own = str(settings.get("name", name))
        if settings.get(field) is not None:
            found.append((own, settings[field]))
        for key, value in settings.items():
            if key != field:
                found += declared(value, field, own if key == "of" else str(key))
    if isinstance(settings, list | tuple):
        for value in settings:
            found += declared(value, field, name)
    return found


def values_of(settings: Any, field: str) -> list[Any]:
    """All that parts declare under a field; entries of lists are joined.

    >>> values_of({"terms": {"distil_logits": {"notes": ["logits"]}}}, "notes")
    ['logits']
    """
    values: list[Any] = []
    for _, value in declared(settings, field):
        values += value if isinstance(value, list | tuple) else [value]
    return values


def check_whole(value: Any, name: str) -> None:
    """Raise ValueError unless this is a whole number from 1 up, such as a count that sets a shape.

    >>> check_whole(3, "batch")
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, given {value!r}")


def numbers(settings: Settings) -> dict[str, float]:
    """The settings that may differ within a sweep, by dotted name."""
    return {name: float(value) for name, value in items(settings) if isinstance(value, Tensor)}


def first_difference(a: Settings, b: Settings) -> tuple[str, Any, Any] | None:
    """The first setting in which two parts differ in more than numbers: its name and both values.

    None if there is none.
    """
    left, right = dict(items(a)), dict(items(b))
    for name in sorted(left.keys() | right.keys()):
        x, y = left.get(name), right.get(name)
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            continue
        if x is not y and (callable(x) or callable(y) or type(x) is not type(y) or x != y):
            return name, x, y
    return None


def plain(settings: Any) -> Any:
    """Settings as JSON can hold them: a tensor becomes a number, a function its description.

    Raises:
        ValueError: A function that cannot be told apart on disk (see `described`).
    """
    if isinstance(settings, Tensor):
        return float(settings)
    if isinstance(settings, dict):
        return {str(name): plain(value) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [plain(value) for value in settings]
    if isinstance(settings, str | int | float | bool | None):
        return settings
    return described(settings) if callable(settings) else str(settings)


def described(function: Callable[..., Any]) -> str:
    """A function as a file can hold it: two functions with one description compute the same.

    Raises:
        ValueError: It closes over values, or it is an object, so that no description tells it
            apart.
    """
    if isinstance(function, Named):
        return f"named: {function.name}"
    if isinstance(function, functools.partial):
        given = plain([list(function.args), function.keywords])
        return f"{described(function.func)} of {given}"
    if isinstance(function, types.FunctionType):
        if function.__closure__ is None:
            defaults = plain([function.__defaults__ or (), function.__kwdefaults__ or {}])
            code = hashlib.sha256(repr((_code(function.__code__), defaults)).encode())
            return f"{function.__module__}.{function.__qualname__} {code.hexdigest()[:16]}"
    elif hasattr(function, "__qualname__") and not isinstance(function, types.MethodType):
        return f"{getattr(function, '__module__', '')}.{function.__qualname__}"
    shown = getattr(function, "__qualname__", type(function).__qualname__)
    raise ValueError(
        f"{shown} holds values of its own, so a file cannot tell it from another such function:"
        f" give cl.named('a name that says them', {shown.rpartition('.')[2]})"
    )


def shown(value: Any) -> str:
    """A setting as a message shows it."""
    if isinstance(value, Tensor):
        return f"{float(value):g}"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(shown, value))})"
    if callable(value):
        return str(getattr(value, "name", None) or getattr(value, "__qualname__", repr(value)))
    return repr(value)


def digest(values: Params) -> dict[str, str]:
    """A tree of tensors as a setting: the shape, the dtype and a SHA-256 of each leaf, by dotted
    name.
    """
    found = {}
    for name, leaf in tree.items(values):
        stored = leaf.detach().cpu().contiguous()
        data = stored.view(-1).view(torch.uint8).numpy().tobytes()
        kind = f"{stored.dtype} {list(stored.shape)}"
        found[name] = f"{kind} {hashlib.sha256(data).hexdigest()[:16]}"
    return found


def _code(code: types.CodeType) -> tuple[Any, ...]:
    """What a function computes, without where it is written."""
    constants = [
        _code(value) if isinstance(value, types.CodeType) else repr(value)
        for value in code.co_consts
    ]
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars
