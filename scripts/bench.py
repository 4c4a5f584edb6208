"""How fast is clfunc beside PyTorch loops, JAX, and the least time that the machine takes?

    python scripts/bench.py                                # every case, at its own numbers of runs
    python scripts/bench.py --case hat --runs 16 64 --json results/bench.jsonl

Contenders start from the same weights and see the same batches. They are checked to arrive at the
same weights, and take turns in one process on the same cores. Times are milliseconds per run and
step, the median over repetitions; the spread is half the range between the quartiles. Plain loops
train one run, since their runs come one after the other. JAX takes part if it is installed. Let
nothing else run meanwhile.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tyro

Row = dict[str, Any]
OWN = ("clfunc", "eager", "trace", "cudagraph")  # clfunc by its engines; `clfunc` is compiled
OTHERS = ("torch", "loader", "jax", "finetuning", "joined", "limit")
UNCHECKED = ("finetuning", "joined", "limit")  # they train something else
RATIOS = {
    "/ torch": "torch",
    "/ jax": "jax",
    "/ finetuning": "finetuning",
    "/ joined": "joined",
    "/ limit": "limit",
}
TIMED = (*OWN, *OTHERS)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What to measure."""

    case: tuple[str, ...] = ()
    """finetuning, hat, cbp, tiny, tiny_cbp, online, convnet, er, ewc, a_gem, derpp, startup, job;
    all if not given."""
    runs: tuple[int, ...] = ()
    """Numbers of runs; each case has its own if not given."""
    json: Path | None = None
    """A file to which one line is added for each case and number of runs."""
    repeat: int = 9
    """Repetitions, each of some steps of every contender."""
    steps: int | None = None
    """Steps of a repetition; each case has its own if not given."""
    unroll: int | None = None
    """Steps of a compiled program; the engine chooses if not given."""
    threads: int = len(os.sched_getaffinity(0))
    """Cores that every contender may use."""
    without: tuple[str, ...] = ()
    """Contenders to leave out: eager, trace, cudagraph, torch, loader, jax, finetuning, joined,
    limit."""
    keep_cache: bool = False
    """Use the present compile cache; otherwise compiles are cold."""
    device: str = "cpu"
    """Where to train."""


def main(setting: Setting) -> None:
    # JAX obeys no other setting of its number of threads.
    cores = sorted(os.sched_getaffinity(0))[: setting.threads]
    os.sched_setaffinity(0, cores)
    import torch
    from benchmarks import cases

    torch.set_num_threads(setting.threads)
    known = (*cases.CASES, *WHOLE)
    unknown = [name for name in setting.case if name not in known]
    if unknown:
        raise SystemExit(f"case must be of {', '.join(known)}, given {', '.join(unknown)}")
    rows: list[Row] = []
    for name in setting.case or known:
        for row in _rows_of(setting, name):
            row |= {"threads": setting.threads, "load": os.getloadavg()[0]}
            rows.append(row)
            _write(setting, row)
    _show(rows)


def _rows_of(setting: Setting, name: str) -> Iterator[Row]:
    """The rows of a case, each as soon as it is measured."""
    from benchmarks import cases

    if name in WHOLE:
        yield WHOLE[name]()
    else:
        yield from _rows(setting, cases.CASES[name])


def _rows(setting: Setting, case: Any) -> Iterator[Row]:
    for runs in setting.runs or case.runs:
        with _cache(setting.keep_cache):
            yield _measured(setting, case, runs)


def _measured(setting: Setting, case: Any, runs: int) -> Row:
    """A row: the contenders checked, then timed."""
    from benchmarks import cases, measure
    from benchmarks.contender import own

    job = cases.job(case, runs, setting.device)
    compiled, plan = own(job, "compile", setting.unroll)
    compile_seconds = _first_call(compiled, job, plan.unroll)
    eager, _ = own(job, "eager", setting.unroll)
    others = []
    for engine in ("trace", "cudagraph"):
        if engine == "trace" or setting.device.startswith("cuda"):
            contender, _ = own(job, engine, setting.unroll)
            others.append(contender)
    others += _others(setting, job)

    trained = [each for each in (eager, compiled, *others) if each.name not in UNCHECKED]
    differences = measure.check(job, trained)
    del differences["eager"]
    kept = [each for each in (compiled, eager, *others) if each.name not in setting.without]
    times = measure.alternate(job, kept, setting.repeat, setting.steps or case.steps)
    summaries = {name: measure.summary(found) for name, found in times.items()}
    row = {"case": case.name, "runs": runs} | _compared(summaries)
    return row | {
        "compile_seconds": compile_seconds,
        "unroll": plan.unroll,
        "repeat": setting.repeat,
        "device": setting.device,
        "differences": differences,
    }


def _first_call(compiled: Any, job: Any, unroll: int) -> float:
    """Seconds of the first call, nearly all of which compiling takes."""
    from benchmarks import cases, measure

    began = time.perf_counter()
    compiled.advance(measure.start(compiled, job), cases.entries(job, unroll, 0))
    return time.perf_counter() - began


def _others(setting: Setting, job: Any) -> list[Any]:
    """The contenders other than clfunc that are installed and not left out."""
    from benchmarks.cases import OPENED
    from benchmarks.contender import finetuned
    from benchmarks.limits import limit
    from benchmarks.loader import loader
    from benchmarks.plain import plain

    more = OPENED.get(job.case.method)
    if more is not None:
        makers = {
            "finetuning": lambda job: finetuned(job, "finetuning"),
            "joined": lambda job: finetuned(job, "joined", more),
            "limit": limit,
        }
        return [make(job) for name, make in makers.items() if name not in setting.without]
    makers = {"torch": plain, "loader": loader, "limit": limit}
    if importlib.util.find_spec("jax"):
        from benchmarks.in_jax import in_jax

        makers["jax"] = in_jax
    return [make(job) for name, make in makers.items() if name not in setting.without]


def _compared(found: dict[str, tuple[float, float]]) -> Row:
    """Medians, clfunc's ratio to each other contender (below 1: clfunc is faster), and spreads."""
    row: Row = {}
    for name in TIMED:
        row[f"{name}_ms"] = found[name][0] if name in found else None
    for name in OTHERS:
        row[f"ratio_{name}"] = row["clfunc_ms"] / row[f"{name}_ms"] if name in found else None
    if "torch" in found:
        for name in OWN[1:]:
            ratio = row[f"{name}_ms"] / row["torch_ms"] if name in found else None
            row[f"ratio_torch_{name}"] = ratio
    row["spread"] = {name: spread for name, (_, spread) in found.items()}
    return row


def _startup() -> Row:
    from benchmarks.startup import RUNS, startup

    return {"case": "startup", "runs": RUNS} | startup()


def _job() -> Row:
    from benchmarks.whole import RUNS, whole

    return {"case": "job", "runs": RUNS} | whole()


WHOLE = {"startup": _startup, "job": _job}  # measured from the start of a process


@contextlib.contextmanager
def _cache(keep: bool) -> Iterator[None]:
    """An empty compile cache, or the present one."""
    if keep:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        yield


def _write(setting: Setting, row: Row) -> None:
    line = json.dumps(_rounded(row))
    print(line, flush=True)
    if setting.json is not None:
        setting.json.parent.mkdir(parents=True, exist_ok=True)
        with setting.json.open("a") as file:
            file.write(line + "\n")


def _rounded(value: Any) -> Any:
    """Numbers to four digits."""
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _show(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="ms per run and step (spread), and clfunc's ratio to the others")
    shown = [name for name in TIMED if any(row.get(f"{name}_ms") for row in rows)]
    for name in ("case", "runs", *shown, *RATIOS, "compile s"):
        table.add_column(name, justify="left" if name == "case" else "right")
    for row in rows:
        if row["case"] in WHOLE:
            continue
        times = [_cell(row[f"{name}_ms"], row["spread"].get(name)) for name in shown]
        ratios = [_cell(row[f"ratio_{name}"]) for name in RATIOS.values()]
        seconds = f"{row['compile_seconds']:.1f}"
        table.add_row(row["case"], str(row["runs"]), *times, *ratios, seconds)
    console = Console(width=150)
    if table.row_count:
        console.print(table)
    for row in rows:
        if row["case"] in WHOLE:
            console.print(f"{row['case']}: {_seconds(row)}")


def _seconds(row: Row) -> str:
    """The seconds of a row that is measured from the start of a process."""
    parts = []
    for name in row:
        if name.endswith("_seconds"):
            parts.append(f"{name.removesuffix('_seconds')} {row[name]:.1f} s")
    if "speedup" in row:
        parts.append(f"{row['speedup']:.1f} times")
    return ", ".join(parts)


def _cell(value: float | None, spread: float | None = None) -> str:
    if value is None:
        return ""
    if spread is None:
        return f"{value:.3g}"
    return f"{value:.3g} ({100 * spread:.0f}%)"


if __name__ == "__main__":
    main(tyro.cli(Setting, description=__doc__))
