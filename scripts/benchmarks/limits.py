"""The least time that any program takes: the matrix products of the steps, or moving the weights.

A layer of n units with k inputs, on m rows (examples, times positions for a convolution), is three
products: forward [m, k][k, n], the weight's gradient [n, m][m, k], and, except for the first layer,
the input's gradient [m, n][n, k]. The products of all runs are one batched product. In batches of
one, memory is the limit: each weight is read and written once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import clfunc as cl
from benchmarks.cases import OPENED, Job
from benchmarks.contender import Contender

_SMALLEST = 2**18  # bytes; below this, calls take the time, and not memory


def limit(job: Job) -> Contender:
    """A contender that trains nothing, and does the least work of a step for each entry."""
    work = _products(job) if job.case.batch > 1 else _traffic(job)

    def advance(carry: Any, entries: Tensor) -> Any:
        work(len(entries))
        return carry

    return Contender(
        name="limit",
        runs=job.runs,
        start=lambda *_: (),
        advance=advance,
        weights=lambda _: {},
    )


def _products(job: Job) -> Callable[[int], None]:
    """`steps -> None`: the matrix products of so many steps."""
    device = job.stream.train.device
    products = []
    for number, (m, k, n) in enumerate(_sizes(job)):
        shapes = [((m, k), (k, n)), ((n, m), (m, k))]
        if number > 0:
            shapes.append(((m, n), (n, k)))
        for left, right in shapes:
            a = torch.randn(job.runs, *left, device=device)
            b = torch.randn(job.runs, *right, device=device)
            products.append((a, b, torch.bmm(a, b)))

    def work(steps: int) -> None:
        for _ in range(steps):
            for a, b, out in products:
                torch.bmm(a, b, out=out)

    return work


def _sizes(job: Job) -> list[tuple[int, int, int]]:
    """(rows, inputs, units) of each layer of one run."""
    sizes = []
    side = 28
    params = cl.tree.index(job.many(job.params), 0)
    for name, layer in params.items():
        if name == "embedding":
            continue
        weight = layer["weight"]
        rows = job.case.batch + OPENED.get(job.case.method, 0)
        if weight.ndim == 4:  # a convolution, before which its maps have `side` rows and columns
            rows *= side * side
            side //= 2
        sizes.append((rows, weight[0].numel(), len(weight)))
    return sizes


def _traffic(job: Job) -> Callable[[int], None]:
    """`steps -> None`: read and write every weight in each of so many steps.

    Few weights take their share of a buffer of `_SMALLEST` bytes.
    """
    floats = sum(leaf.numel() for leaf in cl.tree.leaves(job.params))
    size = max(floats, _SMALLEST // 4)
    buffer = torch.ones(size, device=job.stream.train.device)

    def work(steps: int) -> None:
        for _ in range(max(1, round(steps * floats / size))):
            buffer.mul_(1.0)

    return work
