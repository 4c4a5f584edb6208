"""A whole job, from its command to its last figure: two tasks of permuted Fashion-MNIST, HAT, an epoch each, 16 runs.

`clfunc` is `clfunc sweep` in a process of its own: reading the files, training, testing after each task, results and figures;
`cold` the same with nothing in the compile cache. `loader` is the loop that a DataLoader feeds, its training and its tests
alone, of one run, times the runs: neither its start nor anything that it would write counts against it.
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
    f"sweep --algorithm hat --optimizer sgd --dataset fashion-mnist --tasks {TASKS} --epochs 1 --seeds {RUNS}"
    " --batch-size 128 --hidden 256 256"
)


def whole(repeat: int = 3) -> dict[str, float]:
    """Seconds of each, clfunc's the median of so many, and the ratio."""
    with tempfile.TemporaryDirectory() as folder:
        cold, *warm = (_command(Path(folder)) for _ in range(1 + repeat))
    own, fed = sorted(warm)[len(warm) // 2], RUNS * _fed()
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
    """Seconds of one run: each task trained from a DataLoader, and then all tasks seen so far tested from one."""
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
