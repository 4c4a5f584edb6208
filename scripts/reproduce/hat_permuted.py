"""HAT and AdaHAT on permuted Fashion-MNIST, while there is capacity and when it runs out.

    python scripts/reproduce/hat_permuted.py                            # 10 tasks of 5,000 images
    python scripts/reproduce/hat_permuted.py --images 60000 --epochs 5  # 10 tasks of all images
    python scripts/reproduce/hat_permuted.py --tasks 20 --width 100     # capacity runs out

The network is 784-200-200, with batches of 64, SGD 0.05 without momentum, and step masks. All seeds
of an algorithm are one program. The script prints a table and the capacity that is left after each
task, and writes results and figures to `results/hat_permuted/`.
"""

import dataclasses
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

import clfunc as cl
from clfunc.cli.tables import results_table
from clfunc.results import result as results
from clfunc.results.plots import compare
from clfunc.results.result import Result


@dataclasses.dataclass(frozen=True)
class Setting:
    """What to reproduce."""

    tasks: int = 10
    """Permutations."""
    images: int = 5000
    """Training images of a task, at most 60,000."""
    epochs: int = 20
    """Passes over each task."""
    seeds: int = 3
    """Runs of each algorithm."""
    width: int = 200
    """Units of each hidden layer."""
    alphas: tuple[float, ...] = (1e-2, 1e-1)
    """AdaHAT's numbers alpha, the members of one sweep."""
    sparsity: float = 0.75
    """Weight of the regulariser of HAT and AdaHAT."""
    lr: float = 0.05
    s_max: float = 400.0
    engine: str = "auto"
    out: Path = Path("results/hat_permuted")


def main(setting: Setting) -> None:
    data = cl.datasets.load("fashion-mnist").first(setting.images)
    keys = torch.stack([cl.random.key(seed) for seed in range(setting.seeds)])
    many = keys.repeat(len(setting.alphas), 1)
    tx = cl.sgd(setting.lr)

    def scenario(keys: torch.Tensor) -> cl.scenarios.Scenario:
        return cl.scenarios.permuted(data, setting.tasks, keys)

    hidden = (setting.width, setting.width)
    model = cl.mlp(scenario(keys).inputs, hidden, scenario(keys).head())
    number = {
        "num_tasks": setting.tasks,
        "s_max": setting.s_max,
        "mask_sparsity_reg_factor": setting.sparsity,
    }
    members = []
    for alpha in setting.alphas:
        members += [cl.adahat(model, tx, **number, alpha=alpha)] * len(keys)
    jobs = {
        "finetuning": (cl.finetuning(model, tx), keys),
        "hat": (cl.hat(model, tx, **number), keys),
        "adahat": (cl.sweep(members), many),
    }
    settings = {
        "epochs": setting.epochs,
        "batch_size": 64,
        "engine": setting.engine,
    }
    found: dict[str, Result] = {}
    for name, (algorithm, key) in jobs.items():
        found[name] = cl.run(algorithm, scenario(key), key, **settings, out=setting.out / name)
    labelled = {name: results.to_xarray(result) for name, result in found.items()}
    Console(width=110).print(results_table(labelled))
    Console(width=110).print(_capacity(found))
    print(f"figures of all in {compare(labelled, setting.out)}")


def _capacity(found: dict[str, Result]) -> Table:
    """Capacity left after each task, in percent, the mean over runs."""
    table = Table(title="capacity left (%)")
    table.add_column("after task", justify="right")
    columns = []
    for name, result in found.items():
        if name != "finetuning":
            table.add_column(name, justify="right")
            columns.append(100 * result.probes.values["capacity"].mean(1))
    for task, values in enumerate(zip(*columns, strict=True), 1):
        table.add_row(str(task), *[f"{value:.1f}" for value in values])
    return table


if __name__ == "__main__":
    main(tyro.cli(Setting, description=__doc__))
