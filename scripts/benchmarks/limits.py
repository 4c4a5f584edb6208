"""What no program can beat: the matrix products of the steps alone or, for batches of one, the memory that must move.

A layer of n units with k inputs, on m rows (examples, times positions for a convolution), is three products: forward
[m, k][k, n], the weight's gradient [n, m][m, k], and, but for the first layer, the input's [m, n][n, k]. All runs are one
batched product. In batches of one each weight is read and written once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import clfunc as cl
from benchmarks.cases import Job
from benchmarks.contender import Contender

_SMALLEST = 2**18  # bytes: below this a call, not memory, is what takes time


def limit(job: Job) -> Contender:
    """A contender that trains nothing; an entry of its `entries` is a step."""
    work = _products(job) if job.case.batch > 1 else _traffic(job)

    def advance(carry: Any, entries: Tensor) -> Any:
        work(len(entries))
        return carry

    return Contender("limit", job.runs, lambda *_: (), advance, lambda _: {})


def _products(job: Job) -> Callable[[int], None]:
    device, pairs = job.stream.train.device, []
    for first, (m, k, n) in zip((True, *[False] * 99), _sizes(job), strict=False):
        for left, right in (((m, k), (k, n)), ((n, m), (m, k)), ((m, n), (n, k)))[
            : 2 if first else 3
        ]:
            a, b = (torch.randn(job.runs, *shape, device=device) for shape in (left, right))
            pairs.append((a, b, torch.bmm(a, b)))

    def work(steps: int) -> None:
        for _ in range(steps):
            for a, b, out in pairs:
                torch.bmm(a, b, out=out)

    return work


def _sizes(job: Job) -> list[tuple[int, int, int]]:
    """(rows, inputs, units) of each layer of one run."""
    sizes, side = [], 28
    for name, layer in cl.tree.index(job.many(job.params), 0).items():
        if name == "embedding":
            continue
        weight = layer["weight"]
        rows = job.case.batch * (side * side if weight.ndim == 4 else 1)
        side = side // 2 if weight.ndim == 4 else side
        sizes.append((rows, weight[0].numel(), len(weight)))
    return sizes


def _traffic(job: Job) -> Callable[[int], None]:
    """Every weight scaled in place, in a buffer of at least `_SMALLEST` bytes, for the weights' share of that."""
    floats = sum(leaf.numel() for leaf in cl.tree.leaves(job.params))
    size = max(floats, _SMALLEST // 4)
    buffer = torch.ones(size, device=job.stream.train.device)

    def work(steps: int) -> None:
        for _ in range(max(1, round(steps * floats / size))):
            buffer.mul_(1.0)

    return work
