"""L2-init [1]: every weight is held near where it began, so that the network stays able to learn.

    penalty = strength * sum_i (params_i - initial_i)^2

Paper: lambda -> strength, theta_0 -> initial. A head that waits while other tasks train (`til`) is
one task's own, and is left free.

[1] Kumar et al. 2023, arXiv:2308.11958
"""

from typing import NamedTuple

from clfunc import tree
from clfunc.types import Key, Model, Number, Params, Scalar, Term, scalar


class L2InitState(NamedTuple):
    strength: Scalar
    initial: Params


def l2_init(strength: Number = 0.01, *, name: str = "l2_init") -> Term:
    """A pull of all shared weights towards the initial ones.

    Args:
        strength: Of the pull, >= 0; 0 is none, and the paper tries 1e-5 to 1e-2.
        name: Of the term.

    Raises:
        ValueError: A strength below 0.

    >>> from clfunc import dil, finetuning, mlp, sgd, terms
    >>> model = mlp(64, (16,), dil(5, classes=10))
    >>> algorithm = finetuning(model, sgd(0.1), terms=(terms.l2_init(1e-3),))
    """
    number = scalar(strength, "strength", 0)

    def init(key: Key, params: Params, model: Model) -> L2InitState:
        return L2InitState(strength=number, initial=params)

    def penalty(s: L2InitState, params: Params) -> Scalar:
        drift = tree.sub(params, s.initial)
        return s.strength * tree.vdot(drift, drift)

    return Term(name=name, init=init, penalty=penalty, settings={"strength": number})
