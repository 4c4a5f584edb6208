"""CUDA graphs: a compiled program is captured once and replayed, so that a chunk is one launch
instead of one launch for each kernel.

A graph reads and writes the addresses that it was captured with. So the leaves that a program
writes, and the small leaves that it reads, lie in buffers of the graph, which are filled before
the first replay and read back after the last. The large leaves that it only reads (the data) are
read where the caller keeps them. The graph holds them, so that nothing else can take their place.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

# Entries below which a leaf is copied; a larger leaf is compiled for and captured as it lies.
SMALL = 2**16


class Graph:
    """A program `(*carry, *xs) -> ys` that writes the leaves of the carry that are not `fixed`."""

    def __init__(
        self,
        program: Callable[..., list[Tensor]],
        carry: Sequence[Tensor],
        fixed: Sequence[bool],
        xs: Sequence[Tensor],
    ) -> None:
        self.fixed = fixed
        self.addresses = _addresses(carry, fixed)
        self.carry = []
        for leaf in carry:
            read_in_place = leaf.data_ptr() in self.addresses
            self.carry.append(leaf if read_in_place else leaf.clone())
        self.xs = [x.clone() for x in xs]
        self.graph, self.ys = _captured(program, self.carry, self.xs)

    def fits(self, carry: Sequence[Tensor]) -> bool:
        """Whether every large leaf has the address that the graph was captured with."""
        return _addresses(carry, self.fixed) == self.addresses

    def run_chunks(
        self,
        carry: Sequence[Tensor],
        chunks: Iterable[Sequence[Tensor]],
    ) -> list[list[Tensor]]:
        """The ys of each chunk; writes the carry as the program does."""
        _fill(self.carry, carry)
        ys = []
        for xs in chunks:
            _fill(self.xs, xs)
            self.graph.replay()
            # the next replay writes to the same addresses
            ys.append([y.clone() for y in self.ys])
        for leaf, buffer, fixed in zip(carry, self.carry, self.fixed, strict=True):
            if not fixed:
                leaf.copy_(buffer)
        return ys


def _addresses(carry: Sequence[Tensor], fixed: Sequence[bool]) -> list[int]:
    """The addresses of the large leaves that a program only reads, in their order."""
    found = []
    for leaf, only_read in zip(carry, fixed, strict=True):
        if only_read and leaf.numel() >= SMALL:
            found.append(leaf.data_ptr())
    return found


def _fill(buffers: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
    for buffer, leaf in zip(buffers, leaves, strict=True):
        if buffer.data_ptr() != leaf.data_ptr():
            buffer.copy_(leaf)


def _captured(
    program: Callable[..., list[Tensor]],
    carry: list[Tensor],
    xs: list[Tensor],
) -> tuple[Any, list[Tensor]]:
    """The graph of a program, and the tensors in which it leaves its ys.

    The program runs once before, on another stream, because compiling and loading its kernels
    cannot be captured.
    """
    device = xs[0].device
    current = torch.cuda.current_stream(device)
    other = torch.cuda.Stream(device)
    other.wait_stream(current)
    with torch.cuda.stream(other):
        program(*carry, *xs)
    current.wait_stream(other)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        ys = program(*carry, *xs)
    return graph, ys
