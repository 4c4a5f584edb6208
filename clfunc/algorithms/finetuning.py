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
from typing import NamedTuple

from torch import Tensor

from clfunc.bank import in_fields
from clfunc.compose import Parts, bound, network_of
from clfunc.random import split
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
    forward = _testing(model)

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
        params, state, metrics = parts.step(
            params, state, batch, network_of(model, state.head), noise
        )
        return params, state._replace(key=key), metrics

    def predict(params: Params, state: FinetuningState, x: Inputs, task: TaskId) -> Logits:
        return model.head.mask(state.head, forward(params, state, x, task).logits, task)

    def features(params: Params, state: FinetuningState, x: Inputs, task: TaskId) -> Tensor:
        return forward(params, state, x, task).last

    def begin_task(params: Params, state: FinetuningState, task: Task) -> Carry:
        params, head = model.head.bank.begin_task(params, state.head, task.id)
        return params, parts.begin_task(params, state._replace(head=head), task)

    def review(params: Params, state: FinetuningState, batch: Batch) -> FinetuningState:
        return parts.review(params, state, batch, network_of(model, state.head))

    def end_task(params: Params, state: FinetuningState) -> Carry:
        state = parts.end_task(params, state)
        params, head = model.head.bank.end_task(params, state.head)
        return params, state._replace(head=head)

    return Algorithm(
        init=init,
        step=step,
        predict=predict,
        begin_task=begin_task,
        review=review if parts.reviews else None,
        end_task=end_task,
        probe=_probe(parts),
        settings={"name": "finetuning", "loss": loss or "head"} | parts.settings,
        features=features,
        bank=in_fields({"head": model.head.bank} | parts.banks),
    )


def _testing(model: Model) -> Callable[[Params, FinetuningState, Inputs, TaskId], Output]:
    """The network with a task's own head."""

    def forward(params: Params, state: FinetuningState, x: Inputs, task: TaskId) -> Output:
        return model.apply(model.head.bank.lookup(params, state.head, task), x, task)

    return forward


def _probe(parts: Parts) -> Callable[[Params, FinetuningState, Batch], dict[str, Tensor]]:
    """Plasticity on a batch."""

    def probe(params: Params, state: FinetuningState, batch: Batch) -> dict[str, Tensor]:
        network = network_of(parts.model, state.head)
        return plasticity.probe(network, parts.loss, params, batch)

    return probe
