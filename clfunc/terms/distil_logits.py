"""Dark experience replay (DER) [1]: the network keeps saying of remembered examples what it said
when it met them.

    loss = strength * mean over the examples drawn, and all classes, of (logits - noted logits)^2

Paper: alpha -> strength. The memory notes the logits of the training pass in which it met the
example, before the step. All classes count, also those not seen yet, as in the authors' code.

[1] Buzzega et al. 2020, arXiv:2004.07211
"""

from clfunc.losses import weighted_mean
from clfunc.settings import check_whole
from clfunc.terms.replay import ReplayState, replay
from clfunc.types import Context, Number, Params, Scalar, Term, scalar


def distil_logits(batch: int, strength: Number = 0.5, *, name: str = "distil_logits") -> Term:
    """The distance to the logits that the memory noted.

    Args:
        batch: Examples to draw at each step, >= 1.
        strength: Weight of the distance, >= 0; 0 is none, and the paper tries 0.1 to 1.
        name: Of the term.

    Raises:
        ValueError: A number out of its range.

    >>> from clfunc import dil, finetuning, memories, mlp, sgd, terms
    >>> model = mlp(64, (16,), dil(5, classes=10))
    >>> algorithm = finetuning(
    ...     model, sgd(0.1), terms=(terms.distil_logits(32),), memory=memories.reservoir(500)
    ... )
    """
    number = scalar(strength, "strength", 0)
    check_whole(batch, "batch")

    def loss(s: ReplayState, params: Params, context: Context) -> Scalar:
        drawn = context.draw(s.key, batch)
        apart = context.forward(params, drawn).logits - drawn.notes["logits"]
        return s.strength * weighted_mean((apart * apart).mean(1), drawn.weight)

    settings = {"strength": number, "batch": batch, "draws": batch, "notes": ["logits"]}
    init = replay(batch, strength).init
    return Term(name=name, init=init, loss=loss, settings=settings)
