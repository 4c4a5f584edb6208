"""Compiled programs: some steps of a scan as one function of bare leaves, which writes the carry.

Inside a compiled chunk the carry is donated: new values are written into the buffers that held the
old ones, so a step allocates nothing that lasts. The leaves that a step returns untouched (data,
parked heads) are found by watching one step, and cost nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from clfunc import tree
from clfunc.engine.cudagraph import Graph
from clfunc.engine.programs import programs
from clfunc.engine.trace import keep_copies, traced

StepFunction = Callable[[Any, Any], tuple[Any, Any]]
Chunk = tuple[Tensor, ...]  # the leaves of the xs of some steps
Leaves = list[Tensor]
Moves = tuple[str, ...]


def find_moves(step: StepFunction, carry: Any, x: Any) -> Moves:
    """What a step does to each leaf of the carry, found by running one step for nothing else.

    `fixed`: the leaf is returned untouched. `borrowed`: it is replaced by another leaf of the old
    carry or by a view of one, which must be copied before that leaf is written. `computed`: it is
    replaced by a new tensor.
    """
    leaves, structure = tree.flatten(carry)
    x_leaves, x_structure = tree.flatten(x)

    def find() -> Moves:
        # two leaves that begin as one tensor would look as if the step returned them untouched
        apart = without_aliases(leaves, ["fixed"] * len(leaves))
        new, _ = step(tree.unflatten(apart, structure), x)
        storages = {_storage(leaf) for leaf in apart}
        moves = []
        for before, after in zip(apart, tree.leaves(new), strict=True):
            moves.append(_move(before, after, storages))
        return tuple(moves)

    forms = Forms(structure, x_structure)
    kinds = kinds_of([*leaves, *x_leaves])
    return programs.find("moves", (step, forms, kinds), find)


def _move(before: Tensor, after: Tensor, storages: set[int]) -> str:
    if _place(before) == _place(after):
        return "fixed"
    if _storage(after) in storages:
        return "borrowed"
    return "computed"


def _place(leaf: Tensor) -> tuple[Any, ...]:
    return leaf.data_ptr(), leaf.shape, leaf.stride()


def _storage(leaf: Tensor) -> int:
    return leaf.untyped_storage().data_ptr()


def without_aliases(leaves: Leaves, moves: Sequence[str]) -> Leaves:
    """Clones every leaf that the program writes, and every alias of an earlier leaf: compiled code
    assumes that inputs do not overlap."""
    seen: set[int] = set()
    apart = []
    for leaf, move in zip(leaves, moves, strict=True):
        written = move != "fixed"
        alias = leaf.data_ptr() in seen
        seen.add(leaf.data_ptr())
        apart.append(leaf.clone() if written or alias else leaf)
    return apart


def kinds_of(leaves: Sequence[Tensor]) -> tuple[Any, ...]:
    """All that a program depends on in its leaves."""
    kinds = []
    for leaf in leaves:
        kinds.append((leaf.shape, leaf.stride(), leaf.dtype, leaf.device))
    return tuple(kinds)


class Forms(NamedTuple):
    """How leaves make a carry and xs; two are equal if their trees have one structure."""

    carry: Any
    xs: Any

    def __hash__(self) -> int:
        return hash((str(self.carry), str(self.xs)))


class Program:
    """`unroll` steps as one function of all leaves. It is compiled at its first call, and writes
    the leaves of the carry that move."""

    def __init__(
        self,
        step: StepFunction,
        unroll: int,
        moves: Moves,
        forms: Forms,
    ) -> None:
        self.step = step
        self.unroll = unroll
        self.moves = moves
        self.forms = forms
        self.compiled: Callable[..., Leaves] | None = None
        self.graph: Graph | None = None
        self.ys: Any = None  # the structure of the ys, known after the first call

    def run_chunks(self, carry: Leaves, chunks: list[Chunk]) -> list[Leaves]:
        """The leaves of the ys of each chunk; writes the carry."""
        return [self.run(*carry, *xs) for xs in chunks]

    def replay_chunks(self, carry: Leaves, chunks: list[Chunk]) -> list[Leaves]:
        """`run_chunks` by a CUDA graph, which is captured anew if the data have moved."""
        if self.graph is None or not self.graph.fits(carry):
            fixed = [move == "fixed" for move in self.moves]
            self.graph = Graph(self.run, carry, fixed, chunks[0])
        return self.graph.run_chunks(carry, chunks)

    def run(self, *leaves: Tensor) -> Leaves:
        """The leaves of the ys of one chunk, for the leaves of a carry and of xs."""
        if self.compiled is None:
            self.compiled = _inductor(self._chunk, leaves, self.unroll)
        return self.compiled(*leaves)

    def _chunk(self, *leaves: Tensor) -> Leaves:
        """What is compiled."""
        count = len(self.moves)
        carry = tree.unflatten(list(leaves[:count]), self.forms.carry)
        xs = tree.unflatten(list(leaves[count:]), self.forms.xs)
        ys = []
        for i in range(self.unroll):
            carry, y = self.step(carry, tree.index(xs, i))
            ys.append(y)

        new = tree.leaves(carry)
        for i, move in enumerate(self.moves):
            if move == "borrowed":
                new[i] = new[i].clone()
        # stacked before a buffer is written, because a y may be a leaf of the carry
        y_leaves, self.ys = tree.flatten(tree.stack(ys))
        for buffer, value, move in zip(leaves[:count], new, self.moves, strict=True):
            if move != "fixed":
                # through a view: torch 2.13 loses a write to a 0-d float64 input itself
                buffer[None].copy_(value[None])
        return y_leaves


def compiled_program(
    step: StepFunction,
    unroll: int,
    moves: Moves,
    forms: Forms,
    kinds: Any,
) -> Program:
    """The program of these steps, made before or now."""

    def make() -> Program:
        return Program(step, unroll, moves, forms)

    key = step, unroll, moves, forms, kinds
    return programs.find("compile", key, make)


def _inductor(
    chunk: Callable[..., Any],
    leaves: tuple[Tensor, ...],
    unroll: int,
) -> Callable[..., Any]:
    import torch._inductor  # the import takes a second, which an eager run need not spend

    options: dict[str, Any] = {}
    # The machine's vector instructions are taken on trust: Inductor asks the compiler whether it
    # knows them, which takes 10 s.
    cpp = torch._inductor.config.cpp
    options["cpp.vec_isa_ok"] = cpp.vec_isa_ok is not False
    if unroll > 1:
        # A value that several loops read, such as a batch, is computed once, and not in each loop.
        options["realize_reads_threshold"] = 2
    graph = keep_copies(traced(chunk, leaves))
    # Compiled for the fake tensors of the trace: for real tensors Inductor skips its disk cache.
    placeholders = graph.graph.find_nodes(op="placeholder")
    inputs = [node.meta["val"] for node in placeholders]
    return torch._inductor.compile(graph, inputs, options=options)
