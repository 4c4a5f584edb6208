"""Function distance regularisation (FDR) [1]: the network keeps the probabilities that it gave to
remembered examples when it met them.

    loss = strength * mean over the examples drawn of |softmax(logits) - softmax(noted logits)|_2

Paper: lambda -> strength. All classes count, as in `distil_logits`. Departs from [1], which notes the
probabilities at the end of a task.

[1] Benjamin et al. 2019, arXiv:1805.08289
"""

import torch

from clfunc.losses import weighted_mean
from clfunc.terms.distil_logits import distil_logits
from clfunc.terms.replay import ReplayState
from clfunc.types import Context, Number, Params, Scalar, Term


def fdr(batch: int, strength: Number = 0.5, *, name: str = "fdr") -> Term:
    """The distance to the probabilities that the memory noted.

    Args:
        batch: Examples to draw at each step, >= 1.
        strength: Weight of the distance, >= 0; 0 is none.
        name: Of the term.

    Raises:
        ValueError: A number out of its range.

    >>> from clfunc import dil, finetuning, memories, mlp, sgd, terms
    >>> model = mlp(64, (16,), dil(5, classes=10))
    >>> algorithm = finetuning(
    ...     model, sgd(0.1), terms=(terms.fdr(32),), memory=memories.reservoir(500)
    ... )
    """

    def loss(s: ReplayState, params: Params, context: Context) -> Scalar:
        drawn = context.draw(s.key, batch)
        now = torch.softmax(context.forward(params, drawn).logits, 1)
        apart = now - torch.softmax(drawn.notes["logits"], 1)
        return s.strength * weighted_mean(torch.linalg.vector_norm(apart, dim=1), drawn.weight)

    inner = distil_logits(batch, strength, name=name)
    return inner._replace(loss=loss, settings=inner.settings | {"distance": "fdr"})
