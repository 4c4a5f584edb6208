"""Checks that contenders compute the same thing, then times them in turns."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.cases import Job, entries, hurried
from benchmarks.contender import Contender, Weights

CHECKED = 6  # steps of a check
TOLERANCE = 5e-3  # of how far a tensor moved in them


def start(contender: Contender, job: Job, checking: bool = False) -> Any:
    """The contender at the job's start; for a check of `cbp`, where units are reset every other step."""
    state = hurried(job.state) if checking and job.case.method == "cbp" else job.state
    return contender.start(job.params, state, checking)


def check(job: Job, contenders: Sequence[Contender]) -> dict[str, float]:
    """How far each contender's weights are from the first one's after a few steps, as a share of how far those moved.

    The worst over weights, of the runs that a contender trains the median; a single run may be off ten times as far, since in
    float32 a unit at the edge of its ReLU, or two equal pixels under a maximum, may fall either way.

    Raises:
        SystemExit: A contender is off by more than `TOLERANCE`, or does not train.
    """
    batches, first = entries(job, CHECKED, seed=1), contenders[0]
    begun = first.weights(start(first, job, True))
    ended = {c.name: c.weights(c.advance(start(c, job, True), batches)) for c in contenders}
    found = {name: _distance(begun, ended[first.name], weights) for name, weights in ended.items()}
    for name, distance in found.items():
        if not distance <= TOLERANCE:
            raise SystemExit(
                f"{job.case.name} of {job.runs} run(s): {name} differs from {first.name} by {distance:.2g}"
            )
    return found


def _distance(begun: Weights, reference: Weights, weights: Weights) -> float:
    if reference.keys() != weights.keys():
        raise SystemExit(
            f"weights {sorted(weights)} are not those of the reference, {sorted(reference)}"
        )
    shares, trained = [], False
    for name, there in reference.items():
        here, there = weights[name].to(there.device), there[: len(weights[name])]
        gap, moved = ((here - x).flatten(1).norm(dim=1) for x in (there, begun[name][: len(here)]))
        trained |= bool((moved > 0).any())
        # a unit that was never active moves nowhere, in neither
        share = torch.where(gap > 0, gap / moved, gap)
        shares += [share.median(), share.max() / 10]
    return float(torch.stack(shares).max()) if trained else float("nan")


def alternate(
    job: Job, contenders: Sequence[Contender], repeat: int, steps: int
) -> dict[str, list[float]]:
    """Milliseconds per run and step of each contender at each repetition; they take turns, and each leads in turn.

    Every contender has trained `steps` steps before the first that counts.
    """
    carries = {
        c.name: c.advance(start(c, job), entries(job, steps, seed=2)[:: c.share])
        for c in contenders
    }
    found: dict[str, list[float]] = {c.name: [] for c in contenders}
    for turn in range(repeat):
        batches = entries(job, steps, seed=3 + turn)
        lead = turn % len(contenders)
        for contender in (*contenders[lead:], *contenders[:lead]):
            own = batches[: -(-len(batches) // contender.share)]
            seconds, carries[contender.name] = _timed(contender, carries[contender.name], own)
            found[contender.name].append(1e3 * seconds / (contender.runs * len(own)))
    return found


def _timed(contender: Contender, carry: Any, batches: torch.Tensor) -> tuple[float, Any]:
    began = time.perf_counter()
    carry = contender.advance(carry, batches)
    if batches.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began, carry


def summary(times: Sequence[float]) -> tuple[float, float]:
    """The median, and the spread: half the range between the quartiles, as a share of the median."""
    if len(times) < 2:
        return times[0], 0.0
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return median, (high - low) / 2 / median
