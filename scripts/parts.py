"""What the opened methods cost and keep: code lines, the noun of each part, and two promises to the
bit, in each paradigm.

    python scripts/parts.py

`0` says that at strength 0 a method trains the bits of finetuning, `member` that in a sweep of
three strengths each run has the params and the state that it has alone, bit for bit (else how far
it is off). The differences from naive transcriptions in float64 are in `tests/terms`.
"""

from collections.abc import Callable
from pathlib import Path

import house
import torch
from rich.console import Console
from rich.table import Table

import clfunc as cl
from clfunc import memories, terms
from clfunc.testing import toy_stream
from clfunc.testing.laws import distance, identical

ROOT = Path(__file__).parent.parent / "clfunc"
STRENGTHS = (0.0, 0.3, 1.0)
PARADIGMS = ("til", "cil", "dil")
Make = Callable[[cl.Model, cl.Transform, float], cl.Algorithm]


def three(model: cl.Model, tx: cl.Transform, strength: float) -> cl.Algorithm:
    parts = (terms.ewc(strength), terms.replay(4, strength), terms.l2_init(0.1 * strength))
    return cl.finetuning(model, tx, terms=parts, memory=memories.reservoir(12))


def dark(model: cl.Model, tx: cl.Transform, strength: float) -> cl.Algorithm:
    return cl.derpp(model, tx, capacity=12, batch=4, alpha=strength, beta=strength)


METHODS: dict[str, tuple[str, list[str], Make]] = {
    "ewc": (
        "term",
        ["terms/ewc.py", "terms/anchored.py", "terms/fisher.py", "terms/sensitivity.py"],
        lambda m, tx, s: cl.ewc(m, tx, strength=s),
    ),
    "si": ("term", ["terms/si.py"], lambda m, tx, s: cl.si(m, tx, strength=s)),
    "l2_init": ("term", ["terms/l2_init.py"], lambda m, tx, s: cl.l2_init(m, tx, strength=s)),
    "er": (
        "term, memory",
        ["terms/replay.py"],
        lambda m, tx, s: cl.er(m, tx, capacity=12, batch=4, strength=s),
    ),
    "derpp": ("2 terms, memory", ["terms/distil_logits.py"], dark),
    "a_gem": (
        "transform, memory",
        ["transforms/agem_projection.py"],
        lambda m, tx, s: cl.a_gem(m, cl.sgd(0.01 + 0.05 * s), capacity=12, batch=4),
    ),
    "ewc + er + l2_init": ("3 terms, memory", [], three),
}
SHARED = ["memories/reservoir.py", "memories/balanced.py", "memories/ring.py", "memories/slots.py"]


def lines(files: list[str]) -> int:
    """Code lines below the imports."""
    total = 0
    for name in files:
        for line in house.code_lines((ROOT / name).read_text()):
            total += not line.startswith(("import ", "from "))
    return total


def trained(algorithm: cl.Algorithm, scenario: cl.scenarios.Scenario, key: torch.Tensor):
    result = cl.run(algorithm, scenario, key, batch_size=8, engine="eager", progress=False)
    return result.params, result.state


def promises(make: Make, paradigm: str, has_strength: bool) -> str:
    scenario = toy_stream(paradigm=paradigm)
    model = cl.mlp(scenario.inputs, (8, 6), scenario.head(together=True))
    keys = cl.random.split(cl.random.key(1), len(STRENGTHS))
    members = [make(model, cl.sgd(0.05, 0.9), strength) for strength in STRENGTHS]
    together = trained(cl.sweep(members), scenario, keys)
    alone = [trained(member, scenario, key) for member, key in zip(members, keys, strict=True)]
    kept = [cl.tree.index(together, run) for run in range(len(members))]
    same = all(identical(a, b) for a, b in zip(kept, alone, strict=True))
    far = max(distance(a, b) for a, b in zip(kept, alone, strict=True))
    member = "bits" if same else f"{far:.0e}"
    if not has_strength:
        return f"member {member}"
    plain, _ = trained(cl.finetuning(model, cl.sgd(0.05, 0.9)), scenario, keys[0])
    zero = "bits" if identical(alone[0][0], plain) else f"{distance(alone[0][0], plain):.0e}"
    return f"0 {zero}, member {member}"


def main() -> None:
    torch.set_num_threads(1)
    table = Table("method", "noun", "code lines", *PARADIGMS)
    for name, (noun, files, make) in METHODS.items():
        cells = [promises(make, paradigm, name != "a_gem") for paradigm in PARADIGMS]
        composition = ROOT / "algorithms" / f"{name}.py"
        count = f"{lines(files)}" if files else ""
        if composition.exists():
            own = f"algorithms/{name}.py"
            count = f"{count} + {lines([own])}"
        table.add_row(name, noun, count, *cells)
    console = Console(width=130)
    console.print(table)
    shared = ", ".join(f"{name} {lines([name])}" for name in SHARED)
    console.print(f"beside them: {shared}", highlight=False)


if __name__ == "__main__":
    main()
