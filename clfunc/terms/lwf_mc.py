"""LwF-MC [1]: the classes are told apart by one sigmoid each, whose targets are what the last task's
network says of the old ones, and the label for the new ones.

    loss = strength * (B - L),   B = mean_n 1/C sum_c bce(logits_nc, target_nc)

over the C classes met so far, this task's included, and with L the batch's own loss: at strength 1 it
stands in the place of that. It is iCaRL without its memory.

[1] Rebuffi et al. 2017, arXiv:1611.07725
"""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from clfunc import tree
from clfunc.losses import weighted_mean
from clfunc.terms.lwf import LwFState, lwf, of_all_heads
from clfunc.types import Context, Number, Params, Scalar, Term, scalar


def lwf_mc(strength: Number = 1.0, *, name: str = "lwf_mc") -> Term:
    """The binary cross-entropy of each class met so far, in the place of the batch's loss.

    Args:
        strength: How much of its place it takes, in [0, 1]; 0 is none.
        name: Of the term.

    Raises:
        ValueError: A strength out of its range; when bound, a head of one task at a time.

    >>> from clfunc import cil, finetuning, mlp, sgd, terms
    >>> model = mlp(64, (16,), cil(5, classes=2))
    >>> algorithm = finetuning(model, sgd(0.1), terms=(terms.lwf_mc(),))
    """
    number = scalar(strength, "strength", 0, 1)

    def loss(s: LwFState, params: Params, context: Context) -> Scalar:
        batch, rows = context.batch, len(s.old)
        old = s.old[:, None]
        own = tree.take(s.classes, s.task)[:, None] & ~old
        said = torch.sigmoid(of_all_heads(s.teacher, context, rows))
        label = torch.arange(said.shape[2], device=said.device) == batch.y[:, None]
        target = torch.where(old, said, label.to(said.dtype))
        now = of_all_heads(params, context, rows)
        each = binary_cross_entropy_with_logits(now, target, reduction="none")
        counts = old | own
        mean = torch.where(counts, each, 0.0).sum((0, 2)) / counts.sum()
        return s.strength * (weighted_mean(mean, batch.weight) - context.value)

    inner = lwf(number, name=name)
    settings = inner.settings | {"temperature": None, "scaled": None, "targets": "sigmoid"}
    return inner._replace(loss=loss, settings=settings)
