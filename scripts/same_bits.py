"""Hashes what every algorithm trains, so that a change of the code can show that it moves no result
by a bit.

    python scripts/same_bits.py --save before.json      # on the old code
    python scripts/same_bits.py --against before.json   # on the new code: prints a table, exit code 1 if a hash differs

Each row trains an algorithm for a few steps of three tasks in eager mode, on one thread, and hashes
the parameters and the accuracies. Hashes depend on the machine and on torch, so compare runs of one
machine only.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import clfunc as cl

TASKS = 3
PARADIGMS = ("til", "cil", "dil")
Make = Callable[[cl.Model, cl.Transform], cl.Algorithm]


def hat(
    model: cl.Model, tx: cl.Transform, make: Callable[..., cl.Algorithm] = cl.hat, **settings
) -> cl.Algorithm:
    """Hard attention; a head that tasks share is frozen after two of them."""
    shared = {} if model.head.paradigm == "til" else {"freeze_head_after": 2}
    return make(model, tx, num_tasks=TASKS, s_max=50.0, **shared, **settings)


def amnesiac(inner: cl.Algorithm, **settings) -> cl.Algorithm:
    return cl.amnesiac(inner, num_tasks=TASKS, **settings)


ALGORITHMS: dict[str, Make] = {
    "finetuning": cl.finetuning,
    "finetuning carry": lambda m, tx: cl.finetuning(m, cl.carry(tx)),
    "finetuning adamw clip": lambda m, tx: cl.finetuning(
        m, cl.chain(cl.clip_by_global_norm(1.0), cl.adamw(0.01))
    ),
    "finetuning upgd": lambda m, tx: cl.finetuning(m, cl.upgd(0.05)),
    "independent": lambda m, tx: cl.independent(m, tx, num_tasks=TASKS),
    "random": cl.algorithms.random,
    "fix": cl.fix,
    "fix freeze_heads": lambda m, tx: cl.fix(m, tx, freeze_heads=True),
    "l2_init": lambda m, tx: cl.l2_init(m, tx, strength=0.01),
    "hat": hat,
    "hat reinit": lambda m, tx: hat(
        m, cl.reinit(m, tx, replacement_rate=0.1, maturity_threshold=3)
    ),
    "adahat": lambda m, tx: hat(m, tx, make=cl.adahat, alpha=0.1),
    "cbp": lambda m, tx: cl.cbp(m, tx, replacement_rate=0.1, maturity_threshold=3),
    "cbp_nature2024": lambda m, tx: cl.cbp_nature2024(
        m, tx, replacement_rate=0.1, maturity_threshold=3
    ),
    "cbp_lop_mlp": lambda m, tx: cl.cbp_lop_mlp(m, tx, replacement_rate=0.1, maturity_threshold=3),
    "cbp_lop_conv": lambda m, tx: cl.cbp_lop_conv(
        m, tx, replacement_rate=0.1, maturity_threshold=3
    ),
    "cbp_arxiv2023": lambda m, tx: cl.cbp_arxiv2023(
        m, tx, replacement_rate=0.1, maturity_threshold=3
    ),
    "redo": lambda m, tx: cl.redo(m, tx, period=3, threshold=0.3),
    "self_normalized_resets": lambda m, tx: cl.self_normalized_resets(
        m, tx, first_threshold=2, max_threshold=8
    ),
    "shrink_and_perturb": lambda m, tx: cl.shrink_and_perturb(cl.finetuning(m, tx)),
    "shrink_and_perturb step": lambda m, tx: cl.shrink_and_perturb(
        cl.finetuning(m, tx), 1e-3, 1e-3, every="step"
    ),
    "reduce_on_plateau": lambda m, tx: cl.reduce_on_plateau(
        cl.finetuning(m, tx), 0.5, patience=0, threshold=0.9
    ),
    "amnesiac finetuning": lambda m, tx: amnesiac(cl.finetuning(m, tx)),
    "amnesiac cbp reset": lambda m, tx: amnesiac(
        cl.cbp(m, cl.carry(tx), replacement_rate=0.1, maturity_threshold=3),
        optimizer_state="reset",
        precision="float64",
    ),
    "amnesiac hat": lambda m, tx: amnesiac(hat(m, tx)),
    "amnesiac_hat": lambda m, tx: hat(
        m, tx, make=cl.amnesiac_hat, compensate=True, repair_steps=2, buffer_size=5
    ),
}
MODELS = {
    "mlp": lambda s: cl.mlp(s.inputs, hidden=(16, 16), head=s.head()),
    "mlp layer": lambda s: cl.mlp(
        s.inputs, (16, 16), s.head(), norm="layer", per_task_norm=s.paradigm == "til"
    ),
    "mlp dropout crelu": lambda s: cl.mlp(
        s.inputs, (16, 16), s.head(), dropout_rate=0.2, activation="crelu"
    ),
    "convnet": lambda s: cl.convnet(s.inputs, (8,), s.head(), channels=(4,)),
    "resnet": lambda s: cl.resnet(s.inputs, (), s.head(), channels=(4, 8)),
}
OPTIMISERS = {
    "sgd": lambda: cl.sgd(0.05, momentum=0.9, weight_decay=1e-4),
    "adam": lambda: cl.adam(0.005),
}


def digest(result: cl.Result) -> str:
    """Twelve digits that change with any bit of the parameters or of the accuracies."""
    found = hashlib.sha256()
    for leaf in (*cl.tree.leaves(result.params), result.accuracy):
        found.update(leaf.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:12]


def trained(
    algorithm: cl.Algorithm, scenario: cl.scenarios.Scenario, key: cl.types.Keys, **more
) -> str:
    result = cl.run(
        algorithm, scenario, key, epochs=2, batch_size=64, engine="eager", progress=False, **more
    )
    return digest(result)


def rows():
    """Name and hash of everything that is trained."""
    key = cl.random.key(7)
    data = cl.datasets.load("digits").first(320, 100)
    # the request after task 2 to forget task 1; older code counts tasks in requests from 1
    request = {1: [cl.ForgetSet(task=0)]} if hasattr(cl, "ForgetSet") else {2: [1]}
    for paradigm in PARADIGMS:
        scenario = cl.scenarios.permuted(data, TASKS, key, paradigm=paradigm)
        for optimiser, tx in OPTIMISERS.items():
            for name, make in ALGORITHMS.items():
                algorithm = make(MODELS["mlp"](scenario), tx())
                yield f"{name} | {paradigm} | {optimiser}", trained(algorithm, scenario, key)
                if "amnesiac" in name:
                    algorithm = make(MODELS["mlp"](scenario), tx())
                    forgot = trained(algorithm, scenario, key, requests=request)
                    yield f"{name}, forgetting | {paradigm} | {optimiser}", forgot
        for model, build in MODELS.items():
            algorithm = cl.finetuning(build(scenario), cl.sgd(0.05, momentum=0.9))
            yield f"finetuning, {model} | {paradigm} | sgd", trained(algorithm, scenario, key)
        members = [cl.finetuning(MODELS["mlp"](scenario), cl.adam(lr)) for lr in (0.001, 0.01)]
        yield (
            f"sweep of two | {paradigm} | adam",
            trained(cl.sweep(members), scenario, cl.random.split(key, 2)),
        )
        joint = cl.scenarios.joint(scenario)
        yield (
            f"joint | {paradigm} | adam",
            trained(cl.joint(MODELS["mlp"](joint), cl.adam(0.005)), joint, key),
        )
        single = cl.scenarios.single(scenario, 1)
        yield (
            f"single | {paradigm} | adam",
            trained(cl.single(MODELS["mlp"](single), cl.adam(0.005)), single, key),
        )
    stream = cl.scenarios.slowly_changing_regression(2, key)
    model = cl.mlp(stream.inputs, hidden=(5,), head=stream.head())
    yield (
        "cbp | regression | sgd",
        trained(cl.cbp(model, cl.sgd(0.01), replacement_rate=0.01), stream, key),
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save", type=Path, help="write the hashes to this file")
    parser.add_argument("--against", type=Path, help="compare with the hashes of this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    import warnings

    warnings.simplefilter("ignore")
    found = dict(rows())
    if arguments.save:
        arguments.save.write_text(json.dumps(found, indent=1) + "\n")
    before = json.loads(arguments.against.read_text()) if arguments.against else {}
    table = Table("what is trained", "hash", "before")
    for name, value in found.items():
        table.add_row(name, value, before.get(name, ""))
    Console(width=110).print(table)
    moved = [name for name in before if found.get(name) != before[name]]
    print(
        f"{len(found)} trained, {len(moved)} of {len(before)} differ"
        + (f": {', '.join(moved)}" if moved else "")
    )
    return 1 if moved else 0


if __name__ == "__main__":
    sys.exit(main())
