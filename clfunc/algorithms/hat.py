"""Hard attention to the task (HAT) [1]: each task learns which units it uses, and what earlier tasks use does not move.

The method, beside its equations, is in `hard_attention.py`; this file names its settings. Its parts are `clfunc.hard_attention.gates` (the
gates), `clfunc.hard_attention.regularisers` (the regularisers), `clfunc.hard_attention.rates` (how far a used weight moves) and `clfunc.hard_attention.embeddings`.

[1] Serra et al. 2018, arXiv:1801.01423
"""

from clfunc.hard_attention import regularisers as sparsity
from clfunc.hard_attention.embeddings import check_gates, task_embeddings
from clfunc.hard_attention.method import hard_attention
from clfunc.transforms import chain, clip_by_global_norm, scale_by_adjustment
from clfunc.types import Algorithm, Model, Number, Transform


def hat(
    model: Model,
    tx: Transform,
    *,
    num_tasks: int,
    s_max: Number = 400.0,
    mask_sparsity_reg_factor: Number = 0.75,
    mask_sparsity_reg_mode: str = "original",
    clamp_threshold: Number = 50.0,
    task_embedding_init_mode: str = "N01",
    adjustment_mode: str = "hat",
    alpha: Number | None = None,
    epsilon: Number = 0.1,
    no_reg: bool = False,
    no_sum: bool = False,
    anneal: str = "paper",
    test_mask: str = "step",
    freeze: str = "updates",
    scale_at: str = "updates",
    gate_position: str = "post_act",
    embedding_clamp: Number = 6.0,
    clip_norm: Number = 10000.0,
    freeze_head_after: int | None = None,
) -> Algorithm:
    """Hard attention to the task.

    Args:
        model, tx: Whose unit groups are gated; the optimiser, `sgd(0.05)` in the paper.
        num_tasks: Tasks to keep an embedding for, >= 1.
        s_max: Largest scale of the gates, > 0 (in the paper 25 to 800).
        mask_sparsity_reg_factor: >= 0 (in the paper 0.1 to 2.5); mask_sparsity_reg_mode: see `clfunc.hard_attention.regularisers`.
        clamp_threshold, embedding_clamp: Bounds on |s e| in eq. 4 and on |e| after a step, > 0.
        task_embedding_init_mode, anneal, test_mask: See `clfunc.hard_attention.gates`.
        adjustment_mode, alpha, epsilon, no_reg, freeze, scale_at: See `transforms.scale_by_adjustment`.
        no_sum: Under `adahat`, count every task on every weight rather than those that use it.
        gate_position: The gate multiplies the activation (`post_act`) or what the activation is given (`pre_act`).
        clip_norm: Bound on the gradient's norm, >= 0.
        freeze_head_after: Freeze a head that tasks share when this many are trained, >= 1.

    Raises:
        ValueError: A mode unknown, a number out of range, an alpha missing, a model or head that cannot be protected.
    """
    check_gates(model, num_tasks, gate_position, freeze_head_after)
    regulariser = sparsity.regulariser_named(mask_sparsity_reg_mode, num_tasks)
    embeddings = task_embeddings(
        num_tasks,
        s_max,
        clamp_threshold,
        embedding_clamp,
        task_embedding_init_mode,
        anneal,
        test_mask,
        no_sum,
    )
    clip = clip_by_global_norm(clip_norm)
    inner = scale_by_adjustment(
        model,
        chain(clip, tx),
        adjustment_mode,
        alpha,
        epsilon,
        no_reg=no_reg,
        freeze=freeze,
        scale_at=scale_at,
    )

    algorithm = hard_attention(
        model,
        inner,
        embeddings,
        regulariser,
        mask_sparsity_reg_factor,
        gate_position=gate_position,
        freeze_head_after=freeze_head_after,
    )

    settings = algorithm.settings | {
        "tx": tx.settings,
        "mask_sparsity_reg_mode": mask_sparsity_reg_mode,
    }
    return algorithm._replace(settings=settings | {"clip_norm": clip.settings["max_norm"]})
