"""The tests' table: one row for each algorithm, which every law then holds to."""

import pytest
import torch
from support.hats import parts_of

from clfunc import algorithms, mlp, scenarios, upgd
from clfunc.testing import Case
from clfunc.transforms import adam, carry


def with_dropout(model, tx):
    """Finetuning of the same network with dropout: random numbers inside the step."""
    built = model.settings
    dtype = getattr(torch, built["dtype"].removeprefix("torch."))
    dropped = mlp(built["inputs"], built["hidden"], model.head, dropout_rate=0.2, dtype=dtype)
    return algorithms.finetuning(dropped, tx)


def amnesiac(model, inner, **numbers):
    return algorithms.amnesiac(inner, num_tasks=model.head.num_tasks, **numbers)


def hat(model, tx, make=algorithms.hat, **settings):
    """HAT at a scale that a few steps can anneal; its head is frozen after two tasks where tasks share it."""
    shared = {} if model.head.paradigm in ("til", "stl") else {"freeze_head_after": 2}
    given = {"num_tasks": model.head.num_tasks, "s_max": 50.0} | shared | settings
    return make(model, tx, **(parts_of(given) if make is algorithms.hat else given))


def each_step(model, tx, shrink, sigma):
    """Shrink and perturb after every step."""
    return algorithms.shrink_and_perturb(
        algorithms.finetuning(model, tx), shrink, sigma, every="step"
    )


cases = (
    Case("finetuning", algorithms.finetuning, is_finetuning=True),
    Case("finetuning with dropout", with_dropout),
    Case(
        "finetuning with adam",
        lambda m, tx: algorithms.finetuning(m, adam(0.01)),
        vary=lambda m, tx: algorithms.finetuning(m, adam(0.02, eps=1e-6)),
    ),
    Case("joint", algorithms.joint, arrange=scenarios.joint),
    Case("single", algorithms.single, arrange=scenarios.single, is_finetuning=True),
    Case("independent", lambda m, tx: algorithms.independent(m, tx, num_tasks=3)),
    Case("random", algorithms.random, learns=False),
    Case("fix", algorithms.fix),
    Case("fix freeze_heads", lambda m, tx: algorithms.fix(m, tx, freeze_heads=True), learns=False),
    Case(
        "hat",
        hat,
        vary=lambda m, tx: hat(m, tx, s_max=20.0, mask_sparsity_reg_factor=0.1, clip_norm=1.0),
    ),
    Case(
        "hat hat_random sigmoid",
        lambda m, tx: hat(
            m, tx, adjustment_mode="hat_random", test_mask="sigmoid", mask_sparsity_reg_mode="cross"
        ),
    ),
    Case(
        "adahat",
        lambda m, tx: hat(m, carry(tx), make=algorithms.adahat, alpha=0.1),
        vary=lambda m, tx: hat(m, carry(tx), make=algorithms.adahat, alpha=0.01, epsilon=0.5),
    ),
    Case(
        "l2_init",
        lambda m, tx: algorithms.l2_init(m, tx, strength=0.1),
        neutral=lambda m, tx: algorithms.l2_init(m, tx, strength=0.0),
        vary=lambda m, tx: algorithms.l2_init(m, tx, strength=0.5),
    ),
    Case(
        "upgd",
        lambda m, tx: algorithms.finetuning(m, upgd(0.2, sigma=0.01)),
        vary=lambda m, tx: algorithms.finetuning(m, upgd(0.1, 0.9, sigma=0.1, weight_decay=0.01)),
    ),
    Case(
        "upgd local",
        lambda m, tx: algorithms.finetuning(m, upgd(0.2, sigma=0.01, scope="local", protect=False)),
        vary=lambda m, tx: algorithms.finetuning(m, upgd(0.1, 0.9, scope="local", protect=False)),
    ),
    Case(
        "shrink_and_perturb",
        lambda m, tx: algorithms.shrink_and_perturb(algorithms.finetuning(m, tx)),
        neutral=lambda m, tx: algorithms.shrink_and_perturb(algorithms.finetuning(m, tx), 0.0, 0.0),
        vary=lambda m, tx: algorithms.shrink_and_perturb(algorithms.finetuning(m, tx), 0.1, 0.1),
    ),
    Case(
        "shrink_and_perturb each step",
        lambda m, tx: each_step(m, tx, 1e-3, 1e-3),
        neutral=lambda m, tx: each_step(m, tx, 0.0, 0.0),
        vary=lambda m, tx: each_step(m, tx, 1e-2, 1e-2),
    ),
    Case(
        "cbp",
        lambda m, tx: algorithms.cbp(
            m, tx, replacement_rate=0.1, maturity_threshold=3, utility_decay_rate=0.9
        ),
        neutral=lambda m, tx: algorithms.cbp(m, tx, replacement_rate=0.0),
        vary=lambda m, tx: algorithms.cbp(m, tx, replacement_rate=0.05, maturity_threshold=5),
    ),
    Case(
        "cbp_nature2024",
        lambda m, tx: algorithms.cbp_nature2024(m, tx, replacement_rate=0.1, maturity_threshold=3),
    ),
    Case(
        "cbp_arxiv2023",
        lambda m, tx: algorithms.cbp_arxiv2023(m, tx, replacement_rate=0.1, maturity_threshold=3),
    ),
    Case(
        "cbp_lop_conv",
        lambda m, tx: algorithms.cbp_lop_conv(m, tx, replacement_rate=0.1, maturity_threshold=3),
    ),
    Case(
        "redo",
        lambda m, tx: algorithms.redo(m, tx, period=3, threshold=0.3),
        neutral=lambda m, tx: algorithms.redo(m, tx, period=3, threshold=-1.0),
        vary=lambda m, tx: algorithms.redo(m, tx, period=2, threshold=0.1),
    ),
    Case(
        "self_normalized_resets",
        lambda m, tx: algorithms.self_normalized_resets(m, tx, first_threshold=2, max_threshold=8),
        neutral=lambda m, tx: algorithms.self_normalized_resets(
            m, tx, rejection_percentile=0.0, max_threshold=100
        ),
        vary=lambda m, tx: algorithms.self_normalized_resets(
            m, tx, rejection_percentile=0.2, first_threshold=1, refresh_period=2, max_threshold=8
        ),
    ),
    Case("amnesiac", lambda m, tx: amnesiac(m, algorithms.finetuning(m, tx)), is_finetuning=True),
    Case(
        "amnesiac cbp",
        lambda m, tx: amnesiac(
            m,
            algorithms.cbp(m, tx, replacement_rate=0.1, maturity_threshold=3),
            optimizer_state="reset",
            precision="float64",
        ),
    ),
    Case(
        "amnesiac_hat",
        lambda m, tx: hat(
            m, tx, make=algorithms.amnesiac_hat, compensate=True, repair_steps=2, buffer_size=5
        ),
        vary=lambda m, tx: hat(
            m,
            tx,
            make=algorithms.amnesiac_hat,
            compensate=True,
            repair_steps=2,
            buffer_size=5,
            repair_lr=0.1,
            s_max=20.0,
        ),
    ),
    Case("amnesiac hat", lambda m, tx: amnesiac(m, hat(m, tx))),
    Case(
        "reduce_on_plateau",
        lambda m, tx: algorithms.reduce_on_plateau(
            algorithms.finetuning(m, tx), 0.5, patience=0, threshold=0.9
        ),
        neutral=lambda m, tx: algorithms.reduce_on_plateau(
            algorithms.finetuning(m, tx), 1.0, patience=0
        ),
        vary=lambda m, tx: algorithms.reduce_on_plateau(
            algorithms.finetuning(m, tx), 0.1, patience=1
        ),
    ),
)

# what compiles to much the same program as another row: compiled by `scripts/test --all`
SIMILAR = {
    "single",
    "fix freeze_heads",
    "upgd local",
    "shrink_and_perturb",
    "cbp_arxiv2023",
    "cbp_lop_conv",
    "random",
}
SIMILAR |= {"amnesiac cbp", "amnesiac hat", "amnesiac_hat"}
compiled_cases = [
    pytest.param(c, id=c.name, marks=pytest.mark.long if c.name in SIMILAR else ()) for c in cases
]
