"""Elastic weight consolidation (EWC) [1]: each weight is held by the Fisher information that the
tasks before have of it.

    at the end of task t   F_t = the mean over its examples of the diagonal Fisher at params_t
    penalty = strength / 2 * sum_t sum_i F_t,i (params_i - params_t,i)^2

Paper: lambda -> strength. The Fisher of an example is taken without dropout over the classes that
count; `clfunc.terms.fisher` has its kinds. With a `decay` it is online EWC [2, 3]: one Fisher,
`F <- decay * F + F_t`, around the params of the last task. Paper: gamma -> decay.

[1] Kirkpatrick et al. 2017, arXiv:1612.00796   [2] Huszar 2018, arXiv:1712.03847   [3] Schwarz et
al. 2018, arXiv:1805.06370
"""

from torch import Tensor

from clfunc.terms.anchored import anchored
from clfunc.terms.fisher import FISHERS, fisher_of
from clfunc.types import Context, Key, Number, Params, Scalar, Term, choice


def ewc(
    strength: Number = 1.0,
    *,
    fisher: str = "exact",
    decay: Number | None = None,
    examples: int | None = None,
    at_once: int | None = None,
    num_tasks: int | None = None,
    name: str = "ewc",
) -> Term:
    """A pull towards the weights of earlier tasks, by their Fisher information.

    Args:
        strength: Of the pull, >= 0; 0 is none. What is good spans 1 to 1e10 by the protocol.
        fisher: `exact`, `sample`, `predicted`, `empirical` or `batched`.
        decay: Share of the earlier Fisher that a task's end keeps, in [0, 1]: online EWC. None
            holds each task's Fisher at its own params.
        examples: How many examples of each task the Fisher is of, >= 1; None for all.
        at_once: Most examples in a batch of the review, >= 1; None for those of a step. Layers
            other than linear ones take memory for each example and class.
        num_tasks: Keep the Fisher and the params of each of so many tasks, so that a task can be
            forgotten: two copies of the params a task. None keeps their sums alone.
        name: Of the term.

    Raises:
        ValueError: A number out of its range, or an unknown Fisher.

    >>> from clfunc import dil, finetuning, mlp, sgd, terms
    >>> model = mlp(64, (16,), dil(5, classes=10))
    >>> algorithm = finetuning(model, sgd(0.1), terms=(terms.ewc(100.0),))
    """
    choice(fisher, "fisher", FISHERS)

    def importance(
        params: Params, context: Context, key: Key, place: Tensor
    ) -> tuple[Params, Scalar]:
        return fisher_of(params, context, fisher, key, place)

    return anchored(
        name,
        importance,
        strength,
        factor=0.5,
        decay=decay,
        examples=examples,
        at_once=at_once,
        num_tasks=num_tasks,
        settings={"fisher": fisher, "needs": "classes"},
    )
