"""Slowly changing regression (Dohare et al. 2024): loss of plasticity, and continual backprop.

    # 90 runs of 480,000 steps
    python scripts/reproduce/slowly_changing_regression.py
    # 100 runs of 3,000,000 steps
    python scripts/reproduce/slowly_changing_regression.py --seeds 50 --tasks 300 --rates 0 1e-4

A network of 5 ReLU units imitates one of 100 threshold units. Of its 15 slow inputs, one flips
every 10,000 examples. Batches have one example, and SGD at 0.01 makes one pass. Replacement rate 0
is backprop. The runs of all rates and seeds are members of one compiled program. The script prints
squared errors in bins of 40,000 examples, and writes results and figures.
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

    seeds: int = 30
    """Runs of each rate."""
    tasks: int = 48
    """Number of tasks, of 10,000 examples each."""
    rates: tuple[float, ...] = (0.0, 1e-4, 1e-3)
    """Replacement rates; 0 is backprop."""
    lr: float = 0.01
    maturity_threshold: int = 100
    bin: int = 4
    """Tasks of a bin."""
    engine: str = "auto"
    out: Path = Path("results/slowly_changing_regression")


def main(setting: Setting) -> None:
    keys = torch.stack([cl.random.key(seed) for seed in range(setting.seeds)])
    every = keys.repeat(len(setting.rates), 1)
    scenario = cl.scenarios.slowly_changing_regression(setting.tasks, every)
    model = cl.mlp(scenario.inputs, (5,), scenario.head(), weight_init="kaiming")
    number = {"maturity_threshold": setting.maturity_threshold, "slots": 1}
    tx = cl.sgd(setting.lr)
    members = []
    for rate in setting.rates:
        members += [cl.cbp(model, tx, replacement_rate=rate, **number)] * len(keys)
    settings = {
        "batch_size": 1,
        "evaluate": "none",
        "engine": setting.engine,
        "out": setting.out,
    }
    result = cl.run(cl.sweep(members), scenario, every, **settings)

    Console(width=120).print(_table(setting, result))
    each = 1e6 * result.train_seconds / result.steps
    speed = len(every) * result.steps / result.train_seconds
    print(
        f"{result.train_seconds:.1f} s with compiling: {each:.1f} us a step of {len(every)} runs,"
        f" {speed:,.0f} a second"
    )
    print(f"figures in {setting.out / 'figures'}")


def _table(setting: Setting, result: Result) -> Table:
    """Mean squared error of each rate in each bin, over seeds."""
    error = result.online["loss"].reshape(setting.tasks, len(setting.rates), setting.seeds)
    size = f"{setting.bin * 10}k"
    title = f"squared error while learning, in bins of {size} examples: mean (standard error)"
    table = Table(title=title)
    table.add_column("to step", justify="right")
    for rate in setting.rates:
        table.add_column(f"rate {rate:g}" if rate else "backprop", justify="right")
    for start in range(0, setting.tasks - setting.bin + 1, setting.bin):
        part = error[start : start + setting.bin].mean(0)
        mean = part.mean(1)
        spread = part.std(1) / setting.seeds**0.5
        cells = [f"{m:.3f} ({s:.3f})" for m, s in zip(mean, spread, strict=True)]
        table.add_row(f"{(start + setting.bin) * 10}k", *cells)
    groups = result.state.opt.units.values()
    replaced = torch.stack([units.replaced for units in groups]).sum(0)
    means = replaced.reshape(len(setting.rates), setting.seeds).double().mean(1)
    table.add_section()
    table.add_row("resets a run", *(f"{mean:.0f}" for mean in means))
    return table


if __name__ == "__main__":
    main(tyro.cli(Setting, description=__doc__))
