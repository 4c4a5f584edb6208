"""The zoo: a case for every algorithm, each of which the tests hold to every law."""

import torch
from support.hats import parts_of
from support.rows import some_at_length

from clfunc import algorithms, memories, mlp, scenarios, terms, transforms, upgd
from clfunc.testing import Case
from clfunc.transforms import adam, carry, chain


def using(factory, **settings):
    """`(model, tx) -> Algorithm`, with these settings of the factory."""
    return lambda model, tx: factory(model, tx, **settings)


def with_dropout(model, tx):
    """Finetuning of the same network with dropout, which draws random numbers inside the step."""
    settings = model.settings
    network = mlp(
        settings["inputs"],
        settings["hidden"],
        model.head,
        dropout_rate=0.2,
        dtype=getattr(torch, settings["dtype"].removeprefix("torch.")),
    )
    return algorithms.finetuning(network, tx)


def with_adam(model, tx, lr, eps=1e-8):
    """Finetuning with Adam, whatever the transform given."""
    return algorithms.finetuning(model, adam(lr, eps=eps))


def with_upgd(model, tx, **settings):
    """Finetuning with UPGD, whatever the transform given."""
    return algorithms.finetuning(model, upgd(**settings))


def amnesiac(model, inner, **settings):
    """An algorithm that records every task, so that it can forget them."""
    return algorithms.amnesiac(inner, num_tasks=model.head.num_tasks, **settings)


def hat(model, tx, make=algorithms.hat, **settings):
    """HAT, or `make`, with a scale of gates that a few steps can anneal.

    A head that tasks share is frozen after two tasks.
    """
    is_shared = model.head.paradigm not in ("til", "stl", "mtl")
    defaults = {"s_max": 50.0}
    if is_shared:
        defaults["freeze_head_after"] = 2
    settings = {"num_tasks": model.head.num_tasks} | defaults | settings
    return make(model, tx, **(parts_of(settings) if make is algorithms.hat else settings))


def shrink_and_perturb(model, tx, *numbers, **settings):
    """Finetuning that shrinks and perturbs its parameters."""
    return algorithms.shrink_and_perturb(algorithms.finetuning(model, tx), *numbers, **settings)


def reduce_on_plateau(model, tx, factor, **settings):
    """Finetuning whose learning rate falls on a plateau."""
    return algorithms.reduce_on_plateau(algorithms.finetuning(model, tx), factor, **settings)


def three_terms(model, tx, strength):
    """EWC, replay from a balanced memory, and L2-init in one step."""
    parts = (
        terms.ewc(10 * strength),
        terms.replay(4, strength, mean="by_task"),
        terms.l2_init(0.1 * strength),
    )
    return algorithms.finetuning(model, tx, terms=parts, memory=memories.balanced(12))


def anchors_and_shapes(model, tx, strength):
    """All pulls at weights that are no other case's."""
    parts = (
        terms.mas(0.01 * strength, decay=0.9, examples=20),
        terms.ewc(0.1 * strength, fisher="sample", decay=0.8),
        terms.rwalk(0.1 * strength, period=3, form="official"),
        terms.l2_sp(0.1 * strength),
        terms.wasserstein(0.01 * strength),
        terms.spectral(0.01 * strength),
    )
    return algorithms.finetuning(model, tx, terms=parts)


def replays(model, tx, strength):
    """All terms that read a memory and are no other case's, but CLS-ER."""
    parts = (
        terms.asymmetric(strength),
        terms.mir(3, 6, strength, lr=0.1, mean="balanced"),
        terms.fdr(4, strength),
    )
    return algorithms.finetuning(model, tx, terms=parts, memory=memories.reservoir(12))


def distilled(model, tx, strength):
    """Both forms of learning without forgetting."""
    parts = (terms.lwf(strength, scaled=True), terms.lwf_mc(strength))
    return algorithms.finetuning(model, tx, terms=parts)


def ogd_and_gpm(model, tx, project, threshold=0.9):
    """Both projections off what earlier tasks need."""
    projections = (
        transforms.ogd_projection(3, 6),
        transforms.gpm_projection(model, threshold, examples=10),
    )
    parts = (*projections, tx) if project == "gradients" else (tx, *projections)
    return algorithms.finetuning(model, chain(*parts))


def hat_with_parts(model, tx):
    """HAT with EWC, and replay from a ring."""
    parts = (terms.replay(4), terms.ewc(1.0, fisher="empirical"))
    memory = memories.ring(12, num_tasks=max(3, model.head.num_tasks))
    return hat(model, tx, terms=parts, memory=memory)


cases = (
    Case("finetuning", algorithms.finetuning, is_finetuning=True),
    Case("finetuning with dropout", with_dropout),
    Case(
        "finetuning with adam",
        using(with_adam, lr=0.01),
        vary=using(with_adam, lr=0.02, eps=1e-6),
    ),
    Case("joint", algorithms.joint, arrange=scenarios.joint),
    Case("single", algorithms.single, arrange=scenarios.single, is_finetuning=True),
    Case("independent", using(algorithms.independent, num_tasks=3)),
    Case("random", algorithms.random, learns=False),
    Case("fix", algorithms.fix),
    Case("fix freeze_heads", using(algorithms.fix, freeze_heads=True), learns=False),
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
        "er",
        using(algorithms.er, capacity=12, batch=4),
        neutral=using(algorithms.er, capacity=12, batch=4, strength=0.0),
        vary=using(algorithms.er, capacity=12, batch=4, strength=0.5),
        together=True,
    ),
    Case(
        "derpp",
        using(algorithms.derpp, capacity=12, batch=4),
        neutral=using(algorithms.derpp, capacity=12, batch=4, alpha=0.0, beta=0.0),
        vary=using(algorithms.derpp, capacity=12, batch=4, alpha=0.1, beta=1.0),
        together=True,
    ),
    Case("a_gem", using(algorithms.a_gem, capacity=12, batch=4), together=True),
    Case(
        "ogd gpm",
        using(ogd_and_gpm, project="gradients"),
        vary=using(ogd_and_gpm, project="gradients", threshold=0.8),
        together=True,
    ),
    Case(
        "gem",
        using(algorithms.gem, num_tasks=3, capacity=12),
        vary=using(algorithms.gem, num_tasks=3, capacity=12, margin=0.1),
        together=True,
    ),
    Case(
        "si",
        using(algorithms.si, strength=5.0),
        neutral=using(algorithms.si, strength=0.0),
        vary=using(algorithms.si, strength=1.0, damping=0.01),
    ),
    Case(
        "ewc er l2_init",
        using(three_terms, strength=1.0),
        neutral=using(three_terms, strength=0.0),
        vary=using(three_terms, strength=0.3),
        together=True,
    ),
    Case(
        "anchors and shapes",
        using(anchors_and_shapes, strength=1.0),
        neutral=using(anchors_and_shapes, strength=0.0),
        vary=using(anchors_and_shapes, strength=0.3),
    ),
    Case(
        "replays",
        using(replays, strength=1.0),
        neutral=using(replays, strength=0.0),
        vary=using(replays, strength=0.3),
        together=True,
    ),
    Case(
        "lwf lwf_mc",
        using(distilled, strength=0.5),
        neutral=using(distilled, strength=0.0),
        vary=using(distilled, strength=0.3),
        together=True,
    ),
    Case(
        "cls_er",
        using(algorithms.cls_er, capacity=12, batch=4),
        vary=using(
            algorithms.cls_er,
            capacity=12,
            batch=4,
            consistency=0.5,
            stable_rate=0.5,
            stable_decay=0.9,
        ),
        together=True,
    ),
    Case("hat er ewc", hat_with_parts, together=True),
    Case(
        "amnesiac ewc",
        lambda m, tx: amnesiac(m, algorithms.ewc(m, tx, strength=10.0, num_tasks=m.head.num_tasks)),
    ),
    Case(
        "l2_init",
        using(algorithms.l2_init, strength=0.1),
        neutral=using(algorithms.l2_init, strength=0.0),
        vary=using(algorithms.l2_init, strength=0.5),
    ),
    Case(
        "upgd",
        using(with_upgd, lr=0.2, sigma=0.01),
        vary=using(with_upgd, lr=0.1, beta_utility=0.9, sigma=0.1, weight_decay=0.01),
    ),
    Case(
        "upgd local",
        using(with_upgd, lr=0.2, sigma=0.01, scope="local", protect=False),
        vary=using(with_upgd, lr=0.1, beta_utility=0.9, scope="local", protect=False),
    ),
    Case(
        "shrink_and_perturb",
        shrink_and_perturb,
        neutral=using(shrink_and_perturb, shrink=0.0, sigma=0.0),
        vary=using(shrink_and_perturb, shrink=0.1, sigma=0.1),
    ),
    Case(
        "shrink_and_perturb each step",
        using(shrink_and_perturb, shrink=1e-3, sigma=1e-3, every="step"),
        neutral=using(shrink_and_perturb, shrink=0.0, sigma=0.0, every="step"),
        vary=using(shrink_and_perturb, shrink=1e-2, sigma=1e-2, every="step"),
    ),
    Case(
        "cbp",
        using(
            algorithms.cbp,
            replacement_rate=0.1,
            maturity_threshold=3,
            utility_decay_rate=0.9,
        ),
        neutral=using(algorithms.cbp, replacement_rate=0.0),
        vary=using(algorithms.cbp, replacement_rate=0.05, maturity_threshold=5),
    ),
    Case(
        "cbp_nature2024",
        using(algorithms.cbp_nature2024, replacement_rate=0.1, maturity_threshold=3),
    ),
    Case(
        "cbp_arxiv2023",
        using(algorithms.cbp_arxiv2023, replacement_rate=0.1, maturity_threshold=3),
    ),
    Case(
        "cbp_lop_conv",
        using(algorithms.cbp_lop_conv, replacement_rate=0.1, maturity_threshold=3),
    ),
    Case(
        "redo",
        using(algorithms.redo, period=3, threshold=0.3),
        neutral=using(algorithms.redo, period=3, threshold=-1.0),
        vary=using(algorithms.redo, period=2, threshold=0.1),
    ),
    Case(
        "self_normalized_resets",
        using(algorithms.self_normalized_resets, first_threshold=2, max_threshold=8),
        neutral=using(
            algorithms.self_normalized_resets,
            rejection_percentile=0.0,
            max_threshold=100,
        ),
        vary=using(
            algorithms.self_normalized_resets,
            rejection_percentile=0.2,
            first_threshold=1,
            refresh_period=2,
            max_threshold=8,
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
        using(reduce_on_plateau, factor=0.5, patience=0, threshold=0.9),
        neutral=using(reduce_on_plateau, factor=1.0, patience=0),
        vary=using(reduce_on_plateau, factor=0.1, patience=1),
    ),
)

# These compile to much the same program as another row, so only `scripts/test --all` compiles them.
SIMILAR = {
    "single",
    "fix freeze_heads",
    "upgd local",
    "shrink_and_perturb",
    "cbp_arxiv2023",
    "cbp_lop_conv",
    "random",
    "amnesiac cbp",
    "amnesiac hat",
    "amnesiac_hat",
    "amnesiac ewc",
    "er",
    "derpp",
    "ewc er l2_init",
    "si",
    "anchors and shapes",
    "replays",
    "cls_er",
    "lwf lwf_mc",
    "gem",
    "ogd gpm",
}
compiled_cases = some_at_length(cases, lambda case: case.name in SIMILAR)
