"""Checks that contenders compute the same thing, then times them in turns."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.cases import Job, entries, hurried
from benchmarks.contender import Contender, Weights

CHECKED = 6  # steps of a check
TOLERANCE = 5e-3  # as a share of how far a tensor moves in these steps


def start(contender: Contender, job: Job, is_check: bool = False) -> Any:
    """The carry of a contender at the job's start.

    For a check of `cbp`, units are reset every other step.
    """
    state = job.state
    if is_check and job.case.method == "cbp":
        state = hurried(state)
    return contender.start(job.params, state, is_check)


def check(job: Job, contenders: Sequence[Contender]) -> dict[str, float]:
    """How far the weights of each contender are from the first one's after a few steps.

    The distance is a share of how far the weights move in these steps: the worst over tensors of
    the median over the runs that a contender trains. A single run may be off ten times as far: in
    float32, a unit at the edge of its ReLU or two equal pixels under a maximum fall either way.

    Raises:
        SystemExit: A contender is off by more than `TOLERANCE`, or does not train.
    """
    batches = entries(job, CHECKED, seed=1)
    first = contenders[0]
    before = first.weights(start(first, job, True))
    after = {}
    for contender in contenders:
        carry = contender.advance(start(contender, job, True), batches)
        after[contender.name] = contender.weights(carry)
    found = {}
    for name, weights in after.items():
        distance = _distance(before, after[first.name], weights)
        if not distance <= TOLERANCE:
            raise SystemExit(
                f"{job.case.name} of {job.runs} run(s): {name} differs from {first.name}"
                f" by {distance:.2g}"
            )
        found[name] = distance
    return found


def _distance(before: Weights, reference: Weights, weights: Weights) -> float:
    if reference.keys() != weights.keys():
        raise SystemExit(
            f"weights {sorted(weights)} are not those of the reference, {sorted(reference)}"
        )
    shares = []
    has_trained = False
    for name in reference:
        expected = reference[name][: len(weights[name])]
        found = weights[name].to(expected.device)
        gap = (found - expected).flatten(1).norm(dim=1)
        moved = (found - before[name][: len(found)]).flatten(1).norm(dim=1)
        has_trained |= bool((moved > 0).any())
        # A unit that is never active moves in neither program.
        share = torch.where(gap > 0, gap / moved, gap)
        shares += [share.median(), share.max() / 10]
    return float(torch.stack(shares).max()) if has_trained else float("nan")


def alternate(
    job: Job,
    contenders: Sequence[Contender],
    repeat: int,
    steps: int,
) -> dict[str, list[float]]:
    """Milliseconds per run and step of each contender at each repetition.

    Contenders take turns, and each leads in turn. Every contender trains `steps` steps before the
    first repetition.

    Args:
        job: What to train.
        contenders: The programs to time.
        repeat: Number of repetitions.
        steps: Steps of a repetition.
    """
    carries = {}
    for contender in contenders:
        batches = entries(job, steps, seed=2)[:: contender.share]
        carries[contender.name] = contender.advance(start(contender, job), batches)
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for turn in range(repeat):
        batches = entries(job, steps, seed=3 + turn)
        lead = turn % len(contenders)
        for contender in (*contenders[lead:], *contenders[:lead]):
            share = -(-len(batches) // contender.share)
            own = batches[:share]
            seconds, carry = _timed(contender, carries[contender.name], own)
            carries[contender.name] = carry
            times[contender.name].append(1e3 * seconds / (contender.runs * len(own)))
    return times


def _timed(contender: Contender, carry: Any, batches: torch.Tensor) -> tuple[float, Any]:
    began = time.perf_counter()
    carry = contender.advance(carry, batches)
    if batches.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began, carry


def summary(times: Sequence[float]) -> tuple[float, float]:
    """The median, and the spread: half the range between the quartiles over the median."""
    if len(times) < 2:
        return times[0], 0.0
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return median, (high - low) / 2 / median
