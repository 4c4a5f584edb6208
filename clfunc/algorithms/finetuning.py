"""Finetuning: train each task from where the last one ended, and do nothing against forgetting.

    params <- params + tx(gradient of loss(params, batch))

The lower reference of continual learning, and what most methods are compositions of: `terms` add
to what it minimises, and `memory` keeps examples for the terms and transforms that draw them (see
`clfunc.compose.kernel`). With a `til` head each task trains its own head, with `cil` and `dil` all
tasks train one (see `clfunc.models.heads`).

`probe` measures plasticity on a batch (see `clfunc.units.plasticity`), without dropout, and the
norm of the gradient of `loss` there.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor

from clfunc.bank import in_fields
from clfunc.compose import Network, bound, forget_groups
from clfunc.random import split
from clfunc.settings import of_part
from clfunc.types import (
    Algorithm,
    Batch,
    Inputs,
    Key,
    Logits,
    Memory,
    Metrics,
    Model,
    Output,
    Params,
    Settings,
    State,
    Task,
    TaskId,
    Term,
    Transform,
)
from clfunc.units import plasticity


class FinetuningState(NamedTuple):
    opt: State
    head: State
    key: Key
    parts: State = ()  # of terms and memory


Carry = tuple[Params, FinetuningState]


def finetuning(
    model: Model,
    tx: Transform,
    *,
    terms: Sequence[Term] = (),
    memory: Memory | None = None,
    loss: Callable[[Logits, Batch], Tensor] | None = None,
) -> Algorithm:
    """Train on each task in turn.

    Args:
        model: Its head decides the paradigm.
        tx: The optimiser; it restarts at each task unless wrapped in `carry`.
        terms: What is minimised beside the loss of the batch, from `clfunc.terms`.
        memory: What terms and transforms draw from, from `clfunc.memories`; None for none.
        loss: `(logits, batch) -> 0-d`, the logits masked; None for the head's own.

    Raises:
        ValueError: Terms, transform, memory and head that do not go together.

    >>> from clfunc import finetuning, mlp, sgd, terms, til
    >>> model = mlp(64, (16,), til(5, classes=10))
    >>> algorithm = finetuning(model, sgd(0.1), terms=(terms.ewc(100.0), terms.l2_init(1e-3)))
    """
    parts = bound(model, tx, terms, memory, loss=loss)

    def network(state: FinetuningState) -> Network:
        def forward(params: Params, batch: Batch, key: Key | None) -> Output:
            return model.apply(params, batch.x, batch.task, key=key)

        return Network(forward=forward, mask=partial(model.head.mask, state.head))

    def init(key: Key) -> Carry:
        draw, start, park, noise = split(key, 4)
        params = model.init(draw)
        return params, FinetuningState(
            opt=tx.init(start, params),
            head=model.head.bank.init(park, params),
            key=noise,
            parts=parts.init(key, params),
        )

    def step(
        params: Params, state: FinetuningState, batch: Batch
    ) -> tuple[Params, FinetuningState, Metrics]:
        key, noise = split(state.key) if model.stochastic else (state.key, None)
        params, opt, own, metrics = parts.step(
            params, state.opt, state.parts, batch, network(state), noise
        )
        return params, state._replace(opt=opt, key=key, parts=own), metrics

    def predict(params: Params, state: FinetuningState, x: Inputs, task: TaskId) -> Logits:
        return model.head.mask(state.head, forward(params, state, x, task).logits, task)

    def forward(params: Params, state: FinetuningState, x: Inputs, task: TaskId) -> Output:
        return model.apply(model.head.bank.lookup(params, state.head, task), x, task)

    def features(params: Params, state: FinetuningState, x: Inputs, task: TaskId) -> Tensor:
        return forward(params, state, x, task).last

    def begin_task(params: Params, state: FinetuningState, task: Task) -> Carry:
        params, head = model.head.bank.begin_task(params, state.head, task.id)
        opt = forget_groups(tx, tx.begin_task(state.opt, params), model.head.owns)
        own = parts.begin_task(state.parts, params, task)
        return params, state._replace(opt=opt, head=head, parts=own)

    def review(params: Params, state: FinetuningState, batch: Batch) -> FinetuningState:
        opt, own = parts.review(params, state.opt, state.parts, batch, network(state))
        return state._replace(opt=opt, parts=own)

    def end_task(params: Params, state: FinetuningState) -> Carry:
        opt, own = parts.end_task(params, state.opt, state.parts)
        params, head = model.head.bank.end_task(params, state.head)
        return params, state._replace(opt=opt, head=head, parts=own)

    def probe(params: Params, state: FinetuningState, batch: Batch) -> dict[str, Tensor]:
        return plasticity.probe(network(state), parts.loss, params, batch)

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
        review=review if parts.reviews else None,
        end_task=end_task,
        probe=probe,
        settings=settings | parts.settings,
        features=features,
        bank=in_fields({"head": model.head.bank} | parts.banks),
    )
