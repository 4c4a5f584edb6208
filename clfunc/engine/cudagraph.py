"""CUDA graphs: a compiled program captured once and replayed, so that a chunk is one launch instead of one for each kernel.

A graph reads and writes the addresses that it was captured with. So what a program writes, and what it reads of small, lies in
buffers of the graph's own, filled before the first replay and read back after the last. What it reads of large (the data) is
read where the caller keeps it, and held, so that nothing else comes to lie there.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

SMALL = (
    2**16
)  # entries below which a leaf is copied, rather than compiled for or captured as it lies


class Graph:
    """A program `(*carry, *xs) -> ys` that writes the leaves of the carry that are not `fixed`."""

    def __init__(
        self,
        program: Callable[..., list[Tensor]],
        carry: Sequence[Tensor],
        fixed: Sequence[bool],
        xs: Sequence[Tensor],
    ) -> None:
        self.fixed, self.lying = fixed, _lying(carry, fixed)
        self.carry = [leaf if leaf.data_ptr() in self.lying else leaf.clone() for leaf in carry]
        self.xs = [x.clone() for x in xs]
        self.graph, self.ys = _captured(program, self.carry, self.xs)

    def fits(self, carry: Sequence[Tensor]) -> bool:
        """Whether large leaves lie where they did."""
        return _lying(carry, self.fixed) == self.lying

    def over(
        self, carry: Sequence[Tensor], chunks: Iterable[Sequence[Tensor]]
    ) -> list[list[Tensor]]:
        """The ys of each chunk; writes the carry as the program does."""
        _fill(self.carry, carry)
        told = []
        for xs in chunks:
            _fill(self.xs, xs)
            self.graph.replay()
            told.append([y.clone() for y in self.ys])
        for leaf, buffer, fixed in zip(carry, self.carry, self.fixed, strict=True):
            if not fixed:
                leaf.copy_(buffer)
        return told


def _lying(carry: Sequence[Tensor], fixed: Sequence[bool]) -> list[int]:
    """Addresses of large leaves that are only read, in their order."""
    return [
        leaf.data_ptr()
        for leaf, still in zip(carry, fixed, strict=True)
        if still and leaf.numel() >= SMALL
    ]


def _fill(buffers: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
    for buffer, leaf in zip(buffers, leaves, strict=True):
        if buffer.data_ptr() != leaf.data_ptr():
            buffer.copy_(leaf)


def _captured(
    program: Callable[..., list[Tensor]], carry: list[Tensor], xs: list[Tensor]
) -> tuple[Any, list[Tensor]]:
    """The program's graph and where it leaves its ys. It runs once before, on a stream aside, to compile and to load."""
    aside = torch.cuda.Stream(xs[0].device)
    aside.wait_stream(torch.cuda.current_stream(xs[0].device))
    with torch.cuda.stream(aside):
        program(*carry, *xs)
    torch.cuda.current_stream(xs[0].device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(xs[0].device), torch.cuda.graph(graph):
        ys = program(*carry, *xs)
    return graph, ys
