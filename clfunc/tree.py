"""Verbs for pytrees: the only module that touches torch.utils._pytree, which is private.

A tree is any nesting of dicts, tuples, lists and NamedTuples whose leaves are tensors; `()` is the
empty tree.

The verbs that take two trees need trees of one structure.
"""

import builtins
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

flatten: Callable[[Any], tuple[list[Any], Any]] = _pytree.tree_flatten
unflatten: Callable[[Sequence[Any], Any], Any] = _pytree.tree_unflatten
leaves: Callable[[Any], list[Any]] = _pytree.tree_leaves


def structure(tree: Any) -> Any:
    """The tree without its leaves; two structures can be compared with `==`.

    >>> structure({"a": torch.ones(2)}) == structure({"a": torch.zeros(3)})
    True
    """
    return _pytree.tree_structure(tree)


def map(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Apply `f` leaf by leaf over trees of one structure.

    >>> map(lambda leaf: leaf + 1, {"a": torch.tensor([1, 2])})
    {'a': tensor([2, 3])}
    """
    return _pytree.tree_map(f, tree, *rest)


def items(tree: Any) -> list[tuple[str, Any]]:
    """Leaves with their dotted names: `hidden1.weight`, `opt.lr`, `0.exp_avg`.

    >>> [name for name, leaf in items({"hidden1": {"weight": 1, "bias": 2}, "opt": (3,)})]
    ['hidden1.weight', 'hidden1.bias', 'opt.0']
    """
    pairs, _ = _pytree.tree_flatten_with_path(tree)
    return [(_dotted(path), leaf) for path, leaf in pairs]


def map_items(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`map`, with each leaf's dotted name as the first argument of `f`.

    >>> map_items(lambda name, leaf: f"{name}={leaf}", {"a": {"b": 1}})
    {'a': {'b': 'a.b=1'}}
    """
    return _pytree.tree_map_with_path(lambda path, *xs: f(_dotted(path), *xs), tree, *rest)


def names(tree: Any) -> Any:
    """The tree with each leaf's dotted name in its place."""
    return map_items(lambda name, _: name, tree)


def _dotted(path: Sequence[Any]) -> str:
    return ".".join(_part(entry) for entry in path)


def _part(entry: Any) -> str:
    """An entry of a path is a name of a NamedTuple, a key of a dict, or a position."""
    for attribute in ("name", "key", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def add(a: Any, b: Any) -> Any:
    """a + b, leaf by leaf."""
    return map(torch.add, a, b)


def sub(a: Any, b: Any) -> Any:
    """a - b, leaf by leaf."""
    return map(torch.sub, a, b)


def mul(a: Any, b: Any) -> Any:
    """a * b, leaf by leaf."""
    return map(torch.mul, a, b)


def scale(tree: Any, factor: Tensor | float) -> Any:
    """Every leaf times one number."""
    return map(lambda leaf: leaf * factor, tree)


def zeros_like(tree: Any) -> Any:
    """A tree of zeros."""
    return map(torch.zeros_like, tree)


def where(condition: Tensor, a: Any, b: Any) -> Any:
    """Entries of `a` where the condition is true, and of `b` elsewhere.

    Args:
        condition: Bool. Its axes are the first axes of every leaf; a 0-d one selects whole trees.
        a: A tree.
        b: Another of the same structure and shapes.

    >>> where(torch.tensor([True, False]), (torch.ones(2, 2),), (torch.zeros(2, 2),))[0].tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    return map(lambda x, y: torch.where(expand_last(condition, x.ndim), x, y), a, b)


def vdot(a: Any, b: Any) -> Tensor:
    """The inner product of two trees taken as vectors, 0-d.

    >>> vdot({"a": torch.ones(2), "b": torch.ones(1)}, {"a": torch.ones(2), "b": torch.ones(1)})
    tensor(3.)
    """
    sums = []
    for x, y in zip(leaves(a), leaves(b), strict=True):
        sums.append((x * y).sum())
    return torch.stack(sums).sum()


def global_norm(tree: Any) -> Tensor:
    """The Euclidean norm of all leaves taken as one vector, 0-d.

    It is the norm of the leaves' norms, as torch computes it in `clip_grad_norm_`.

    >>> global_norm({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])})
    tensor(5.)
    """
    norms = [torch.linalg.vector_norm(leaf) for leaf in leaves(tree)]
    return torch.stack(norms).norm()


def take(tree: Any, index: Tensor) -> Any:
    """Entry `index` of every leaf's first axis.

    It is exact, and safe where a gather is not (vmap, compile, gradients).

    Args:
        tree: Every leaf is `[entries, ...]`.
        index: In [0, entries). If it is 0-d, the result drops the axis; if it is `[batch]`, the
            result has a batch axis in its place.

    >>> take({"a": torch.tensor([[1, 2], [3, 4]])}, torch.tensor(1))
    {'a': tensor([3, 4])}
    """

    def pick(leaf: Tensor) -> Tensor:
        chosen = index[..., None] == torch.arange(leaf.shape[0], device=leaf.device)
        rows = leaf.reshape((1,) * index.ndim + leaf.shape)
        chosen = expand_last(chosen, rows.ndim)
        picked = torch.where(chosen, rows, torch.zeros_like(rows))
        # one row is not zero, so the sum is that row, to the bit
        return picked.sum(index.ndim, dtype=leaf.dtype)

    return map(pick, tree)


def put(tree: Any, index: Tensor, entry: Any) -> Any:
    """`tree` with entry `index` of every leaf's first axis replaced by `entry`.

    Args:
        tree: Every leaf is `[entries, ...]`.
        index: 0-d, in [0, entries).
        entry: A tree of the same structure, without the first axis.

    >>> put({"a": torch.tensor([1, 2])}, torch.tensor(1), {"a": torch.tensor(5)})
    {'a': tensor([1, 5])}
    """

    def place(leaf: Tensor, new: Tensor) -> Tensor:
        chosen = index == torch.arange(leaf.shape[0], device=leaf.device)
        return torch.where(expand_last(chosen, leaf.ndim), new[None], leaf)

    return map(place, tree, entry)


def stack(trees: Sequence[Any]) -> Any:
    """One tree whose leaves have a new first axis, from trees of one structure.

    >>> stack([{"a": torch.tensor(1)}, {"a": torch.tensor(2)}])
    {'a': tensor([1, 2])}
    """
    return map(lambda *xs: torch.stack(xs), *trees)


def index(tree: Any, i: "int | builtins.slice | Tensor") -> Any:
    """`leaf[i]` for every leaf; see `take` for use inside a step."""
    return map(lambda leaf: leaf[i], tree)


def to(tree: Any, device: "torch.device | str | None") -> Any:
    """Every leaf on a device."""
    return map(lambda leaf: leaf.to(device), tree)


def clone(tree: Any) -> Any:
    """A copy of every leaf."""
    return map(torch.clone, tree)


def expand_last(x: Tensor, ndim: int) -> Tensor:
    """`x` with trailing axes of length one, so that it has `ndim` axes.

    >>> expand_last(torch.ones(2), 3).shape
    torch.Size([2, 1, 1])
    """
    return x.reshape(x.shape + (1,) * (ndim - x.ndim))
