"""Amnesiac unlearning on permuted Fashion-MNIST: is a task gone, and what does that cost the
others, beside the oracle?

    python scripts/reproduce/unlearning_permuted.py                             # 5 tasks of 10,000 images, 8 seeds
    python scripts/reproduce/unlearning_permuted.py --images 60000 --epochs 5   # 5 tasks of all images

Finetuning and HAT train on five permutations, a head for each; task 1 is forgotten after task 2,
task 2 after task 4, task 5 as soon as it is trained. Beside the network that forgot, in the same
sweep: the original, which did not, and an oracle for each unlearning, which was never trained on
what is forgotten by then. 784-256-256, batch 64, SGD 0.05 without momentum. Prints accuracies,
distances to the oracle, the attack on membership and what is left of the updates; leaves figures in
`results/unlearning_permuted/`.
"""

import dataclasses
from pathlib import Path

import torch
import tyro
from rich.console import Console

import clfunc as cl
from clfunc.cli.requests import requests
from clfunc.cli.unlearn import tables
from clfunc.experiments.audit import to_xarray


@dataclasses.dataclass(frozen=True)
class Setting:
    """What to reproduce."""

    tasks: int = 5
    """Permutations."""
    request: tuple[str, ...] = ("2:1", "4:2", "5:5")
    """AFTER:TASKS, each an unlearning; tasks count from 1."""
    algorithms: tuple[str, ...] = ("finetuning", "hat")
    """Any of finetuning and hat."""
    images: int = 10_000
    """Training images of a task, of the 60,000."""
    test_images: int = 2000
    """Test images of a task, of the 10,000."""
    epochs: int = 4
    """Passes over each task."""
    seeds: int = 8
    """Of each algorithm; every member has them all."""
    width: int = 256
    """Of both hidden layers."""
    lr: float = 0.05
    s_max: float = 400.0
    """HAT's."""
    sparsity: float = 0.75
    """Weight of HAT's regulariser."""
    engine: str = "auto"
    out: Path = Path("results/unlearning_permuted")


def main(setting: Setting) -> None:
    data = cl.datasets.load("fashion-mnist").first(setting.images, setting.test_images)
    keys = torch.stack([cl.random.key(seed) for seed in range(setting.seeds)])
    scenario = cl.scenarios.permuted(data, setting.tasks, keys)
    model = cl.mlp(scenario.inputs, (setting.width, setting.width), scenario.head())
    tx = cl.sgd(setting.lr)
    number = {
        "num_tasks": setting.tasks,
        "s_max": setting.s_max,
        "mask_sparsity_reg_factor": setting.sparsity,
    }
    known = {"finetuning": cl.finetuning(model, tx), "hat": cl.hat(model, tx, **number)}
    wanted = requests(setting.request, setting.tasks)
    how = {"epochs": setting.epochs, "batch_size": 64, "engine": setting.engine}
    for name in setting.algorithms:
        found = cl.audit(known[name], scenario, keys, wanted, out=setting.out / name, **how)
        console = Console(width=120)
        console.rule(name)
        for table in tables(to_xarray(found)):
            console.print(table)
        print(
            f"{found.result.wall_seconds:.0f} s of training and testing; figures in {setting.out / name / 'figures'}"
        )


if __name__ == "__main__":
    main(tyro.cli(Setting, description=__doc__))
