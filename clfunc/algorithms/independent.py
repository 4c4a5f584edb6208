"""Independent learning: a fresh network for every task, so nothing is forgotten and nothing is
shared.

The reference of forward transfer (`metrics.forward_transfer`). Each task's network is kept, and
answers for its task: the algorithm knows which task an example is of, also under `cil` and `dil`,
where no other algorithm does.
"""

from typing import NamedTuple

from torch import Tensor

from clfunc import tree
from clfunc.algorithms.finetuning import FinetuningState, finetuning
from clfunc.bank import BankState, in_fields, lend, parked, repeated
from clfunc.compose import lift
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
    bank: BankState  # of the networks


def independent(model: Model, tx: Transform, *, num_tasks: int) -> Algorithm:
    """Train a network of its own for each task. A task that returns starts afresh.

    Args:
        model: Drawn anew for each task.
        tx: The optimiser, which restarts with the network unless wrapped in `carry`.
        num_tasks: Number of tasks, >= 1; the state holds a network for each.

    Raises:
        ValueError: No task.

    >>> from clfunc import independent, mlp, sgd, til
    >>> algorithm = independent(mlp(64, (16,), til(5, classes=10)), sgd(0.1), num_tasks=5)
    """
    if num_tasks < 1:
        raise ValueError(f"num_tasks must be at least 1, given {num_tasks}")
    inner = finetuning(model, tx)
    lifted = lift(inner)

    def blank(key: Key, params: Params) -> Params:
        return repeated(tree.zeros_like(params), num_tasks)

    networks = parked(None, blank)

    def init(key: Key) -> tuple[Params, IndependentState]:
        first, second = split(key)
        params, state = inner.init(first)
        return params, IndependentState(
            inner=state,
            key=second,
            blank=tree.clone(state.head),
            bank=networks.init(second, params),
        )

    def predict(params: Params, state: IndependentState, x: Inputs, task: TaskId) -> Logits:
        network = networks.lookup(params, state.bank, task)
        _, head = model.head.bank.begin_task(network, state.blank, task)
        return model.head.mask(head, model.apply(network, x, task).logits, task)

    def features(params: Params, state: IndependentState, x: Inputs, task: TaskId) -> Tensor:
        network = networks.lookup(params, state.bank, task)
        return model.apply(network, x, task).last

    def begin_task(
        params: Params, state: IndependentState, task: Task
    ) -> tuple[Params, IndependentState]:
        draw, park = split(fold_in(state.key, task.id))
        params = model.init(draw)
        fresh = state.inner._replace(head=model.head.bank.init(park, params))
        params, new = inner.begin_task(params, fresh, task)
        return params, state._replace(inner=new, bank=lend(state.bank, task.id))

    def end_task(params: Params, state: IndependentState) -> tuple[Params, IndependentState]:
        params, state = lifted.end_task(params, state)
        params, bank = networks.end_task(params, state.bank)
        return params, state._replace(bank=bank)

    settings = inner.settings | {"name": "independent", "num_tasks": num_tasks}
    return lifted._replace(
        init=init,
        predict=predict,
        begin_task=begin_task,
        end_task=end_task,
        settings=settings,
        features=features,
        bank=in_fields({"bank": networks}),
    )
