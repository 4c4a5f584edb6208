"""A sweep that does not fit in memory is cut along the axis of runs, run chunk by chunk, and merged: `run_chunks`.

Run i is what it would be alone, so where the cuts lie changes nothing but rounding, and with the same cuts nothing at all.
Chunks have one size (but for the last), so that one compiled program serves them all. The size is measured: what two runs
take beyond one, in a rehearsal of what `run` does first, against what there is.

A chunk that is done is kept in `out/chunks` until all are, so whoever is stopped goes on from there.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from clfunc import memory, plots, results, tree
from clfunc.driver import check, run
from clfunc.evaluate import AT_ONCE, bare, over_runs, score, with_runs
from clfunc.files import check_writable, write
from clfunc.merge import mark_of, merge, pack, unpack
from clfunc.progress import Progress
from clfunc.results import Result
from clfunc.scenarios import Scenario, Stream
from clfunc.sweep import members, part, plain, sweep
from clfunc.types import Algorithm, Keys, Params, State, Task

_SHARE = 0.5  # of the memory that there is: processes were seen to take up to 1.7 times what their tensors do
Runs = Sequence[int]


class Need(NamedTuple):
    """Bytes that a sweep takes: so many whatever its size, and so many more for each run."""

    fixed: int
    each: int

    def fit(self, room: int) -> int:
        """The runs that fit in so many bytes, at least one."""
        return max(1, int(_SHARE * room - self.fixed) // max(1, self.each))


class Plan(NamedTuple):
    """The runs of each chunk, and why."""

    chunks: list[range]
    why: str


def run_chunks(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    *,
    runs_at_once: "int | str" = "auto",
    out: "str | Path | None" = None,
    progress: bool = True,
    config: "dict[str, Any] | None" = None,
    **how: Any,
) -> Result:
    """`run`, a chunk of the runs at a time; the result is the whole sweep's, its tensors on the CPU.

    Args:
        algorithm: As for `run`: one, or a `sweep` of many.
        scenario: As for `run`.
        key: `[runs, 2]`.
        runs_at_once: Runs in a chunk, or `auto`, which measures what fits in memory and says so.
        out: As for `run`; chunks that are done are kept in its `chunks` until all are, and not run again.
        progress: As for `run`.
        config: As for `run`.
        **how: The rest of what `run` takes.

    Raises:
        ValueError: As `run` does; a key for one run only; `runs_at_once` not a positive number.
    """
    cut = plan(algorithm, scenario, key, runs_at_once, how.get("batch_size", 64), how.get("device"))
    if out is not None:
        check_writable(Path(out))
    with Progress(progress, 0, 0, 0) as bar:
        bar.say(cut.why)
    began = time.perf_counter()
    told: dict[str, Any] = {"progress": progress, "config": config}
    shelf = Shelf(Path(out) if out is not None else None, algorithm, mark(algorithm, scenario, key, how, config))
    done: list[Result] = []
    for runs in cut.chunks:
        found = shelf.find(runs)
        if found is None:
            engine = {"engine": done[0].engine} if done else {}  # what the first chose goes for all
            found = run(part(algorithm, runs), scenario.part(runs), key[list(runs)], **(how | told | engine))
            shelf.keep(runs, found)
        done.append(to_cpu(found))
    result = whole(done, algorithm, cut.chunks)._replace(wall_seconds=time.perf_counter() - began)
    return finish(result, shelf)


def whole(done: Sequence[Result], algorithm: Algorithm, chunks: Sequence[Runs]) -> Result:
    """The merged result, which says how it was cut."""
    merged = merge(done, algorithm, chunks)
    return merged._replace(config=merged.config | {"chunks": [len(runs) for runs in chunks]})


def finish(result: Result, shelf: "Shelf") -> Result:
    """Write what `run` writes, and let the chunks go."""
    if shelf.out is not None:
        results.save(result, shelf.out)
        plots.save(results.to_xarray(result), shelf.out / "figures")
        shelf.clear()
    return result


def plan(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    runs_at_once: "int | str" = "auto",
    batch_size: int = 64,
    device: "torch.device | str | None" = None,
    devices: int = 1,
) -> Plan:
    """Where to cut: chunks of `runs_at_once`, or of what fits on one of `devices` devices that share the runs.

    Raises:
        ValueError: A key for one run only; `runs_at_once` not a positive number.
    """
    check(algorithm, scenario, key, 1, batch_size)
    if key.ndim != 2:
        raise ValueError(f"only a sweep can be cut: key must be [runs, 2], given {list(key.shape)}")
    if runs_at_once != "auto" and not (isinstance(runs_at_once, int) and runs_at_once >= 1):
        raise ValueError(f"runs_at_once must be auto or a number from 1, given {runs_at_once!r}")
    runs = len(key)
    if isinstance(runs_at_once, int):
        chunks = cut(runs, runs_at_once)
        return Plan(chunks, f"chunks: {_shown(chunks)} (as asked)")
    where = torch.device(device) if device is not None else key.device
    room, needs = memory.available(where), measure(algorithm, scenario, key.to(where), batch_size)
    need = min(needs, key=lambda need: need.fit(room))
    chunks = cut(runs, min(need.fit(room), math.ceil(runs / devices)))
    sizes = f"{_bytes(need.fixed)} and {_bytes(need.each)} a run, of {_bytes(room)} that {where} has free"
    return Plan(chunks, f"chunks: {_shown(chunks)} ({sizes}{f'; {devices} devices' if devices > 1 else ''})")


def cut(runs: int, at_once: int) -> list[range]:
    """`range(runs)` in as few chunks of at most `at_once` as there can be, all of one size but the last."""
    size = math.ceil(runs / math.ceil(runs / at_once))
    return [range(start, min(start + size, runs)) for start in range(0, runs, size)]


def measure(algorithm: Algorithm, scenario: Scenario, key: Keys, batch_size: int) -> tuple[Need, Need]:
    """What training takes and what testing takes, from rehearsals of one run and of two.

    Testing goes through a number of examples at a time, whatever the number of runs, so it adds to what runs hold an amount
    that one run tells.
    """
    near, runs = scenario.to(key.device), len(key)
    one = _begin(algorithm, near, key, 1)
    alone, held = _held(one) + memory.peak(lambda: _train(one, batch_size), key.device), _held(one)
    each = alone
    if runs > 1:
        two = _begin(algorithm, near, key, 2)
        each = _held(two) + memory.peak(lambda: _train(two, batch_size), key.device) - alone
    tested = near.test(0).test.shape[-1]
    batch = memory.peak(lambda: _test(one), key.device) * min(AT_ONCE, runs * tested) // max(1, min(AT_ONCE, tested))
    return Need(max(0, alone - each), max(1, each)), Need(batch, max(1, held))


class _Begun(NamedTuple):
    """A few runs, about to train their first task."""

    algorithm: Algorithm
    scenario: Scenario
    stream: Stream
    params: Params
    state: State
    runs: int


def _begin(algorithm: Algorithm, scenario: Scenario, keys: Keys, runs: int) -> _Begun:
    chosen = list(range(runs))
    few = part(algorithm, chosen) if members(algorithm) else sweep([algorithm] * runs)
    own = scenario.part(chosen)
    with torch.no_grad():
        stream = with_runs(own, own.train(0), runs)
        task = Task(stream.task, *(torch.ones_like(stream.task) for _ in range(2)))
        return _Begun(few, own, stream, *few.begin_task(*few.init(keys[chosen]), task), runs)


def _held(begun: _Begun) -> int:
    return sum(leaf.nbytes for leaf in tree.leaves((begun.params, begun.state, begun.stream)))


def _train(begun: _Begun, batch_size: int) -> None:
    """Take two steps as `run` does, with an epoch's entries drawn, and what came before the steps still there."""
    make, params, state = over_runs(begun.scenario.batch, begun.runs, (None, 0, 0)), begun.params, begun.state
    with torch.no_grad():
        epoch = begun.stream.train.clone()
        entries = epoch[:, torch.arange(batch_size, device=epoch.device) % epoch.shape[-1]]
        for _ in range(2):
            batch = make(begun.scenario.data, bare(begun.stream), entries)
            params, state, _ = begun.algorithm.step(params, state, batch)


def _test(begun: _Begun) -> None:
    stream = with_runs(begun.scenario, begun.scenario.test(0), begun.runs)
    with torch.no_grad():
        score(begun.algorithm, begun.scenario, begun.params, begun.state, stream, runs=begun.runs)


def to_cpu(result: Result) -> Result:
    """The result with params and state on the CPU, where a merged one can be larger than a device."""
    return result._replace(params=tree.to(result.params, "cpu"), state=tree.to(result.state, "cpu"))


def mark(algorithm: Algorithm, scenario: Scenario, key: Keys, how: dict[str, Any], config: Any) -> str:
    """A digest of everything that decides what a sweep's runs come to."""
    words = {
        "settings": plain(algorithm.settings),
        "scenario": [*scenario[:6], scenario.phases, scenario.mixed, scenario.runs, plain(scenario.settings)],
        "how": {name: plain(value) for name, value in how.items() if name != "device"},
        "config": _unplaced(config or {}),
        "device": torch.device(how.get("device") or key.device).type,
        "versions": results.versions(),
        "threads": torch.get_num_threads(),
    }
    digest = hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode())
    for leaf in tree.leaves((key, scenario.data, scenario.train(0), scenario.test(scenario.num_tasks - 1))):
        digest.update(leaf.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _unplaced(config: dict[str, Any]) -> dict[str, Any]:
    """Without what a command line says of places and devices rather than of runs."""
    arguments = {n: v for n, v in config.get("arguments", {}).items() if n not in ("out", "progress", "device")}
    return config | {"arguments": arguments}


class Shelf:
    """The folder of the chunks that are done; without `out`, an empty one."""

    def __init__(self, out: "Path | None", algorithm: Algorithm, mark: str) -> None:
        self.out, self.algorithm, self.mark = out, algorithm, mark

    def path(self, runs: Runs) -> "Path | None":
        name = f"{runs[0]}-{runs[-1]}-{len(runs)}.safetensors"
        return self.out / "chunks" / name if self.out is not None else None

    def find(self, runs: Runs) -> "Result | None":
        """The result of this chunk, if it is there, whole, and of this very sweep."""
        path = self.path(runs)
        if path is None or not path.is_file():
            return None
        try:
            data = path.read_bytes()
            return unpack(data, self.algorithm) if mark_of(data) == self._of(runs) else None
        except ValueError:
            return None

    def keep(self, runs: Runs, result: Result) -> None:
        self.put(runs, pack(result, self._of(runs)))

    def put(self, runs: Runs, data: bytes) -> None:
        """Put what `pack` made of a chunk's result in its place, whole or not at all."""
        path = self.path(runs)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, lambda temporary: Path(temporary).write_bytes(data))

    def clear(self) -> None:
        if self.out is not None:
            shutil.rmtree(self.out / "chunks", ignore_errors=True)

    def _of(self, runs: Runs) -> str:
        return f"{self.mark} {list(runs)}"


def _shown(chunks: Sequence[range]) -> str:
    runs, sizes = sum(map(len, chunks)), [len(chunk) for chunk in chunks]
    if len(chunks) == 1:
        return f"all {runs} run(s) at once"
    last = f", the last of {sizes[-1]}" if sizes[-1] < sizes[0] else ""
    return f"{runs} runs, {sizes[0]} at a time{last}"


def _bytes(count: int) -> str:
    size, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.3g} {unit}"
