"""A sweep that does not fit in memory is cut along the axis of runs, run chunk by chunk, and merged: `run_chunks`.

Run i is what it would be alone, so where the cuts lie changes nothing but rounding, and with the same cuts nothing at all.
Chunks have one size (but for the last), so that one compiled program serves them all. The size is measured: what two runs
take beyond one, in a rehearsal of what `run` does first, against what there is.

A chunk that is done is kept in `out/chunks` until all are, so whoever is stopped goes on from there.
"""

import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from clfunc import tree
from clfunc.driver.checkpoint import digest
from clfunc.driver.progress import say
from clfunc.driver.run import check, run
from clfunc.engine.sweep import members, part, sweep
from clfunc.experiments import device_memory as memory
from clfunc.experiments.sizing import measure
from clfunc.results import plots
from clfunc.results import result as results
from clfunc.results.files import check_writable, write, write_text
from clfunc.results.merge import mark_of, merge, pack, unpack
from clfunc.results.result import Result
from clfunc.scenarios import Scenario
from clfunc.settings import plain
from clfunc.types import Algorithm, Keys

Runs = Sequence[int]


class Plan(NamedTuple):
    """The runs of each chunk, why, and the engine of all, where that was chosen."""

    chunks: list[range]
    why: str
    engine: str = ""


def run_chunks(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    *,
    runs_at_once: "int | str" = "auto",
    out: "str | Path | None" = None,
    resume: "bool | str" = False,
    checkpoint_every: int | None = None,
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
        resume: As for `run`, where all runs are one chunk; where they are several, it is those that are kept.
        checkpoint_every: Likewise.
        progress: As for `run`.
        config: As for `run`.
        **how: The rest of what `run` takes.

    Raises:
        ValueError: As `run` does; a key for one run only; `runs_at_once` not a positive number.
    """
    shelf = Shelf(
        out, algorithm, mark(algorithm, scenario, key, how, config) if out is not None else ""
    )
    told: dict[str, Any] = {"progress": progress, "config": config}
    began = time.perf_counter()
    found = shelf.plan(len(key), runs_at_once) if key.ndim == 2 else None
    chosen = found or plan(
        algorithm, scenario, key, runs_at_once, how.get("batch_size", 64), how.get("device")
    )
    say(chosen.why, progress and (len(chosen.chunks) > 1 or runs_at_once != "auto"))
    if len(chosen.chunks) == 1 and found is None:
        saved: dict[str, Any] = {"resume": resume, "checkpoint_every": checkpoint_every}
        return run(algorithm, scenario, key, out=out, **how, **told, **saved)
    done: list[Result] = []
    # once, so that chunks share its functions
    many = algorithm if members(algorithm) else sweep([algorithm] * len(key))
    for runs in chosen.chunks:
        result = shelf.find(runs)
        if result is None:
            engine = (
                {"engine": chosen.engine} if chosen.engine else {}
            )  # what the first chose goes for all
            result = run(
                part(many, runs), scenario.part(runs), key[list(runs)], **(how | told | engine)
            )
            chosen = chosen._replace(engine=result.engine)
            shelf.keep(runs, pack(result, shelf.name(runs)), chosen)
        done.append(to_cpu(result))
    return finish(done, algorithm, chosen, shelf, began)


def finish(
    done: Sequence[Result], algorithm: Algorithm, plan: Plan, shelf: "Shelf", began: float
) -> Result:
    """The merged result, which says how it was cut; what `run` writes is written, and the chunks let go."""
    merged = merge(done, algorithm, plan.chunks)
    config = merged.config | {"chunks": [len(runs) for runs in plan.chunks]}
    merged = merged._replace(config=config, wall_seconds=time.perf_counter() - began)
    if shelf.out is not None:
        plots.save(results.save(merged, shelf.out), shelf.out / "figures")
        shelf.clear()
    return merged


def plan(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    runs_at_once: "int | str" = "auto",
    batch_size: int = 64,
    device: "torch.device | str | None" = None,
    devices: int = 1,
    sharing: int = 1,
) -> Plan:
    """Where to cut: chunks of `runs_at_once`, or of what fits on one of `devices` devices, `sharing` of them in one memory.

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
    room, needs = (
        memory.available(where) // sharing,
        measure(algorithm, scenario, key.to(where), batch_size),
    )
    need = min(needs, key=lambda need: need.fit(room))
    chunks = cut(runs, min(need.fit(room), math.ceil(runs / devices)))
    sizes = f"{_bytes(need.fixed)} and {_bytes(need.each)} a run, of {_bytes(room)} that {where} has free"
    return Plan(
        chunks, f"chunks: {_shown(chunks)} ({sizes}{f'; {devices} devices' if devices > 1 else ''})"
    )


def cut(runs: int, at_once: int) -> list[range]:
    """`range(runs)` in as few chunks of at most `at_once` as there can be, all of one size but the last."""
    size = math.ceil(runs / math.ceil(runs / at_once))
    return [range(start, min(start + size, runs)) for start in range(0, runs, size)]


def to_cpu(result: Result) -> Result:
    """The result with params and state on the CPU, where a merged one can be larger than a device."""
    return result._replace(params=tree.to(result.params, "cpu"), state=tree.to(result.state, "cpu"))


def mark(
    algorithm: Algorithm, scenario: Scenario, key: Keys, how: dict[str, Any], config: Any
) -> str:
    """A digest of everything that decides what a sweep's runs come to."""
    words = {
        "settings": plain(algorithm.settings),
        "scenario": [
            *scenario[:6],
            scenario.phases,
            scenario.mixed,
            scenario.runs,
            plain(scenario.settings),
        ],
        "how": {name: plain(value) for name, value in how.items() if name != "device"},
        "config": _unplaced(config or {}),
        "device": torch.device(how.get("device") or key.device).type,
        "versions": results.versions(),
        "threads": torch.get_num_threads(),
    }
    held = tree.leaves(
        (key, scenario.data, scenario.train(0), scenario.test(scenario.num_tasks - 1))
    )
    return digest(held, json.dumps(words, sort_keys=True, default=str))


_PLACES = (
    "out",
    "progress",
    "resume",
    "resume_anyway",
    "checkpoint_every",
    "device",
    "devices",
    "runs_at_once",
    "cluster",
    "cluster_address",
)


def _unplaced(config: dict[str, Any]) -> dict[str, Any]:
    """Without what a command line says of places and devices rather than of runs."""
    return config | {
        "arguments": {n: v for n, v in config.get("arguments", {}).items() if n not in _PLACES}
    }


class Shelf:
    """The folder of the chunks that are done, and of how the sweep was cut; without `out`, an empty one."""

    def __init__(self, out: "str | Path | None", algorithm: Algorithm, mark: str) -> None:
        if out is not None:
            check_writable(Path(out))
        self.out, self.algorithm, self.mark = (
            Path(out) if out is not None else None,
            algorithm,
            mark,
        )

    def path(self, name: str) -> "Path | None":
        return self.out / "chunks" / name if self.out is not None else None

    def name(self, runs: Runs) -> str:
        """What these runs of this very sweep are known by."""
        return f"{self.mark} {list(runs)}"

    def plan(self, runs: int, runs_at_once: "int | str") -> "Plan | None":
        """How this sweep was cut when it was last begun, if it was, and not otherwise than is asked now."""
        if self.out is None:
            return None
        folder = self.out / "chunks"
        try:
            found = json.loads((folder / "plan.json").read_text())
            size, engine = int(found["size"]), str(found["engine"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        chunks = cut(runs, size) if size > 0 else []
        asked = runs_at_once == "auto" or chunks == cut(runs, int(runs_at_once))
        done = sum(self.find(chunk) is not None for chunk in chunks)
        if found.get("mark") != self.mark or not asked or not done:
            return None
        return Plan(
            chunks,
            f"chunks: {_shown(chunks)}, {done} of {len(chunks)} done before (in {folder})",
            engine,
        )

    def find(self, runs: Runs) -> "Result | None":
        """The result of this chunk, if it is there, whole, and of this very sweep."""
        path = self.path(_file(runs))
        if path is None or not path.is_file():
            return None
        try:
            data = path.read_bytes()
            return unpack(data, self.algorithm) if mark_of(data) == self.name(runs) else None
        except ValueError:
            return None

    def keep(self, runs: Runs, data: bytes, plan: Plan) -> None:
        """Put what `pack` made of a chunk's result in its place, whole or not at all."""
        path, note = self.path(_file(runs)), self.path("plan.json")
        if path is not None and note is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            words = {"mark": self.mark, "size": len(plan.chunks[0]), "engine": plan.engine}
            write_text(note, json.dumps(words) + "\n")
            write(path, lambda temporary: Path(temporary).write_bytes(data))

    def clear(self) -> None:
        if self.out is not None:
            shutil.rmtree(self.out / "chunks", ignore_errors=True)


def _file(runs: Runs) -> str:
    return f"{runs[0]}-{runs[-1]}.safetensors"


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
