"""How fast is clfunc, beside a PyTorch loop, a loader-fed one, JAX, and what the machine could do at best?

    python scripts/bench.py                                   # every case, at its own numbers of runs
    python scripts/bench.py --case hat --runs 16 64 --json results/bench.jsonl

Contenders start from the same weights, see the same batches, are checked to arrive at the same weights, and take turns in
one process on the same cores. Times are milliseconds per run and step, the median over repetitions; the spread is half the
range between the quartiles. Plain loops train one run, since many would come one after the other. JAX runs if it is
installed. Time with nothing else running.
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
OWN = ("clfunc", "eager", "trace", "cudagraph")  # clfunc by its engines, compiled first
TIMED = (*OWN, "torch", "loader", "jax", "limit")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What to measure."""

    case: tuple[str, ...] = ()
    """finetuning, hat, cbp, tiny, tiny_cbp, online, convnet, startup, job; all if not given."""
    runs: tuple[int, ...] = ()
    """Numbers of runs, in place of each case's own."""
    json: Path | None = None
    """Where to add one line for each case and number of runs."""
    repeat: int = 9
    """Repetitions, each of some steps of every contender."""
    steps: int | None = None
    """Steps of a repetition, in place of the case's own."""
    unroll: int | None = None
    """Steps of a compiled program, in place of what the engine chooses."""
    threads: int = len(os.sched_getaffinity(0))
    """Cores that every contender may use."""
    without: tuple[str, ...] = ()
    """Contenders to leave out: eager, trace, cudagraph, torch, loader, jax, limit."""
    keep_cache: bool = False
    """Use the compile cache that there is; otherwise compiles are cold."""
    device: str = "cpu"


def main(setting: Setting) -> None:
    os.sched_setaffinity(
        0, sorted(os.sched_getaffinity(0))[: setting.threads]
    )  # JAX has no other setting that holds
    import torch
    from benchmarks import cases

    torch.set_num_threads(setting.threads)
    known = (*cases.CASES, *WHOLE)
    unknown = [name for name in setting.case if name not in known]
    if unknown:
        raise SystemExit(f"case must be of {', '.join(known)}, given {', '.join(unknown)}")
    rows = []
    for name in setting.case or known:
        for row in [WHOLE[name]()] if name in WHOLE else _rows(setting, cases.CASES[name]):
            rows.append(row | {"threads": setting.threads, "load": os.getloadavg()[0]})
            _write(setting, rows[-1])
    _show(rows)


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
    compile_seconds = _first(compiled, job, plan.unroll)
    engines = ("trace", "cudagraph") if setting.device.startswith("cuda") else ("trace",)
    eager, *engines = (own(job, engine, setting.unroll)[0] for engine in ("eager", *engines))
    others = [*engines, *_others(setting, job)]
    differences = measure.check(job, [c for c in (eager, compiled, *others) if c.name != "limit"])
    kept = [c for c in (compiled, eager, *others) if c.name not in setting.without]
    times = measure.alternate(job, kept, setting.repeat, setting.steps or case.steps)
    row = {"case": case.name, "runs": runs} | _compared(
        {name: measure.summary(t) for name, t in times.items()}
    )
    row |= {"compile_seconds": compile_seconds, "unroll": plan.unroll, "repeat": setting.repeat}
    return row | {
        "device": setting.device,
        "differences": {k: v for k, v in differences.items() if k != "eager"},
    }


def _first(compiled: Any, job: Any, unroll: int) -> float:
    """Seconds of the first call, nearly all of it compiling."""
    from benchmarks import cases, measure

    began = time.perf_counter()
    compiled.advance(measure.start(compiled, job), cases.entries(job, unroll, 0))
    return time.perf_counter() - began


def _others(setting: Setting, job: Any) -> list[Any]:
    """Contenders other than clfunc, as far as they are wanted and can be."""
    from benchmarks.limits import limit
    from benchmarks.loader import loader
    from benchmarks.plain import plain

    makers = {"torch": plain, "loader": loader, "limit": limit}
    if importlib.util.find_spec("jax"):
        from benchmarks.in_jax import in_jax

        makers["jax"] = in_jax
    return [make(job) for name, make in makers.items() if name not in setting.without]


def _compared(found: dict[str, tuple[float, float]]) -> Row:
    """Medians, clfunc's ratio to each other contender (below 1: clfunc is faster), and spreads."""
    row: Row = {f"{name}_ms": found[name][0] if name in found else None for name in TIMED}
    for name in ("torch", "loader", "jax", "limit"):
        row[f"ratio_{name}"] = row["clfunc_ms"] / row[f"{name}_ms"] if name in found else None
    for name in OWN[1:] if "torch" in found else ():
        row[f"ratio_torch_{name}"] = row[f"{name}_ms"] / row["torch_ms"] if name in found else None
    return row | {"spread": {name: spread for name, (_, spread) in found.items()}}


def _startup() -> Row:
    from benchmarks.startup import RUNS, startup

    return {"case": "startup", "runs": RUNS} | startup()


def _job() -> Row:
    from benchmarks.whole import RUNS, whole

    return {"case": "job", "runs": RUNS} | whole()


WHOLE = {"startup": _startup, "job": _job}  # measured from the start of a process


@contextlib.contextmanager
def _cache(keep: bool) -> Iterator[None]:
    """A compile cache that is empty, or the one that there is."""
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
    for name in ("case", "runs", *shown, "/ torch", "/ jax", "/ limit", "compile s"):
        table.add_column(name, justify="left" if name == "case" else "right")
    for row in (row for row in rows if row["case"] not in WHOLE):
        times = [_cell(row[f"{name}_ms"], row["spread"].get(name)) for name in shown]
        ratios = [_cell(row[f"ratio_{name}"]) for name in ("torch", "jax", "limit")]
        table.add_row(
            row["case"], str(row["runs"]), *times, *ratios, f"{row['compile_seconds']:.1f}"
        )
    console = Console(width=150)
    console.print(table) if table.row_count else None
    for row in (row for row in rows if row["case"] in WHOLE):
        times = [
            f"{name.removesuffix('_seconds')} {row[name]:.1f} s"
            for name in row
            if name.endswith("_seconds")
        ]
        console.print(
            f"{row['case']}: {', '.join(times)}"
            + (f", {row['speedup']:.1f} times" if "speedup" in row else "")
        )


def _cell(value: float | None, spread: float | None = None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" + ("" if spread is None else f" ({100 * spread:.0f}%)")


if __name__ == "__main__":
    main(tyro.cli(Setting, description=__doc__))
