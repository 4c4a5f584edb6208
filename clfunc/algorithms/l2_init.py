"""L2-init: keep every weight near where it began, so that the network stays able to learn [1].

    loss = cross_entropy + strength * sum_i (params_i - initial_i)^2

Paper: lambda -> strength, theta_0 -> initial. Departs from [1], which has one head: a task's own
head (`til`) is held near where its task began.

[1] Kumar et al. 2023, arXiv:2308.11958
"""

from typing import NamedTuple

from clfunc import tree
from clfunc.algorithms.finetuning import FinetuningState, finetuning
from clfunc.compose import lift
from clfunc.losses import descend
from clfunc.random import split
from clfunc.types import (
    Algorithm,
    Batch,
    Key,
    Metrics,
    Model,
    Number,
    Params,
    Scalar,
    Task,
    Transform,
    scalar,
)


class L2InitState(NamedTuple):
    inner: FinetuningState
    strength: Scalar
    initial: Params


def l2_init(model: Model, tx: Transform, *, strength: Number = 0.01) -> Algorithm:
    """Finetuning with a pull of all weights towards the initial ones.

    Args:
        model: Its head decides the paradigm.
        tx: The optimiser.
        strength: Of the pull, >= 0; 0 is finetuning, and the paper tries 1e-5 to 1e-2.
    """
    inner = finetuning(model, tx)
    lifted = lift(inner)
    number = scalar(strength, "strength", 0)

    def init(key: Key) -> tuple[Params, L2InitState]:
        params, state = inner.init(key)
        return params, L2InitState(state, number, params)

    def step(
        params: Params, state: L2InitState, batch: Batch
    ) -> tuple[Params, L2InitState, Metrics]:
        old = state.inner
        key, noise = split(old.key) if model.stochastic else (old.key, None)

        def loss_fn(params):
            output = model.apply(params, batch.x, batch.task, key=noise)
            logits = model.head.mask(old.head, output.logits, batch.task)
            drift = tree.sub(params, state.initial)
            penalty = state.strength * tree.vdot(drift, drift)
            metrics = model.head.measure(logits, batch.y, batch.weight) | {"penalty": penalty}
            loss = model.head.loss(logits, batch.y, batch.weight)
            return loss + penalty, (output.features, metrics)

        updates, opt, metrics = descend(tx, loss_fn, params, old.opt, batch.task)

        new = old._replace(opt=opt, key=key)
        return tree.add(params, updates), state._replace(inner=new), metrics

    def begin_task(params: Params, state: L2InitState, task: Task) -> tuple[Params, L2InitState]:
        params, state = lifted.begin_task(params, state, task)
        own = {group: params[group] for group in model.head.owns}
        return params, state._replace(initial={**state.initial, **own})

    settings = inner.settings | {"name": "l2_init", "strength": number}
    return lifted._replace(init=init, step=step, begin_task=begin_task, settings=settings)
