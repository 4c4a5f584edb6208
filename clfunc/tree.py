"""Verbs for pytrees: the only module that touches torch.utils._pytree, which is private.

A tree is any nesting of dicts, tuples, lists and NamedTuples whose leaves are tensors; `()` is the empty tree.
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
    """The tree without its leaves; comparable with `==`."""
    return _pytree.tree_structure(tree)


def map(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Apply `f` leaf by leaf over trees of one structure."""
    return _pytree.tree_map(f, tree, *rest)


def items(tree: Any) -> list[tuple[str, Any]]:
    """Leaves with their dotted names: `hidden1.weight`, `opt.lr`, `0.exp_avg`."""
    pairs, _ = _pytree.tree_flatten_with_path(tree)
    return [(".".join(_segment(step) for step in path), leaf) for path, leaf in pairs]


def map_items(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`map`, with each leaf's dotted name as the first argument of `f`."""
    return _pytree.tree_map_with_path(
        lambda path, *xs: f(".".join(_segment(s) for s in path), *xs), tree, *rest
    )


def names(tree: Any) -> Any:
    """The tree with each leaf's dotted name in its place."""
    return map_items(lambda name, _: name, tree)


def _segment(step: Any) -> str:
    for attribute in ("name", "key", "idx"):
        if hasattr(step, attribute):
            return str(getattr(step, attribute))
    return str(step)


def add(a: Any, b: Any) -> Any:
    return map(torch.add, a, b)


def sub(a: Any, b: Any) -> Any:
    return map(torch.sub, a, b)


def mul(a: Any, b: Any) -> Any:
    return map(torch.mul, a, b)


def scale(tree: Any, factor: Tensor | float) -> Any:
    return map(lambda leaf: leaf * factor, tree)


def zeros_like(tree: Any) -> Any:
    return map(torch.zeros_like, tree)


def where(condition: Tensor, a: Any, b: Any) -> Any:
    """Select whole trees by one condition; its axes are the leaves' first ones."""
    return map(lambda x, y: torch.where(expand_last(condition, x.ndim), x, y), a, b)


def vdot(a: Any, b: Any) -> Tensor:
    """Inner product of two trees."""
    return torch.stack([(x * y).sum() for x, y in zip(leaves(a), leaves(b), strict=True)]).sum()


def global_norm(tree: Any) -> Tensor:
    """Euclidean norm of all leaves taken as one vector (the norm of the leaves' norms, as torch computes it)."""
    return torch.stack([torch.linalg.vector_norm(leaf) for leaf in leaves(tree)]).norm()


def take(tree: Any, index: Tensor) -> Any:
    """Entry `index` of every leaf's first axis; exact, and safe where a gather is not (vmap, compile, gradients).

    `index` may be 0-d (the result drops the axis) or `[batch]` (the result has a batch axis instead).
    """

    def pick(leaf: Tensor) -> Tensor:
        chosen = index[..., None] == torch.arange(leaf.shape[0], device=leaf.device)
        rows = leaf.reshape((1,) * index.ndim + leaf.shape)
        return torch.where(expand_last(chosen, rows.ndim), rows, torch.zeros_like(rows)).sum(
            index.ndim, dtype=leaf.dtype
        )

    return map(pick, tree)


def put(tree: Any, index: Tensor, entry: Any) -> Any:
    """`tree` with entry `index` (0-d) of every leaf's first axis replaced."""

    def place(leaf: Tensor, new: Tensor) -> Tensor:
        chosen = index == torch.arange(leaf.shape[0], device=leaf.device)
        return torch.where(expand_last(chosen, leaf.ndim), new[None], leaf)

    return map(place, tree, entry)


def stack(trees: Sequence[Any]) -> Any:
    """One tree whose leaves have a new first axis."""
    return map(lambda *xs: torch.stack(xs), *trees)


def index(tree: Any, i: "int | builtins.slice | Tensor") -> Any:
    return map(lambda leaf: leaf[i], tree)


def to(tree: Any, device: "torch.device | str | None") -> Any:
    return map(lambda leaf: leaf.to(device), tree)


def clone(tree: Any) -> Any:
    return map(torch.clone, tree)


def expand_last(x: Tensor, ndim: int) -> Tensor:
    """`x` with trailing axes of length one up to `ndim`."""
    return x.reshape(x.shape + (1,) * (ndim - x.ndim))
