"""What a step is: an identity that two steps share only if they compute the same.

A program that was made for one step serves every step of an equal identity, so two steps that
differ must never have equal identities; two equal steps may have different ones, which costs a
compile. An identity is the list of all that a function is made of: its code, its defaults, and
the values that it closes over, wherever these are nested.

- A function of clfunc or torch is known by its code and by what it closes over, so that the step
  of a freshly built algorithm equals the step of the one before. A user's function is known by
  the object that it is, because its code may call global names whose meaning changes.
- A number, which is a 0-d float64 tensor (`scalar`), is marked as a number, whatever its value:
  it enters a step as a leaf of the state. Every other tensor is known by its values.
- Strings, numbers of Python, tuples, lists and dicts are known by their values and types, and
  every other object by the object that it is.
"""

import dataclasses
import functools
import hashlib
import types
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch

_KNOWN_BY_CODE = ("clfunc", "torch")  # packages whose global names keep their meaning
_TYPE_CHECKERS = ("jaxtyping", "beartype")  # a function that they wrap computes the same
_BY_VALUE = (bool, int, str, bytes, type(None), torch.dtype, torch.device)
_BY_REPR = (float, complex, range)  # `==` takes -0.0 for 0.0, and no NaN for another
_LARGE = 2**20  # entries from which a tensor is known by the object that it is


@dataclasses.dataclass(frozen=True)
class Identity:
    """Hashable, and equal to another only if both list the same. It keeps its objects alive."""

    tokens: tuple[Hashable, ...]

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self.tokens)

    def __hash__(self) -> int:
        return self._hash


@dataclasses.dataclass(frozen=True, eq=False)
class _Object:
    """An object as a token: equal to a token of the same object only."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Object) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def identity(*parts: Any) -> Identity:
    """The identity of some functions, settings and plain values together.

    Each part is listed by itself: whether two parts hold one object or equal ones is no difference.

    >>> def scaled(by, shift):
    ...     return {"name": "scaled", "by": torch.tensor(by, dtype=torch.float64), "shift": shift}
    >>> identity(scaled(0.1, 1)) == identity(scaled(0.2, 1))
    True
    >>> identity(scaled(0.1, 1)) == identity(scaled(0.1, 2))
    False
    """
    tokens: list[Hashable] = []
    for part in parts:
        walk = _Walk()
        walk.visit(part)
        tokens.append(tuple(walk.tokens))
    return Identity(tuple(tokens))


class _Walk:
    """Lists what values are made of.

    A container or function that comes again is listed by its number. This ends circles, and keeps
    the list short where many functions close over one model.
    """

    def __init__(self) -> None:
        self.tokens: list[Hashable] = []
        self.numbers: dict[int, int] = {}
        # `id` tells objects apart only while they live, and a bound method is made by asking for it
        self.visited: list[Any] = []

    def visit(self, value: Any) -> None:
        kind = type(value)
        if kind in _BY_VALUE:
            self.tokens.append((kind, value))
        elif kind in _BY_REPR:
            self.tokens.append((kind, repr(value)))
        elif id(value) in self.numbers:
            self.tokens.append(("again", self.numbers[id(value)]))
        else:
            self.numbers[id(value)] = len(self.visited)
            self.visited.append(value)
            self._visit_parts(value)

    def _visit_parts(self, value: Any) -> None:
        kind = type(value)
        if isinstance(value, Tensor):
            self.tokens.append(_tensor_token(value))
        elif kind is dict:
            # in the order of its entries, which is the order of its leaves
            self._visit_all(kind, [*value, *value.values()])
        elif kind in (list, tuple, torch.Size) or _is_named_tuple(value):
            self._visit_all(kind, list(value))
        elif kind in (set, frozenset):
            self._visit_all(kind, sorted(value, key=repr))
        elif kind is functools.partial:
            self._visit_all(kind, [value.func, value.args, value.keywords])
        elif kind is types.MethodType:
            self._visit_all(kind, [value.__func__, value.__self__])
        elif kind is types.FunctionType:
            self._visit_function(value)
        elif dataclasses.is_dataclass(value) and _is_known_by_code(kind.__module__):
            names = [field.name for field in dataclasses.fields(value)]
            self._visit_all(kind, [getattr(value, name) for name in names])
        else:
            self.tokens.append(_Object(value))

    def _visit_all(self, kind: type, parts: list[Any]) -> None:
        self.tokens.append((kind, len(parts)))
        for part in parts:
            self.visit(part)

    def _visit_function(self, function: types.FunctionType) -> None:
        # the name of the module that holds the code; `functools.wraps` copies another `__module__`
        module = function.__globals__.get("__name__", "")
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None and _package(module) in _TYPE_CHECKERS:
            self.visit(wrapped)
        elif _is_known_by_code(module):
            self.tokens.append((module, function.__code__))
            self.visit(function.__defaults__)
            self.visit(function.__kwdefaults__)
            cells = function.__closure__ or ()
            self._visit_all(types.CellType, [_content(cell) for cell in cells])
        else:
            self.tokens.append(_Object(function))


def _tensor_token(tensor: Tensor) -> Hashable:
    kind = (tensor.dtype, tensor.device)
    if tensor.ndim == 0 and tensor.dtype == torch.float64:
        return "number", *kind
    batched = _functorch.is_functorch_wrapped_tensor(tensor)
    if type(tensor) is not Tensor or tensor.is_meta or batched or tensor.numel() >= _LARGE:
        return _Object(tensor)
    stored = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    values = hashlib.sha256(stored.numpy().tobytes()).digest()
    return "tensor", *kind, tuple(tensor.shape), tensor.stride(), values


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _package(module: str) -> str:
    return module.partition(".")[0]


def _is_known_by_code(module: str) -> bool:
    return _package(module) in _KNOWN_BY_CODE


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that has no value yet
        return types.CellType
