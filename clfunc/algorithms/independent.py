"""Independent learning: a fresh network for every task, so nothing is forgotten and nothing is shared.

The reference of forward transfer (`metrics.forward_transfer`). Each task's network is kept, and answers for its task: it is
told which task an example is of, also under `cil` and `dil`, where no other algorithm is.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.algorithms.finetuning import FinetuningState, finetuning
from clfunc.compose import lift
from clfunc.models.heads import checked_out
from clfunc.random import fold_in, split
from clfunc.types import (
    Algorithm,
    Inputs,
    Key,
    Logits,
    Model,
    Params,
    State,
    Task,
    TaskId,
    Transform,
)


class IndependentState(NamedTuple):
    inner: FinetuningState
    key: Key
    blank: State  # a head's state before any task
    bank: Params  # [tasks, ...]: each task's network
    current: Tensor  # task id of the network in params; -1 before the first task


def independent(model: Model, tx: Transform, *, num_tasks: int) -> Algorithm:
    """Train a network of its own for each of `num_tasks` (>= 1) tasks; memory grows with their number.

    A task met again starts afresh. The optimiser restarts with the network, unless wrapped in `carry`.
    """
    if num_tasks < 1:
        raise ValueError(f"num_tasks must be at least 1, given {num_tasks}")
    inner = finetuning(model, tx)
    lifted = lift(inner)

    def init(key: Key) -> tuple[Params, IndependentState]:
        first, second = split(key)
        params, state = inner.init(first)
        bank = tree.map(lambda p: p.new_zeros((num_tasks, *p.shape)), params)
        current = torch.full((), -1, dtype=torch.int64, device=key.device)
        return params, IndependentState(state, second, tree.clone(state.head), bank, current)

    def network(params: Params, state: IndependentState, task: TaskId) -> Params:
        return tree.where(task == state.current, params, tree.take(state.bank, task))

    def predict(params: Params, state: IndependentState, x: Inputs, task: TaskId) -> Logits:
        own = network(params, state, task)
        _, head = model.head.begin_task(own, state.blank, task)
        return model.head.mask(head, model.apply(own, x, task).logits, task)

    def features(params: Params, state: IndependentState, x: Inputs, task: TaskId) -> Tensor:
        return model.apply(network(params, state, task), x, task).last

    def begin_task(
        params: Params, state: IndependentState, task: Task
    ) -> tuple[Params, IndependentState]:
        draw, park = split(fold_in(state.key, task.id))
        params = model.init(draw)
        fresh = state.inner._replace(head=model.head.park(park, params))
        params, new = inner.begin_task(params, fresh, task)
        return params, state._replace(inner=new, current=task.id.to(torch.int64))

    def end_task(params: Params, state: IndependentState) -> tuple[Params, IndependentState]:
        params, state = lifted.end_task(params, state)
        return params, state._replace(bank=tree.put(state.bank, state.current, params))

    def own(params: Params, state: IndependentState) -> Params:
        return tree.put(state.bank, state.current, params)

    def restore(
        params: Params, state: IndependentState, own: Params, gone: Tensor
    ) -> tuple[Params, IndependentState]:
        return checked_out(params, state.current, own), state._replace(bank=own)

    settings = {
        "name": "independent",
        "model": model.settings,
        "tx": tx.settings,
        "num_tasks": num_tasks,
    }
    hooks: dict[str, Any] = {
        "begin_task": begin_task,
        "end_task": end_task,
        "own": own,
        "restore": restore,
    }
    hooks |= {"predict": predict, "features": features}
    return lifted._replace(init=init, **hooks, settings=settings)
