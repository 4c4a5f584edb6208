"""How a scan is run: `eager`; `trace`, the same operations without the Python around them; `compile`; or `cudagraph`, where
what was compiled is captured and replayed (`clfunc.engine.cudagraph`).

A step is traced to the operations that it comes to (`clfunc.engine.trace`). They are run as they are, to the same bits as in
eager mode and in half the time; or, K steps at a time, are one program that Inductor compiles and that writes the carry in
place. Nothing is guarded: a program is kept by all that it was traced for, and called with bare leaves.

Inside a compiled chunk the carry is donated: new values are written back into the buffers that held the old, so a step
allocates nothing that lasts. Leaves that a step hands on untouched (data, parked heads) are found by watching one step, and
cost nothing. `scan` clones what will be written, so nothing of the caller's is touched.
"""

import functools
import os
import shutil
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.engine.cudagraph import SMALL, Graph
from clfunc.engine.trace import Operations, copying, traced
from clfunc.types import choice

Engine = Literal["auto", "eager", "trace", "compile", "cudagraph"]
engines: tuple[str, ...] = ("auto", "eager", "trace", "compile", "cudagraph")
Step = Callable[[Any, Any], tuple[Any, Any]]

_COMPILE_SECONDS = 8.0  # what a first compile mostly costs (3 to 15 s), for `auto` to weigh
_TRACE_SECONDS = 1.0  # what tracing may cost
_TINY = (
    2**22
)  # parameters x examples below which a step is mostly overhead, and several are worth one program
_LAUNCHED = 2**38  # the same, below which a GPU waits for launches
_NODES = 2400  # operations of a program that takes some 10 s to compile
_UNROLLS = (8, 4, 2, 1)


class Plan(NamedTuple):
    """The engine that was chosen, how many steps it runs at a time, and why."""

    engine: str
    unroll: int
    why: str


def scan(
    step: Step, carry: Any, xs: Any, *, engine: str = "auto", unroll: int = 1, log_every: int = 1
) -> tuple[Any, Any]:
    """Run `step(carry, x) -> (carry, y)` over the first axis of `xs`, as `jax.lax.scan` does.

    Args:
        step: A pure function. Compiled programs are kept as long as it is, so pass the same object again.
        carry: Any tree of tensors; it is not written to.
        xs: A tree of tensors with a first axis of steps, at least one.
        engine: `eager`, `trace`, `compile`, `cudagraph`, or `auto`, which decides by these steps alone (see `plan`).
        unroll: Steps in one compiled program; a remainder runs step by step, traced. `auto` chooses it too.
        log_every: Keep the mean of the ys of this many steps in place of each.

    Returns:
        The last carry, and the ys stacked (`[steps // log_every, ...]`, rounded up; the last mean may be over fewer).

    Raises:
        ValueError: An unknown engine, one that the device cannot do, or no step to run.
    """
    steps = len(tree.leaves(xs)[0])
    if steps < 1:
        raise ValueError("scan needs at least one step, given xs of length 0")
    check(engine, tree.leaves(carry)[0].device)
    if engine == "auto":
        engine, unroll, _ = plan(engine, step, carry, tree.index(xs, 0), steps)
    ys: list[Any] = []
    done = 0
    with torch.no_grad():
        if engine in ("compile", "cudagraph") and steps >= unroll:
            carry, done = _compiled(step, carry, xs, unroll, ys, engine == "cudagraph")
        if engine == "eager":
            for i in range(steps):
                carry, y = step(carry, tree.index(xs, i))
                ys.append(tree.map(lambda leaf: leaf[None], y))
        elif done < steps:
            carry = _straight(step, carry, tree.map(lambda leaf: leaf[done:], xs), ys)
        return carry, _thinned(ys, log_every)


def _straight(step: Step, carry: Any, xs: Any, ys: list[Any]) -> Any:
    """The carry after all steps, done by the operations that were found in one.

    What a step gives is of the kinds that it says, so once they are those that it was given, they are so for good.
    """
    listed, form = tree.flatten(xs)
    leaves, structure = tree.flatten(carry)
    rows, known, settled = [], None, False
    for row in zip(*listed, strict=True):
        given = [*leaves, *row]
        if not settled:
            found = structure, _kinds(given)
            program, settled, known = (
                _operations(step, _Forms(structure, form), found[1]),
                found == known,
                found,
            )
        told = program.run(given)
        structure, count = program.carry, program.carry.num_leaves
        leaves = told[:count]
        rows.append(told[count:])
    ys.append(
        tree.unflatten([torch.stack(column) for column in zip(*rows, strict=True)], program.ys)
    )
    return tree.unflatten(leaves, structure)


@functools.lru_cache(maxsize=32)
def _operations(step: Step, forms: "_Forms", kinds: Any) -> Operations:
    return Operations(step, forms.carry, forms.xs)


def _compiled(
    step: Step, carry: Any, xs: Any, unroll: int, ys: list[Any], captured: bool
) -> tuple[Any, int]:
    listed, form = tree.flatten(xs)
    steps = len(listed[0]) // unroll * unroll
    moves = _moves(step, carry, tree.index(xs, 0))
    leaves, structure = tree.flatten(carry)
    # a number that all runs share may be expanded in one task and not in the next: no reason for another program
    leaves = [leaf.contiguous() if leaf.numel() < SMALL else leaf for leaf in leaves]
    chunks = list(zip(*(leaf[:steps].split(unroll) for leaf in listed), strict=True))
    owned = _owned(leaves, moves)
    program = _program(step, unroll, moves, _Forms(structure, form), _kinds([*owned, *chunks[0]]))
    told = (program.replayed if captured else program.over)(owned, chunks)
    ys.append(program.told([torch.cat(pieces) for pieces in zip(*told, strict=True)]))
    return tree.unflatten(owned, structure), steps


def _owned(leaves: list[Tensor], moves: tuple[str, ...]) -> list[Tensor]:
    """Leaves that no other leaf shares: those to be written, and repeats of one that is not (a program is told of none)."""
    seen: set[int] = set()
    owned = []
    for leaf, how in zip(leaves, moves, strict=True):
        owned.append(leaf.clone() if how != "fixed" or leaf.data_ptr() in seen else leaf)
        seen.add(leaf.data_ptr())
    return owned


def _kinds(leaves: list[Tensor]) -> tuple[Any, ...]:
    """All that a program depends on of its leaves."""
    return tuple((leaf.shape, leaf.stride(), leaf.dtype, leaf.device) for leaf in leaves)


class _Forms(NamedTuple):
    """How leaves make a carry and xs; equal if these are of one structure."""

    carry: Any
    xs: Any

    def __hash__(self) -> int:
        return hash((str(self.carry), str(self.xs)))


class _Program:
    """`unroll` steps as one function of all leaves, compiled at its first call: it writes those that move."""

    def __init__(self, step: Step, unroll: int, moves: tuple[str, ...], forms: _Forms) -> None:
        self.step, self.unroll, self.moves, self.forms = step, unroll, moves, forms
        self.compiled: Callable[..., list[Tensor]] | None = None
        self.graph: Graph | None = None
        self.ys: Any = None  # their form

    def over(self, carry: list[Tensor], chunks: list[tuple[Tensor, ...]]) -> list[list[Tensor]]:
        """Do the steps of each chunk; the leaves of their ys."""
        return [self.run(*carry, *xs) for xs in chunks]

    def replayed(self, carry: list[Tensor], chunks: list[tuple[Tensor, ...]]) -> list[list[Tensor]]:
        """`over`, by a CUDA graph, which is captured anew where the data have moved."""
        if self.graph is None or not self.graph.fits(carry):
            self.graph = Graph(self.run, carry, [how == "fixed" for how in self.moves], chunks[0])
        return self.graph.over(carry, chunks)

    def run(self, *leaves: Tensor) -> list[Tensor]:
        """Do the steps; the leaves of their ys."""
        if self.compiled is None:
            self.compiled = _inductor(self._chunk, leaves, self.unroll)
        return self.compiled(*leaves)

    def told(self, leaves: list[Tensor]) -> Any:
        """The ys that leaves make."""
        return tree.unflatten(leaves, self.ys)

    def _chunk(self, *leaves: Tensor) -> list[Tensor]:
        count, ys = len(self.moves), []
        carry = tree.unflatten(list(leaves[:count]), self.forms.carry)
        xs = tree.unflatten(list(leaves[count:]), self.forms.xs)
        for i in range(self.unroll):
            carry, y = self.step(carry, tree.index(xs, i))
            ys.append(y)
        pairs = zip(tree.leaves(carry), self.moves, strict=True)
        new = [leaf.clone() if how == "borrowed" else leaf for leaf, how in pairs]
        found, self.ys = tree.flatten(
            tree.stack(ys)
        )  # before anything is written, as a y may be a leaf of the carry
        for buffer, value, how in zip(leaves, new, self.moves, strict=False):
            if how != "fixed":
                # through a view: torch 2.13 loses what is written to a 0-d float64 input of a compiled function itself
                buffer[None].copy_(value[None])
        return found


@functools.lru_cache(maxsize=32)
def _program(
    step: Step, unroll: int, moves: tuple[str, ...], forms: _Forms, kinds: Any
) -> _Program:
    return _Program(step, unroll, moves, forms)


def _inductor(
    chunk: Callable[..., Any], leaves: tuple[Tensor, ...], unroll: int
) -> Callable[..., Any]:
    import torch._inductor  # takes a second, which eager runs do not owe

    # vector instructions that the machine has are taken on trust: asking the compiler whether it knows them takes it 10 s
    options: dict[str, Any] = {"cpp.vec_isa_ok": torch._inductor.config.cpp.vec_isa_ok is not False}
    if unroll > 1:
        # what several loops read, such as a batch, is computed once, and not by each of them again
        options["realize_reads_threshold"] = 2
    found = copying(traced(chunk, leaves))
    # compiled for the stand-ins that it was traced on, since for real tensors Inductor would not look into its cache
    stands_in = [node.meta["val"] for node in found.graph.find_nodes(op="placeholder")]
    return torch._inductor.compile(found, stands_in, options=options)


_known_moves: dict[tuple[Any, ...], tuple[str, ...]] = {}


def _moves(step: Step, carry: Any, x: Any) -> tuple[str, ...]:
    """What a step does to each leaf of the carry, found by running one and throwing its result away.

    `fixed`: handed on untouched. `borrowed`: replaced by another leaf of the carry as it was, or by a view of one, which must
    be copied before that leaf is written. `computed`: anything else.
    """
    leaves, structure = tree.flatten(carry)
    known = (step, str(structure), tuple((leaf.shape, leaf.dtype) for leaf in leaves))
    if known not in _known_moves:
        _known_moves.clear()  # steps differ from run to run; one is enough to remember
        apart = _owned(
            leaves, ("fixed",) * len(leaves)
        )  # leaves that begin as one tensor would pass for handed on
        lent = {leaf.untyped_storage().data_ptr() for leaf in apart}
        news = tree.leaves(step(tree.unflatten(apart, structure), x)[0])
        _known_moves[known] = tuple(_move(*pair, lent) for pair in zip(apart, news, strict=True))
    return _known_moves[known]


def _move(old: Tensor, new: Tensor, lent: set[int]) -> str:
    if old.data_ptr() == new.data_ptr() and old.shape == new.shape and old.stride() == new.stride():
        return "fixed"
    return "borrowed" if new.untyped_storage().data_ptr() in lent else "computed"


def _thinned(ys: list[Any], every: int) -> Any:
    together = tree.map(lambda *parts: torch.cat(parts), *ys)
    if every == 1:
        return together
    return tree.map(
        lambda leaf: torch.stack([part.mean(0) for part in leaf.split(every)]), together
    )


def check(engine: str, device: torch.device) -> None:
    """Raise ValueError, in one line, for an engine that there is not, or not on this device."""
    if choice(engine, "engine", engines) == "cudagraph" and device.type != "cuda":
        raise ValueError(
            f"engine='cudagraph' needs a CUDA device, given {device}: use auto, compile or eager"
        )


def plan(engine: str, step: Step, carry: Any, x: Any, steps: int) -> Plan:
    """Choose how to run `steps` steps like `step(carry, x)`: by the device, by what one takes in eager mode, by their number.

    Raises:
        ValueError: An unknown engine, or one that the device cannot do.
    """
    check(engine, tree.leaves(carry)[0].device)
    if engine in ("eager", "trace"):
        return Plan(engine, 1, "as asked")
    if engine != "auto":
        return Plan(engine, _unroll(step, carry, x), "as asked")
    with torch.no_grad():
        seconds = min(_seconds(step, carry, x) for _ in range(3))
    told = f"{steps} steps of {1e3 * seconds:.1f} ms in eager mode"
    if steps * seconds < 4 * _TRACE_SECONDS:
        return Plan("eager", 1, f"{told} are over before a compile would pay")
    if steps * seconds < 2 * _COMPILE_SECONDS:
        return Plan("trace", 1, f"{told} are over before a compile would pay")
    device = tree.leaves(carry)[0].device.type
    if not _has_compiler(device):
        return Plan(
            "trace",
            1,
            "no C++ compiler found: install g++ (or set CXX) for several times the speed",
        )
    found = "cudagraph" if device == "cuda" and _work(step, carry, x) < _LAUNCHED else "compile"
    return Plan(found, _unroll(step, carry, x), f"{told} are worth a compile")


def _seconds(step: Step, carry: Any, x: Any) -> float:
    """What one step takes in eager mode."""
    start = time.perf_counter()
    leaf = tree.leaves(step(carry, x))[0]
    if leaf.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _work(step: Step, carry: Any, x: Any) -> int:
    """Numbers that move times examples: about how much a step has to do."""
    moving = (
        leaf
        for leaf, how in zip(tree.leaves(carry), _moves(step, carry, x), strict=True)
        if how != "fixed"
    )
    floats = sum(leaf.numel() for leaf in moving if leaf.is_floating_point())
    return floats * max(leaf.numel() for leaf in tree.leaves(x))


def _unroll(step: Step, carry: Any, x: Any) -> int:
    """Steps in one program: several where a step is mostly overhead, 1 where it is mostly matrix products."""
    if _work(step, carry, x) >= _TINY:
        return 1
    leaves, structure = tree.flatten((carry, x))
    nodes = len(
        traced(
            lambda *flat: step(*tree.unflatten(list(flat), structure)), tuple(leaves)
        ).graph.nodes
    )
    return next(unroll for unroll in _UNROLLS if unroll * nodes <= _NODES or unroll == 1)


def _has_compiler(device: str) -> bool:
    if device == "cuda":
        return True
    return any(
        shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name
    )
