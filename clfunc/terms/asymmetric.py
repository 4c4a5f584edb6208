"""The asymmetric loss of ER-ACE [1]: what comes new is told apart from what comes with it alone, so
that it does not push down the logits of earlier classes. Replay, beside it, tells all of them apart.

    loss = strength * (L over the classes that are in the batch - L)

which puts the one in the place of the other at strength 1. Departs from the authors' code, which also
lets the largest class met so far, and the classes above it, count; none of those above counts here in
any case.

[1] Caccia et al. 2022, arXiv:2104.05025
"""

import torch

from clfunc.losses import weighted_mean
from clfunc.types import Context, Key, Model, Number, Params, Scalar, Term, scalar


def asymmetric(strength: Number = 1.0, *, name: str = "asymmetric") -> Term:
    """The batch's cross-entropy over its own classes, in the place of that over all that count.

    Args:
        strength: How much of its place it takes, in [0, 1]; 0 is none.
        name: Of the term.

    Raises:
        ValueError: A strength out of its range.

    >>> from clfunc import cil, finetuning, memories, mlp, sgd, terms
    >>> algorithm = finetuning(
    ...     mlp(64, (16,), cil(5, classes=2)),
    ...     sgd(0.1),
    ...     terms=(terms.asymmetric(), terms.replay(32, mean="sum")),
    ...     memory=memories.reservoir(500),
    ... )
    """
    number = scalar(strength, "strength", 0, 1)

    def init(key: Key, params: Params, model: Model) -> Scalar:
        return number

    def loss(s: Scalar, params: Params, context: Context) -> Scalar:
        batch, logits = context.batch, context.output.logits
        label = torch.arange(logits.shape[1], device=logits.device)
        is_own = batch.y[:, None] == label
        present = (is_own & (batch.weight > 0)[:, None]).any(0)
        log_p = torch.log_softmax(torch.where(present, logits, -torch.inf), 1)
        own = weighted_mean(-torch.where(is_own & present, log_p, 0.0).sum(1), batch.weight)
        return s * (own - context.value)

    return Term(name=name, init=init, loss=loss, settings={"strength": number, "needs": "classes"})
