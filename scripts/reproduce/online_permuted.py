"""Online permuted Fashion-MNIST: does a network that learns for long forget how to learn, and does continual backprop help?

    python scripts/reproduce/online_permuted.py                           # a few tasks of 10,000 images
    python scripts/reproduce/online_permuted.py --tasks 100 --seeds 5

One head for all tasks, one pass in batches of one, accuracy measured before each step (Dohare et al. 2024). Backprop
and continual backprop, at every rate and seed, are members of one program. Prints each one's online accuracy by task, and by
how many standard deviations over seeds it ends below its peak; leaves figures of it, of dead units and of effective rank.
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
    """Images of a task, each shown once."""
    seeds: int = 3
    """Runs of each learner."""
    width: int = 100
    """Of each hidden layer."""
    depth: int = 2
    """Hidden layers."""
    lrs: tuple[float, ...] = (0.003, 0.01)
    """Of SGD."""
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
    model = cl.mlp(
        scenario.inputs, (setting.width,) * setting.depth, scenario.head(), weight_init="kaiming"
    )
    members = [
        cl.cbp(model, cl.sgd(lr), replacement_rate=rate, slots=1)
        for lr, rate in learners
        for _ in keys
    ]
    how = {"batch_size": 1, "evaluate": "none", "engine": setting.engine, "out": setting.out}
    result = cl.run(cl.sweep(members), scenario, every, **how)

    Console(width=120).print(_table(setting, learners, result))
    speed = len(every) * result.steps / result.train_seconds
    print(
        f"{result.train_seconds:.0f} s with compiling, {speed:,.0f} run-steps a second; figures in {setting.out / 'figures'}"
    )


def _table(setting: Setting, learners: list[tuple[float, float]], result: Result) -> Table:
    """Online accuracy of each learner, in percent, the mean over seeds, at up to ten tasks."""
    accuracy = 100 * result.online["accuracy"].reshape(setting.tasks, len(learners), setting.seeds)
    table = Table(
        title="online accuracy on task (%); last column: fall from its peak, in standard deviations over seeds"
    )
    table.add_column("")
    shown = sorted({round(i * (setting.tasks - 1) / 9) for i in range(10)})
    for task in shown:
        table.add_column(str(task + 1), justify="right")
    table.add_column("fall / sd", justify="right")
    for i, (lr, rate) in enumerate(learners):
        mean, spread = accuracy[:, i].mean(1), accuracy[:, i].std(1)
        peak = int(mean.argmax())
        fall = (mean[peak] - mean[-1]) / torch.maximum(spread[peak], spread[-1])
        name = f"lr {lr:g}, " + (f"rate {rate:g}" if rate else "backprop")
        table.add_row(name, *(f"{mean[task]:.1f}" for task in shown), f"{fall:.1f}")
    return table


if __name__ == "__main__":
    main(tyro.cli(Setting, description=__doc__))
