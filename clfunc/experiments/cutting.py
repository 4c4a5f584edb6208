"""A sweep cut along its axis of runs: how many runs a chunk has, and what a run's options are for
the runs of a chunk.

Chunks have one size, but for the last, so that one compiled program serves them all. The size is
asked for, or measured: what two runs take of memory beyond one, in a trial of each, against what is
free.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from clfunc.driver.algorithm_record import read_algorithm
from clfunc.driver.options import RunOptions
from clfunc.driver.run import refuse_impossible
from clfunc.driver.timeline import Request, Requests, Skip, timeline
from clfunc.experiments import device_memory, sizing
from clfunc.scenarios import Scenario
from clfunc.types import Algorithm, Keys


class ChunkPlan(NamedTuple):
    """The runs of each chunk, a line that says why, and the engine of all chunks; no engine if none
    is chosen yet.
    """

    chunks: list[range]
    why: str
    engine: str = ""


def refuse_impossible_runs(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    options: RunOptions,
) -> None:
    """Raise ValueError for what `run` cannot do with all the runs, before any of them is trained."""
    refuse_impossible(algorithm, scenario, key, options)
    runs = len(key) if key.ndim == 2 else None
    timeline(scenario, read_algorithm(algorithm), runs, options.requests, options.skip)


def plan_chunks(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    options: RunOptions,
    runs_at_once: int | str = "auto",
    *,
    devices: int = 1,
    sharing: int = 1,
) -> ChunkPlan:
    """Where to cut a sweep.

    Args:
        algorithm: A sweep, or an algorithm by itself.
        scenario: As for `run`.
        key: `[runs, 2]`.
        options: As for `run`; the batch size and the device decide what fits.
        runs_at_once: Runs in a chunk, >= 1; or `auto`, as many as fit in the memory that is free.
        devices: How many devices run chunks at a time, >= 1. Every device has a chunk to run.
        sharing: How many of these devices share one memory, >= 1.

    Raises:
        ValueError: `run` refuses the arguments; the key is of one run only; `runs_at_once` is not a
            positive number.
    """
    refuse_impossible(algorithm, scenario, key, options)
    if key.ndim != 2:
        raise ValueError(f"only a sweep can be cut: key must be [runs, 2], given {list(key.shape)}")
    is_number = isinstance(runs_at_once, int) and runs_at_once >= 1
    if runs_at_once != "auto" and not is_number:
        raise ValueError(f"runs_at_once must be auto or a number from 1, given {runs_at_once!r}")
    runs = len(key)
    if isinstance(runs_at_once, int):
        chunks = cut(runs, runs_at_once)
        return ChunkPlan(chunks, f"chunks: {describe(chunks)} (as asked)")

    device = torch.device(options.device) if options.device is not None else key.device
    room = device_memory.available(device) // sharing
    needs = sizing.measure(algorithm, scenario, key.to(device), options.batch_size)
    need = min(needs, key=lambda need: need.fit(room))
    chunks = cut(runs, min(need.fit(room), math.ceil(runs / devices)))
    sizes = f"{_bytes(need.fixed)} and {_bytes(need.each)} a run"
    reason = f"{sizes}, of {_bytes(room)} that {device} has free"
    if devices > 1:
        reason += f"; {devices} devices"
    return ChunkPlan(chunks, f"chunks: {describe(chunks)} ({reason})")


def cut(runs: int, at_once: int) -> list[range]:
    """`range(runs)` in as few chunks of at most `at_once` runs as possible, all of one size but the
    last.
    """
    count = math.ceil(runs / at_once)
    size = math.ceil(runs / count)
    chunks = []
    for start in range(0, runs, size):
        chunks.append(range(start, min(start + size, runs)))
    return chunks


def options_of(options: RunOptions, runs: Sequence[int]) -> RunOptions:
    """The options for some of the runs: requests and tasks to skip with an entry a run are cut with
    the runs.

    All runs have the same unlearnings. A run that forgets nothing in one of them has an empty
    request there, so that the results of chunks have the same events.
    """
    return options.changed(
        requests=_requests_of(options.requests, runs),
        skip=_skip_of(options.skip, runs),
    )


def _requests_of(requests: Requests, runs: Sequence[int]) -> Requests:
    if not requests or isinstance(requests, Mapping):
        return requests
    times = sorted({after for request in requests for after in request})
    chosen: list[Request] = []
    for run in runs:
        chosen.append({after: requests[run].get(after, []) for after in times})
    return chosen


def _skip_of(skip: Skip, runs: Sequence[int]) -> Skip:
    each_run = _one_a_run(skip)
    return skip if each_run is None else [each_run[run] for run in runs]


def _one_a_run(skip: Any) -> Sequence[Collection[int]] | None:
    """The tasks that each run skips; None if all runs skip the same."""
    if not isinstance(skip, Sequence) or not skip:
        return None
    return skip if all(isinstance(entry, Collection) for entry in skip) else None


def describe(chunks: Sequence[range]) -> str:
    """How many runs there are, and how many at a time."""
    sizes = [len(chunk) for chunk in chunks]
    runs = sum(sizes)
    if len(chunks) == 1:
        return f"all {runs} run(s) at once"
    last = f", the last of {sizes[-1]}" if sizes[-1] < sizes[0] else ""
    return f"{runs} runs, {sizes[0]} at a time{last}"


def _bytes(count: int) -> str:
    size = float(count)
    units = iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while size >= 1000 and unit != "TB":
        size /= 1000
        unit = next(units)
    return f"{size:.3g} {unit}"
