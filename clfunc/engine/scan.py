"""How a scan is run: by the engine `eager`, `trace`, `compile` or `cudagraph`.

`eager` calls the step. `trace` runs the operations that were found in the step, without the Python
around them (`clfunc.engine.trace`): the bits are those of eager mode, in half the time. `compile`
makes one program of K steps with Inductor, which writes the carry in place. `cudagraph` captures
that program and replays it (`clfunc.engine.cudagraph`).

No guard is evaluated: a program is found in `clfunc.engine.programs` by all that it was made for,
and is called with bare leaves.

A compiled program writes into the carry that it is given. `scan` clones what the program writes, so
no tensor of the caller changes.
"""

import os
import shutil
import time
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.engine.compiled import (
    Forms,
    StepFunction,
    compiled_program,
    find_moves,
    kinds_of,
    without_aliases,
)
from clfunc.engine.cudagraph import SMALL
from clfunc.engine.programs import programs
from clfunc.engine.trace import Operations, traced
from clfunc.types import choice

Engine = Literal["auto", "eager", "trace", "compile", "cudagraph"]
engines: tuple[str, ...] = ("auto", "eager", "trace", "compile", "cudagraph")

_COMPILE_SECONDS = 8.0  # how long a first compile mostly takes (3 to 15 s), for `auto` to weigh
_TRACE_SECONDS = 1.0  # how long tracing may take
# parameters x examples below which a step is mostly overhead, so that one program of several pays
_TINY = 2**22
_LAUNCH_BOUND = 2**38  # the same, below which a GPU waits for launches
_NODES = 2400  # operations of a program that takes some 10 s to compile
_UNROLLS = (8, 4, 2, 1)


class EnginePlan(NamedTuple):
    """The engine that was chosen, how many steps one call runs, and why."""

    engine: str
    unroll: int
    why: str


def scan(
    step: StepFunction,
    carry: Any,
    xs: Any,
    *,
    engine: str = "auto",
    unroll: int = 1,
    log_every: int = 1,
) -> tuple[Any, Any]:
    """Run `step(carry, x) -> (carry, y)` over the first axis of `xs`, as `jax.lax.scan` does.

    Args:
        step: A pure function. Programs are shared by calls with the same function, or with two
            `clfunc.engine.programs.Step` of equal identity.
        carry: Any tree of tensors; it is not written to.
        xs: A tree of tensors with a first axis of steps, at least one.
        engine: `eager`, `trace`, `compile`, `cudagraph`, or `auto`, which decides by these steps
            alone (see `plan`).
        unroll: Steps in one compiled program, >= 1; the remainder is traced and runs step by step.
            `auto` chooses it too.
        log_every: Return the mean of the ys of this many steps in place of each y, >= 1.

    Returns:
        The last carry, and the ys stacked: `[steps // log_every, ...]`, rounded up. The last mean
        may be over fewer steps.

    Raises:
        ValueError: The engine is unknown or the device cannot run it, or there is no step to run.

    >>> def add(total, x):
    ...     return total + x, {"total": total + x}
    >>> total, ys = scan(add, torch.tensor(0), torch.arange(4), engine="eager")
    >>> int(total), ys["total"].tolist()
    (6, [0, 1, 3, 6])
    """
    steps = len(tree.leaves(xs)[0])
    if steps < 1:
        raise ValueError("scan needs at least one step, given xs of length 0")
    check_engine(engine, tree.leaves(carry)[0].device)
    if engine == "auto":
        engine, unroll, _ = plan(engine, step, carry, tree.index(xs, 0), steps)

    compiled_steps = 0
    if engine in ("compile", "cudagraph"):
        compiled_steps = steps // unroll * unroll
    pieces = []  # ys, each of some steps in a row
    with torch.no_grad():
        if compiled_steps:
            first = tree.map(lambda leaf: leaf[:compiled_steps], xs)
            captured = engine == "cudagraph"
            carry, ys = _run_compiled(step, carry, first, unroll, captured)
            pieces.append(ys)
        if compiled_steps < steps:
            rest = tree.map(lambda leaf: leaf[compiled_steps:], xs)
            run = _run_eager if engine == "eager" else _run_traced
            carry, ys = run(step, carry, rest)
            pieces.append(ys)
        return carry, _means(pieces, log_every)


def _run_eager(step: StepFunction, carry: Any, xs: Any) -> tuple[Any, Any]:
    ys = []
    for i in range(len(tree.leaves(xs)[0])):
        carry, y = step(carry, tree.index(xs, i))
        ys.append(y)
    return carry, tree.stack(ys)


def _run_traced(step: StepFunction, carry: Any, xs: Any) -> tuple[Any, Any]:
    """All steps, by the operations that were found in one step.

    A traced step has fixed output shapes and dtypes. Once they equal its inputs', the same
    operations serve every later step, and no more look-up is needed.
    """
    x_leaves, x_structure = tree.flatten(xs)
    leaves, structure = tree.flatten(carry)
    rows = []
    previous = None
    settled = False
    for x in zip(*x_leaves, strict=True):
        inputs = [*leaves, *x]
        if not settled:
            forms = Forms(structure, x_structure)
            kinds = kinds_of(inputs)
            operations = _operations(step, forms, kinds)
            settled = (structure, kinds) == previous
            previous = (structure, kinds)
        outputs = operations.run(inputs)
        structure = operations.carry
        leaves = outputs[: structure.num_leaves]
        rows.append(outputs[structure.num_leaves :])
    columns = [torch.stack(column) for column in zip(*rows, strict=True)]
    return tree.unflatten(leaves, structure), tree.unflatten(columns, operations.ys)


def _operations(step: StepFunction, forms: "Forms", kinds: Any) -> Operations:
    def make() -> Operations:
        return Operations(step, forms.carry, forms.xs)

    return programs.find("trace", (step, forms, kinds), make)


def _run_compiled(
    step: StepFunction,
    carry: Any,
    xs: Any,
    unroll: int,
    captured: bool,
) -> tuple[Any, Any]:
    """All steps, `unroll` of them in each call of one program; `captured` replays a CUDA graph."""
    moves = find_moves(step, carry, tree.index(xs, 0))
    x_leaves, x_structure = tree.flatten(xs)
    leaves, structure = tree.flatten(carry)
    # A number that all runs share may be expanded in one task and not in the next, which is no
    # reason for another program.
    for i, leaf in enumerate(leaves):
        if leaf.numel() < SMALL:
            leaves[i] = leaf.contiguous()
    leaves = without_aliases(leaves, moves)
    chunks = list(zip(*(leaf.split(unroll) for leaf in x_leaves), strict=True))

    forms = Forms(structure, x_structure)
    kinds = kinds_of([*leaves, *chunks[0]])
    program = compiled_program(step, unroll, moves, forms, kinds)
    run = program.replay_chunks if captured else program.run_chunks
    rows = run(leaves, chunks)
    columns = [torch.cat(column) for column in zip(*rows, strict=True)]
    return tree.unflatten(leaves, structure), tree.unflatten(columns, program.ys)


def _means(pieces: list[Any], every: int) -> Any:
    """The ys of all steps in one tree, or their means over each `every` steps."""
    ys = tree.map(lambda *parts: torch.cat(parts), *pieces)
    if every == 1:
        return ys

    def means(leaf: Tensor) -> Tensor:
        return torch.stack([part.mean(0) for part in leaf.split(every)])

    return tree.map(means, ys)


def check_engine(engine: str, device: torch.device) -> None:
    """Raise ValueError, in one line, for an unknown engine or one that the device cannot run."""
    if choice(engine, "engine", engines) == "cudagraph" and device.type != "cuda":
        raise ValueError(
            f"engine='cudagraph' needs a CUDA device, given {device}: use auto, compile or eager"
        )


def plan(engine: str, step: StepFunction, carry: Any, x: Any, steps: int) -> EnginePlan:
    """Choose how to run `steps` steps like `step(carry, x)`.

    Args:
        engine: The engine that the caller asks for. `auto` chooses by the device, by the time that
            one step takes in eager mode, and by the number of steps.
        step: The step of `scan`.
        carry: A tree of tensors, like the first carry.
        x: The x of one step.
        steps: How many steps the run has, >= 1.

    Raises:
        ValueError: The engine is unknown, or the device cannot run it.
    """
    device = tree.leaves(carry)[0].device
    check_engine(engine, device)
    if engine in ("eager", "trace"):
        return EnginePlan(engine, 1, "as asked")
    if engine != "auto":
        return EnginePlan(engine, _unroll(step, carry, x), "as asked")

    with torch.no_grad():
        seconds = min(_seconds(step, carry, x) for _ in range(3))
    cost = f"{steps} steps of {1e3 * seconds:.1f} ms (eager)"
    too_few = f"{cost} take less time than compiling would"
    if steps * seconds < 4 * _TRACE_SECONDS:
        return EnginePlan("eager", 1, too_few)
    if steps * seconds < 2 * _COMPILE_SECONDS:
        return EnginePlan("trace", 1, too_few)
    if not _has_compiler(device.type):
        why = "no C++ compiler found: install g++ (or set CXX) for several times the speed"
        return EnginePlan("trace", 1, why)
    launch_bound = device.type == "cuda" and _work(step, carry, x) < _LAUNCH_BOUND
    chosen = "cudagraph" if launch_bound else "compile"
    unroll = _unroll(step, carry, x)
    return EnginePlan(chosen, unroll, f"{cost} take more time than compiling does")


def _seconds(step: StepFunction, carry: Any, x: Any) -> float:
    """The time of one step in eager mode."""
    start = time.perf_counter()
    leaf = tree.leaves(step(carry, x))[0]
    if leaf.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _work(step: StepFunction, carry: Any, x: Any) -> int:
    """Numbers that move, times examples: about how much a step has to do."""
    floats = 0
    for leaf, move in zip(tree.leaves(carry), find_moves(step, carry, x), strict=True):
        if move != "fixed" and leaf.is_floating_point():
            floats += leaf.numel()
    return floats * max(leaf.numel() for leaf in tree.leaves(x))


def _unroll(step: StepFunction, carry: Any, x: Any) -> int:
    """Steps in one program: several if a step is mostly overhead, 1 if it is mostly matrix
    products."""
    if _work(step, carry, x) >= _TINY:
        return 1
    leaves, structure = tree.flatten((carry, x))

    def flat_step(*flat: Tensor) -> tuple[Any, Any]:
        return step(*tree.unflatten(list(flat), structure))

    def count() -> int:
        return len(traced(flat_step, tuple(leaves)).graph.nodes)

    key = step, Forms(structure, ()), kinds_of(leaves)
    nodes = programs.find("nodes", key, count)
    for unroll in _UNROLLS:
        if unroll * nodes <= _NODES:
            return unroll
    return 1


def _has_compiler(device: str) -> bool:
    if device == "cuda":
        return True
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return any(shutil.which(name) for name in names if name)
