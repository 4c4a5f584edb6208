"""Hard attention to the task (HAT) [1]: each task learns which units it uses, and what earlier
tasks use does not move.

The method, beside its equations, is in `clfunc.hard_attention.method`; this file names its
settings. Its parts are the gates (`clfunc.hard_attention.gates`), the regularisers
(`.regularisers`), how far a used weight moves (`.rates`) and the embeddings of all tasks
(`.embeddings`).

[1] Serra et al. 2018, arXiv:1801.01423
"""

from collections.abc import Sequence
from typing import Any

from clfunc.hard_attention import Gating, Rates
from clfunc.hard_attention import regularisers as sparsity
from clfunc.hard_attention.embeddings import check_gates, task_embeddings
from clfunc.hard_attention.method import hard_attention
from clfunc.settings import of_part
from clfunc.transforms import chain, clip_by_global_norm, scale_by_adjustment
from clfunc.types import Algorithm, Memory, Model, Number, Term, Transform

PARTS: dict[str, Gating | Rates] = {"gates": Gating(), "rates": Rates()}


def hat(
    model: Model,
    tx: Transform,
    *,
    num_tasks: int,
    s_max: Number = 400.0,
    mask_sparsity_reg_factor: Number = 0.75,
    mask_sparsity_reg_mode: str = "original",
    gates: Gating = Gating(),  # noqa: B008 (a tuple of defaults, which nothing can change)
    rates: Rates = Rates(),  # noqa: B008
    clip_norm: Number = 10000.0,
    freeze_head_after: int | None = None,
    terms: Sequence[Term] = (),
    memory: Memory | None = None,
    **moved: Any,
) -> Algorithm:
    """Hard attention to the task.

    Args:
        model: Its unit groups are gated.
        tx: The optimiser, `sgd(0.05)` in the paper.
        num_tasks: Tasks to keep an embedding for, >= 1.
        s_max: Largest scale of the gates, > 0 (in the paper 25 to 800).
        mask_sparsity_reg_factor: Weight of the regulariser, >= 0 (in the paper 0.1 to 2.5).
        mask_sparsity_reg_mode: `original`, `cross` or `uniform`, see
            `clfunc.hard_attention.regularisers`.
        gates: How gates start, harden and act.
        rates: How far weights that earlier tasks use may move.
        clip_norm: Bound on the gradient's norm, >= 0.
        freeze_head_after: Freeze a head that tasks share when this many are trained, >= 1; None for
            never.
        terms: What is minimised beside the loss of the batch, from `clfunc.terms`.
        memory: What terms and transforms draw from. Examples of earlier tasks pass their own masks
            and move their own heads: the bits of earlier tasks' features are kept, not those of
            their logits.
        moved: None. A setting of `gates` or `rates` is refused with its new spelling.

    Raises:
        ValueError: A mode unknown, a number out of range, an alpha missing, a model or head that
            cannot be protected.

    >>> from clfunc import hat, mlp, sgd, til
    >>> from clfunc.hard_attention import Gating
    >>> model = mlp(64, (16,), til(5, classes=10))
    >>> algorithm = hat(model, sgd(0.05), num_tasks=5, gates=Gating(anneal="constant"))
    """
    _refuse(moved)
    check_gates(
        model, num_tasks, gates.gate_position, freeze_head_after, has_memory=memory is not None
    )
    clip = clip_by_global_norm(clip_norm)
    algorithm = hard_attention(
        model,
        inner=scale_by_adjustment(
            model,
            chain(clip, tx),
            rates.adjustment_mode,
            rates.alpha,
            rates.epsilon,
            no_reg=rates.no_reg,
            freeze=rates.freeze,
            scale_at=rates.scale_at,
        ),
        embeddings=task_embeddings(num_tasks, s_max, gates, rates.no_sum),
        regulariser=sparsity.regulariser_named(mask_sparsity_reg_mode, num_tasks),
        mask_sparsity_reg_factor=mask_sparsity_reg_factor,
        gate_position=gates.gate_position,
        freeze_head_after=freeze_head_after,
        terms=terms,
        memory=memory,
    )
    settings = algorithm.settings | {
        "tx": of_part(tx, tx.update),
        "mask_sparsity_reg_mode": mask_sparsity_reg_mode,
        "clip_norm": clip.settings["max_norm"],
    }
    return algorithm._replace(settings=settings)


def _refuse(moved: dict[str, Any]) -> None:
    """Raise TypeError, in one line, for a keyword that `hat` does not have."""
    for name, value in moved.items():
        for part, default in PARTS.items():
            if name in default._fields:
                kind = type(default).__name__
                raise TypeError(
                    f"{name} belongs to the {part} of hat:"
                    f" write {part}=cl.hard_attention.{kind}({name}={value!r})"
                )
        raise TypeError(f"hat has no setting {name!r}")
