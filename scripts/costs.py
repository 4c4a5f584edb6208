"""What many tasks and metrics cost, which should be nothing; and whether bfloat16 pays.

    python scripts/costs.py                                   # every case
    python scripts/costs.py --case tasks --json results/costs.jsonl

    tasks       a compiled task-incremental step at 100 tasks, over one at 2
    metrics     a compiled step with metrics, over one without, from which Inductor removes them
    bfloat16    a compiled step with `compute_dtype="bfloat16"`, over one without
    memory      peak resident memory of a run of 800 permuted tasks, over one of 8, each in a
                process of its own

Steps are the steps of `bench.py` (an MLP 784-256-256-10, batch 128), and take turns. A number is
the lower quartile over repetitions of milliseconds of CPU time per step of all runs, on one core,
so that other processes disturb it little.
"""

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

Row = dict[str, Any]
CASES = ("tasks", "metrics", "bfloat16", "memory")
BARS = {"tasks": 1.2, "metrics": 1.03, "bfloat16": None, "memory": None}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What to measure."""

    case: tuple[str, ...] = CASES
    """tasks, metrics, bfloat16, memory."""
    method: tuple[str, ...] = ("finetuning", "hat")
    runs: int = 4
    repeat: int = 100
    """Repetitions, each of some steps of both contenders."""
    steps: int = 4
    json: Path | None = None
    """A file to which one line is added for each row."""
    of_tasks: int = 0
    """Only train so many tasks, and print the memory that this process takes."""
    paradigm: str = "dil"
    """The paradigm of that process."""


def main(setting: Setting) -> None:
    if setting.of_tasks:
        print(_peak(setting.of_tasks, setting.paradigm))
        return
    unknown = [case for case in setting.case if case not in CASES]
    if unknown:
        raise SystemExit(f"case must be of {', '.join(CASES)}, given {', '.join(unknown)}")
    import torch
    from benchmarks import cases

    torch.set_num_threads(1)
    cases.IMAGES = 4096
    rows = [row for case in setting.case for row in _rows(setting, case)]
    for row in rows:
        if setting.json is not None:
            setting.json.parent.mkdir(parents=True, exist_ok=True)
            with setting.json.open("a") as file:
                file.write(json.dumps(row) + "\n")
    _show(rows)


def _rows(setting: Setting, case: str) -> list[Row]:
    if case == "memory":
        return [_memory(paradigm) for paradigm in ("dil", "til")]
    return [_steps(setting, case, method) for method in setting.method]


def _steps(setting: Setting, case: str, method: str) -> Row:
    """Both contenders of a case, timed in turns."""
    from benchmarks.cases import CASES, job

    pairs: dict[str, tuple[Row, Row]] = {
        "tasks": ({"tasks": 100}, {"tasks": 2}),
        "metrics": ({}, {}),
        "bfloat16": ({"compute_dtype": "bfloat16"}, {}),
    }
    with_it, without = pairs[case]
    more = job(CASES[method], setting.runs, "cpu", **with_it)
    less = job(CASES[method], setting.runs, "cpu", **without)
    if case == "metrics":
        less = less._replace(algorithm=_without_metrics(less.algorithm))
    programs = [_program(setting, more), _program(setting, less)]
    ratio, high, low = _compared(setting, programs)
    return {
        "case": f"{case}, {method}, {setting.runs} runs",
        "more": high,
        "less": low,
        "unit": "ms",
        "ratio": ratio,
        "bar": BARS[case],
    }


def _without_metrics(algorithm: Any) -> Any:
    def step(*arguments: Any) -> Any:
        params, state, _ = algorithm.step(*arguments)
        return params, state, {}

    return algorithm._replace(step=step)


def _program(setting: Setting, job: Any) -> Callable[[], None]:
    """A function that trains a job for some more steps at each call."""
    from benchmarks.cases import entries
    from benchmarks.contender import own

    contender, _ = own(job, "compile")
    carry = contender.start(job.params, job.state, False)
    batches = entries(job, setting.steps, 0)

    def advance() -> None:
        nonlocal carry
        carry = contender.advance(carry, batches)

    advance()
    return advance


def _compared(setting: Setting, programs: list[Callable[[], None]]) -> tuple[float, float, float]:
    """The first program's time over the second's, and both, in ms per step."""
    times: list[list[float]] = [[], []]
    for turn in range(setting.repeat):
        for which in (0, 1) if turn % 2 else (1, 0):
            began = time.process_time()
            programs[which]()
            times[which].append(1e3 * (time.process_time() - began) / setting.steps)
    more, less = (statistics.quantiles(each, n=4)[0] for each in times)
    return more / less, more, less


def _memory(paradigm: str) -> Row:
    more = _in_a_process(800, paradigm)
    less = _in_a_process(8, paradigm)
    return {
        "case": f"memory, {paradigm} head, 800 tasks to 8",
        "more": more,
        "less": less,
        "unit": "MiB",
        "ratio": more / less,
        "bar": BARS["memory"],
    }


def _in_a_process(tasks: int, paradigm: str) -> float:
    command = [sys.executable, __file__, "--of-tasks", str(tasks), "--paradigm", paradigm]
    return float(subprocess.run(command, capture_output=True, check=True).stdout.split()[-1])


def _peak(tasks: int, paradigm: str) -> float:
    """Peak memory of a run of so many permuted tasks, in MiB."""
    import torch

    import clfunc as cl

    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (512, 1, 28, 28), dtype=torch.uint8, generator=generator)
    data = cl.datasets.Dataset("synthetic", x, torch.arange(512) % 10, 512, 10, 127.5, 73.9)
    scenario = cl.scenarios.permuted(data, tasks, cl.random.key(0), paradigm=paradigm)
    model = cl.mlp(scenario.inputs, (32,), scenario.head())
    algorithm = cl.finetuning(model, cl.sgd(0.01))
    cl.run(
        algorithm,
        scenario,
        cl.random.key(0),
        batch_size=256,
        engine="eager",
        evaluate="none",
        progress=False,
    )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _show(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="what should not cost")
    for name in ("case", "with", "without", "ratio", "bar"):
        table.add_column(name, justify="left" if name == "case" else "right")
    for row in rows:
        sides = (f"{row[side]:.3g} {row['unit']}" for side in ("more", "less"))
        table.add_row(row["case"], *sides, f"{row['ratio']:.3f}", f"{row['bar'] or ''}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main(tyro.cli(Setting, description=__doc__))
