"""Finetuning: train each task from where the last one ended, and do nothing against forgetting.

    params <- params + tx(gradient of loss(params, batch))

The lower reference of continual learning, and the step that most methods add to. With a `til` head
each task trains its own head, with `cil` and `dil` all tasks train one (see `clfunc.models.heads`).

`probe` measures plasticity on a batch (see `clfunc.units.plasticity`), without dropout, and the
norm of the gradient of `loss` there.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.func import grad

from clfunc import tree
from clfunc.bank import in_fields
from clfunc.compose import forget_groups
from clfunc.losses import descend
from clfunc.random import split
from clfunc.settings import of_part
from clfunc.types import (
    Algorithm,
    Batch,
    Inputs,
    Key,
    Logits,
    Metrics,
    Model,
    Output,
    Params,
    Settings,
    State,
    Task,
    TaskId,
    Transform,
)
from clfunc.units import plasticity


class FinetuningState(NamedTuple):
    opt: State
    head: State
    key: Key


Carry = tuple[Params, FinetuningState]


def finetuning(
    model: Model, tx: Transform, *, loss: Callable[..., Tensor] | None = None
) -> Algorithm:
    """Train on each task in turn.

    Args:
        model: Its head decides the paradigm.
        tx: The optimiser; it restarts at each task unless wrapped in `carry`.
        loss: `(logits, y, weight) -> 0-d`; None for the head's own.

    >>> from clfunc import finetuning, mlp, sgd, til
    >>> algorithm = finetuning(mlp(64, (16,), til(5, classes=10)), sgd(0.1))
    """
    loss_of = loss or model.head.loss
    forward = _forward(model)

    def init(key: Key) -> Carry:
        draw, start, park, noise = split(key, 4)
        params = model.init(draw)
        opt = tx.init(start, params)
        head = model.head.bank.init(park, params)
        return params, FinetuningState(opt=opt, head=head, key=noise)

    def step(
        params: Params, state: FinetuningState, batch: Batch
    ) -> tuple[Params, FinetuningState, Metrics]:
        key, noise = split(state.key) if model.stochastic else (state.key, None)

        def loss_fn(params):
            output = model.apply(params, batch.x, batch.task, key=noise)
            logits = model.head.mask(state.head, output.logits, batch.task)
            metrics = model.head.measure(logits, batch.y, batch.weight)
            return loss_of(logits, batch.y, batch.weight), (output.features, metrics)

        updates, opt, metrics = descend(tx, loss_fn, params, state.opt, batch.task)

        return tree.add(params, updates), state._replace(opt=opt, key=key), metrics

    def predict(params: Params, state: FinetuningState, x: Inputs, task: TaskId) -> Logits:
        return model.head.mask(state.head, forward(params, state, x, task).logits, task)

    def features(params: Params, state: FinetuningState, x: Inputs, task: TaskId) -> Tensor:
        return forward(params, state, x, task).last

    def begin_task(params: Params, state: FinetuningState, task: Task) -> Carry:
        params, head = model.head.bank.begin_task(params, state.head, task.id)
        opt = forget_groups(tx, tx.begin_task(state.opt, params), model.head.owns)
        return params, state._replace(opt=opt, head=head)

    def end_task(params: Params, state: FinetuningState) -> Carry:
        params, head = model.head.bank.end_task(params, state.head)
        return params, state._replace(head=head)

    settings: Settings = {
        "name": "finetuning",
        "model": of_part(model, model.apply),
        "tx": of_part(tx, tx.update),
        "loss": loss or "head",
    }
    return Algorithm(
        init=init,
        step=step,
        predict=predict,
        begin_task=begin_task,
        end_task=end_task,
        probe=_probe(model, loss_of),
        settings=settings,
        features=features,
        bank=in_fields({"head": model.head.bank}),
    )


def _forward(model: Model) -> Callable[[Params, FinetuningState, Inputs, TaskId], Output]:
    """The network with a task's own head."""

    def forward(params: Params, state: FinetuningState, x: Inputs, task: TaskId) -> Output:
        return model.apply(model.head.bank.lookup(params, state.head, task), x, task)

    return forward


def _probe(
    model: Model, loss_of: Callable[..., Tensor]
) -> Callable[[Params, FinetuningState, Batch], dict[str, Tensor]]:
    """Plasticity on a batch, and the norm of the gradient of the loss there."""

    def probe(params: Params, state: FinetuningState, batch: Batch) -> dict[str, Tensor]:
        def loss_fn(params):
            output = model.apply(params, batch.x, batch.task)
            logits = model.head.mask(state.head, output.logits, batch.task)
            return loss_of(logits, batch.y, batch.weight), output.features

        gradient, features = grad(loss_fn, has_aux=True)(params)
        # rows of zeros change no measure
        seen = tree.where(batch.weight > 0, features, tree.zeros_like(features))
        norm = plasticity.gradient_norm(gradient)
        return plasticity.measure(seen, params) | {"gradient_norm": norm}

    return probe
