"""Online permuted Fashion-MNIST: loss of plasticity, and continual backprop against it.

    python scripts/reproduce/online_permuted.py                     # 40 tasks of 10,000 images
    python scripts/reproduce/online_permuted.py --tasks 100 --seeds 5

All tasks share one head. A learner makes one pass in batches of one, and accuracy is measured
before each step (Dohare et al. 2024). Backprop and continual backprop, at every rate and seed, are
members of one program. The script prints the online accuracy of each learner on some tasks, and by
how many standard deviations over seeds it ends below its peak. It writes figures of the accuracy,
of dead units and of the effective rank.
"""

import dataclasses
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

import clfunc as cl
from clfunc.results.result import Result


@dataclasses.dataclass(frozen=True)
class Setting:
    """What to reproduce."""

    tasks: int = 40
    """Permutations."""
    images: int = 10_000
    """Images of a task, each seen once."""
    seeds: int = 3
    """Runs of each learner."""
    width: int = 100
    """Units of each hidden layer."""
    depth: int = 2
    """Hidden layers."""
    lrs: tuple[float, ...] = (0.003, 0.01)
    """Learning rates of SGD."""
    rates: tuple[float, ...] = (0.0, 1e-4)
    """Replacement rates; 0 is backprop."""
    engine: str = "auto"
    out: Path = Path("results/online_permuted")


def main(setting: Setting) -> None:
    data = cl.datasets.load("fashion-mnist").first(setting.images)
    keys = torch.stack([cl.random.key(seed) for seed in range(setting.seeds)])
    learners = [(lr, rate) for lr in setting.lrs for rate in setting.rates]
    every = keys.repeat(len(learners), 1)
    scenario = cl.scenarios.permuted(data, setting.tasks, every, paradigm="dil")
    hidden = (setting.width,) * setting.depth
    model = cl.mlp(scenario.inputs, hidden, scenario.head(), weight_init="kaiming")
    members = []
    for lr, rate in learners:
        member = cl.cbp(model, cl.sgd(lr), replacement_rate=rate, slots=1)
        members += [member] * len(keys)
    settings = {
        "batch_size": 1,
        "evaluate": "none",
        "engine": setting.engine,
        "out": setting.out,
    }
    result = cl.run(cl.sweep(members), scenario, every, **settings)

    Console(width=120).print(_table(setting, learners, result))
    speed = len(every) * result.steps / result.train_seconds
    print(f"{result.train_seconds:.0f} s with compiling, {speed:,.0f} run-steps a second")
    print(f"figures in {setting.out / 'figures'}")


def _table(setting: Setting, learners: list[tuple[float, float]], result: Result) -> Table:
    """Online accuracy of each learner, in percent, the mean over seeds, at up to ten tasks."""
    accuracy = 100 * result.online["accuracy"].reshape(setting.tasks, len(learners), setting.seeds)
    title = "online accuracy on task (%), and the fall from its peak in deviations over seeds"
    table = Table(title=title)
    table.add_column("")
    shown = sorted({round(i * (setting.tasks - 1) / 9) for i in range(10)})
    for task in shown:
        table.add_column(str(task + 1), justify="right")
    table.add_column("fall / sd", justify="right")
    for i, (lr, rate) in enumerate(learners):
        mean = accuracy[:, i].mean(1)
        spread = accuracy[:, i].std(1)
        peak = int(mean.argmax())
        fall = (mean[peak] - mean[-1]) / torch.maximum(spread[peak], spread[-1])
        name = f"lr {lr:g}, " + (f"rate {rate:g}" if rate else "backprop")
        cells = [f"{mean[task]:.1f}" for task in shown]
        table.add_row(name, *cells, f"{fall:.1f}")
    return table


if __name__ == "__main__":
    main(tyro.cli(Setting, description=__doc__))
