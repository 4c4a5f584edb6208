"""A whole job, from its command to its last figure.

The job is HAT on two tasks of permuted Fashion-MNIST, an epoch each, 16 runs. `clfunc` is the time
of `clfunc sweep` in a process of its own: it reads the files, trains, tests after each task, and
writes results and figures. `cold` is the same with an empty compile cache. `loader` is the time of
one run of the loop that a DataLoader feeds, times the number of runs: it counts training and tests
alone, neither the start nor anything that is written.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Subset

from benchmarks import cases
from benchmarks.loader import images, loader
from benchmarks.measure import start

RUNS, TASKS, TESTED = 16, 2, 10_000
COMMAND = (
    f"sweep --algorithm hat --optimizer sgd --dataset fashion-mnist --tasks {TASKS} --epochs 1"
    f" --seeds {RUNS} --batch-size 128 --hidden 256 256"
)


def whole(repeat: int = 3) -> dict[str, float]:
    """Seconds of each, and their ratio; clfunc's time is the median of `repeat` commands."""
    with tempfile.TemporaryDirectory() as folder:
        cold = _command(Path(folder))
        warm = [_command(Path(folder)) for _ in range(repeat)]
    own = sorted(warm)[len(warm) // 2]
    fed = RUNS * _fed()
    return {
        "clfunc_seconds": own,
        "cold_seconds": cold,
        "loader_seconds": fed,
        "speedup": fed / own,
    }


def _command(folder: Path) -> float:
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, "-m", "clfunc", *COMMAND.split(), "--out", out]
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began


def _fed() -> float:
    """Seconds of one run: train each task from a DataLoader, then test all tasks seen from one."""
    job = cases.job(cases.CASES["hat"], 1, "cpu")
    contender, data, size = loader(job), images(job), job.case.batch
    loop = start(contender, job)
    began = time.perf_counter()
    for task in range(TASKS):
        order = torch.randperm(cases.IMAGES)
        loop = contender.advance(loop, order[: len(order) // size * size].reshape(-1, size))
        for _ in range(task + 1):
            _tested(loop, DataLoader(Subset(data, range(TESTED)), size))
    return time.perf_counter() - began


def _tested(loop, batches: DataLoader) -> float:
    """The accuracy behind the gates at s_max."""
    with torch.no_grad():
        gates = {
            group: torch.sigmoid(loop.memory["s_max"] * e)
            for group, e in loop.net.embedding.items()
        }
        return sum(int((loop.net(x, gates)[0].argmax(1) == y).sum()) for x, y in batches) / TESTED
