"""The tests' table: one row for each algorithm, which every law then holds to."""

import torch

from clfunc import algorithms, mlp, scenarios
from clfunc.testing import Case


def with_dropout(model, tx):
    """Finetuning of the same network with dropout: random numbers inside the step."""
    built = model.settings
    dtype = getattr(torch, built["dtype"].removeprefix("torch."))
    dropped = mlp(built["inputs"], built["hidden"], model.head, dropout_rate=0.2, dtype=dtype)
    return algorithms.finetuning(dropped, tx)


cases = (
    Case("finetuning", algorithms.finetuning, is_finetuning=True),
    Case("finetuning with dropout", with_dropout),
    Case("joint", algorithms.joint, arrange=scenarios.joint),
    Case("single", algorithms.single, arrange=scenarios.single, is_finetuning=True),
    Case("independent", lambda m, tx: algorithms.independent(m, tx, num_tasks=3)),
    Case("random", algorithms.random, learns=False),
    Case("fix", algorithms.fix),
    Case("fix freeze_heads", lambda m, tx: algorithms.fix(m, tx, freeze_heads=True), learns=False),
    Case(
        "l2_init",
        lambda m, tx: algorithms.l2_init(m, tx, strength=0.1),
        neutral=lambda m, tx: algorithms.l2_init(m, tx, strength=0.0),
        vary=lambda m, tx: algorithms.l2_init(m, tx, strength=0.5),
    ),
    Case(
        "cbp",
        lambda m, tx: algorithms.cbp(m, tx, replacement_rate=0.1, maturity_threshold=3, utility_decay_rate=0.9),
        neutral=lambda m, tx: algorithms.cbp(m, tx, replacement_rate=0.0),
        vary=lambda m, tx: algorithms.cbp(m, tx, replacement_rate=0.05, maturity_threshold=5),
    ),
    Case("cbp_nature2024", lambda m, tx: algorithms.cbp_nature2024(m, tx, replacement_rate=0.1, maturity_threshold=3)),
    Case("cbp_arxiv2023", lambda m, tx: algorithms.cbp_arxiv2023(m, tx, replacement_rate=0.1, maturity_threshold=3)),
    Case("cbp_lop_conv", lambda m, tx: algorithms.cbp_lop_conv(m, tx, replacement_rate=0.1, maturity_threshold=3)),
    Case(
        "reduce_on_plateau",
        lambda m, tx: algorithms.reduce_on_plateau(algorithms.finetuning(m, tx), 0.5, patience=0, threshold=0.9),
        neutral=lambda m, tx: algorithms.reduce_on_plateau(algorithms.finetuning(m, tx), 1.0, patience=0),
        vary=lambda m, tx: algorithms.reduce_on_plateau(algorithms.finetuning(m, tx), 0.1, patience=1),
    ),
)
