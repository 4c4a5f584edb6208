"""Experience replay (ER) [1]: examples from the memory are learned beside the batch.

With L the loss of the batch, L' that of the examples drawn, and W, W' their total weights, it
minimises, by `mean`,

    union     (W L + strength W' L') / (W + strength W')       one mean over both, as [1] does
    sum       L + strength L'
    balanced  (L + strength L') / (1 + strength)                a half each at strength 1
    by_task   (1 - r) L + r L',  r = strength (1 - 1/t)         t tasks begun, examples of earlier ones [2]

In each the strength 0 leaves L alone, and so does a memory without an example to draw.

[1] Chaudhry et al. 2019, arXiv:1902.10486   [2] van de Ven et al. 2020, doi:10.1038/s41467-020-17866-2
"""

from typing import NamedTuple

import torch

from clfunc.settings import check_whole
from clfunc.types import (
    Batch,
    Context,
    Key,
    Model,
    Number,
    Params,
    Scalar,
    Task,
    Term,
    choice,
    scalar,
)

MEANS = ("union", "sum", "balanced", "by_task")


class ReplayState(NamedTuple):
    strength: Scalar
    key: Key
    tasks: Scalar  # begun so far


def replay(
    batch: int, strength: Number = 1.0, *, mean: str = "union", name: str = "replay"
) -> Term:
    """The loss of examples from the memory.

    Args:
        batch: Examples to draw at each step, >= 1.
        strength: Their weight beside the batch's, >= 0; 0 is none.
        mean: `union`, `sum`, `balanced` or `by_task`.
        name: Of the term.

    Raises:
        ValueError: A number out of its range, or an unknown mean.

    >>> from clfunc import dil, finetuning, memories, mlp, sgd, terms
    >>> model = mlp(64, (16,), dil(5, classes=10))
    >>> algorithm = finetuning(
    ...     model, sgd(0.1), terms=(terms.replay(32),), memory=memories.reservoir(500)
    ... )
    """
    number = scalar(strength, "strength", 0)
    choice(mean, "mean", MEANS)
    check_whole(batch, "batch")

    def init(key: Key, params: Params, model: Model) -> ReplayState:
        none = torch.zeros((), dtype=torch.int64, device=key.device)
        return ReplayState(strength=number, key=key, tasks=none)

    def loss(s: ReplayState, params: Params, context: Context) -> Scalar:
        drawn = context.draw(s.key, batch, earlier=mean == "by_task")
        return joined(s, context, drawn, context.loss(params, drawn), mean)

    def begin_task(s: ReplayState, params: Params, task: Task) -> ReplayState:
        return s._replace(tasks=s.tasks + 1)

    settings = {"strength": number, "batch": batch, "mean": mean, "draws": batch}
    return Term(name=name, init=init, loss=loss, begin_task=begin_task, settings=settings)


def joined(s: ReplayState, context: Context, drawn: Batch, old: Scalar, mean: str) -> Scalar:
    """What the loss `old` of the examples drawn adds to that of the batch, by `mean`."""
    if mean == "sum":
        return s.strength * old
    more = s.strength * drawn.weight.sum()
    if mean == "union":
        share = more / (more + context.batch.weight.sum()).clamp(min=1e-30)
    elif mean == "balanced":
        share = torch.where(more > 0, s.strength / (1 + s.strength), 0.0)
    else:
        begun = s.tasks.clamp(min=1).to(torch.float64)
        share = torch.where(more > 0, s.strength * (1 - 1 / begun), 0.0)
    return share * (old - context.value)
