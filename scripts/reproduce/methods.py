"""Regularisers, replay, projections and their compositions, side by side on Fashion-MNIST.

    python scripts/reproduce/methods.py                       # permuted: 10 tasks of 5,000 images, one head
    python scripts/reproduce/methods.py --scenario split      # split: 5 tasks of two classes, class-incremental

Every method has the same network, Adam at 0.001 (hat, ogd and gpm: SGD at 0.1, as gates and
projections need), the same seeds and the same order of examples; its seeds are one program.
Memories hold 500 examples, and draw 32. Strengths of ewc and si were chosen on another seed. The
table shows the average accuracy and the forgetting after the last task with 95% intervals over
seeds, and the seconds of training a run.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

import clfunc as cl
from clfunc import memories, terms

Make = Callable[[cl.Model, int], cl.Algorithm]
EWC = {"permuted": 1.0, "split": 100.0}
SI = {"permuted": 10.0, "split": 1.0}
MAS = {"permuted": 0.1, "split": 0.1}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What to reproduce."""

    scenario: Literal["permuted", "split"] = "permuted"
    """permuted (one head that tasks share) or split (one head over all classes)."""
    seeds: int = 5
    """Runs of each method."""
    epochs: int | None = None
    """Passes over each task: 5 for permuted and 1 for split, if not given."""
    images: int | None = None
    """Images in all: 5,000 for permuted and 60,000 for split, if not given."""
    methods: tuple[str, ...] = ()
    """Names of the methods; all if not given."""
    engine: str = "auto"
    out: Path = Path("results/methods")


def methods(scenario: str) -> dict[str, Make]:
    """`(model, num_tasks) -> Algorithm` of each method, by its name."""
    adam = cl.adam(0.001)
    sgd = cl.sgd(0.1)  # what a projection before it promises, it keeps
    ewc, si = EWC[scenario], SI[scenario]

    def mixture(model: cl.Model, tasks: int) -> cl.Algorithm:
        parts = (terms.ewc(ewc), terms.replay(32), terms.l2_init(1e-5))
        return cl.finetuning(model, adam, terms=parts, memory=memories.reservoir(500))

    def hat(model: cl.Model, tasks: int) -> cl.Algorithm:
        replay = {"terms": (terms.replay(32),), "memory": memories.reservoir(500)}
        return cl.hat(model, cl.sgd(0.1), num_tasks=tasks, **replay)

    return {
        "finetuning": lambda model, _: cl.finetuning(model, adam),
        "ewc": lambda model, _: cl.ewc(model, adam, strength=ewc),
        "si": lambda model, _: cl.si(model, adam, strength=si),
        "a_gem": lambda model, _: cl.a_gem(model, adam, capacity=500, batch=256),
        "er": lambda model, _: cl.er(model, adam, capacity=500, batch=32),
        "derpp": lambda model, _: cl.derpp(model, adam, capacity=500, batch=32),
        "mas": lambda model, _: cl.mas(model, adam, strength=MAS[scenario]),
        "rwalk": lambda model, _: cl.finetuning(model, adam, terms=(terms.rwalk(10.0),)),
        "lwf": lambda model, _: cl.lwf(model, adam),
        "lwf_mc": lambda model, _: cl.lwf_mc(model, adam),
        "er_ace": lambda model, _: cl.er_ace(model, adam, capacity=500, batch=32),
        "mir": lambda model, _: cl.mir(model, adam, capacity=500, batch=32, candidates=64),
        "der": lambda model, _: cl.der(model, adam, capacity=500, batch=32),
        "cls_er": lambda model, _: cl.cls_er(model, adam, capacity=500, batch=32),
        "gem": lambda model, tasks: cl.gem(model, adam, num_tasks=tasks, capacity=500),
        "ogd": lambda model, tasks: cl.ogd(model, sgd, num_tasks=tasks, examples=20),
        "gpm": lambda model, _: cl.gpm(model, sgd),
        "ewc + er + l2_init": mixture,
        "hat + er": hat,
        "joint": lambda model, _: cl.joint(model, adam),
    }


def main(setting: Setting) -> None:
    permuted = setting.scenario == "permuted"
    images = setting.images or (5_000 if permuted else 60_000)
    data = cl.datasets.load("fashion-mnist").first(images)
    keys = torch.stack([cl.random.key(seed) for seed in range(setting.seeds)])
    if permuted:
        scenario = cl.scenarios.permuted(data, 10, keys, paradigm="dil")
    else:
        scenario = cl.scenarios.split(data, 5, keys, paradigm="cil", shuffle_classes=True)
    epochs = setting.epochs or (5 if permuted else 1)
    every = methods(setting.scenario)
    unknown = [name for name in setting.methods if name not in every]
    if unknown:
        raise SystemExit(f"methods must be of {', '.join(every)}, given {', '.join(unknown)}")

    title = f"{setting.scenario} Fashion-MNIST, {scenario.num_tasks} tasks, {setting.seeds} seeds"
    table = Table("method", "average accuracy", "forgetting", "s a run", title=title)
    rows = {}
    for name in setting.methods or every:
        arranged = cl.scenarios.joint(scenario) if name == "joint" else scenario
        model = cl.mlp(arranged.inputs, (256, 256), arranged.head(together=True))
        algorithm = every[name](model, scenario.num_tasks)
        result = cl.run(algorithm, arranged, keys, epochs=epochs, engine=setting.engine)
        accuracy, forgetting = interval(result.average_accuracy), interval(result.forgetting)
        seconds = result.train_seconds / setting.seeds
        shown = "" if name == "joint" else forgetting
        table.add_row(name, accuracy, shown, f"{seconds:.1f}")
        rows[name] = {"accuracy": accuracy, "forgetting": shown, "seconds": round(seconds, 1)}
        print(name, rows[name], flush=True)
    Console(width=100).print(table)
    setting.out.mkdir(parents=True, exist_ok=True)
    (setting.out / f"{setting.scenario}.json").write_text(json.dumps(rows, indent=1) + "\n")


def interval(values: torch.Tensor) -> str:
    """The mean of the runs in percent, and half the width of its 95% interval."""
    mean = 100 * values.mean()
    if len(values) < 2:
        return f"{mean:.1f}"
    half = student.ppf(0.975, len(values) - 1) * 100 * values.std() / len(values) ** 0.5
    return f"{mean:.1f} ± {half:.1f}"


if __name__ == "__main__":
    main(tyro.cli(Setting, description=__doc__))
