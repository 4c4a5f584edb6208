"""A bank: one row a task. One row works elsewhere while its task trains, and the others wait here.

Heads, task embeddings, norms of each task, records of updates and the networks of `independent` are
all kept so. A training step then costs the same for 2 tasks and for 200, and a row that waits
cannot move under any optimiser.

`BankState` and the functions on it keep any tree. `parked` makes the protocol `Bank` of groups of
the parameters: their working row is in `params`, so that it trains. `in_fields` makes one bank of
the banks in the fields of a larger state.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from clfunc import tree
from clfunc.types import Bank, Key, Params, State, TaskId


class BankState(NamedTuple):
    """Rows of all tasks.

    The row of the current task is out of date, as its values work elsewhere.
    """

    rows: Params  # leaves [tasks, ...]
    current: Int[Tensor, ""]  # the task whose row works elsewhere; -1 where none does


def filed(rows: Params) -> BankState:
    """A bank in which every row waits. `rows` has at least one leaf, `[tasks, ...]`."""
    device = tree.leaves(rows)[0].device
    return BankState(rows, torch.full((), -1, dtype=torch.int64, device=device))


def repeated(row: Params, num_tasks: int) -> Params:
    """Rows that are all copies of `row`."""
    return tree.map(lambda leaf: leaf.expand(num_tasks, *leaf.shape).clone(), row)


def look_up(bank: BankState, working: Params, task: TaskId) -> Params:
    """The row of a task, wherever it is. With `task` `[batch]`, leaves have a batch axis."""
    # in this order, since the rows of a batch of tasks have an axis that the working row lacks
    return tree.where(task != bank.current, tree.take(bank.rows, task), working)


def lend(bank: BankState, task: Int[Tensor, ""]) -> BankState:
    """The bank in which the row of this task works elsewhere.

    Check in the row that worked before.
    """
    return bank._replace(current=task.to(torch.int64))


def check_out(bank: BankState, task: Int[Tensor, ""]) -> tuple[Params, BankState]:
    """The row of a task to work with, and the bank that has lent it."""
    return tree.take(bank.rows, task), lend(bank, task)


def check_in(bank: BankState, working: Params) -> BankState:
    """The bank with the working row put in its place; unchanged where none works."""
    return bank._replace(rows=tree.put(bank.rows, bank.current, working))


def row_of_current(bank: BankState, working: Params) -> Params:
    """The current task's row as the bank has it; `working` where no task is current."""
    return tree.where(bank.current >= 0, tree.take(bank.rows, bank.current), working)


def parked(groups: Sequence[str] | None, start: Callable[[Key, Params], Params]) -> Bank:
    """The bank of some groups of the parameters, which each task has for itself.

    Args:
        groups: Top-level names in `params`; None for all of them.
        start: `(key, params) -> rows`: what each task starts from, a tree of these groups with
            leaves `[tasks, ...]`.
    """

    def working(params: Params) -> Params:
        if groups is None:
            return params
        return {group: params[group] for group in groups}

    def init(key: Key, params: Params) -> BankState:
        return filed(start(key, params))

    def begin_task(
        params: Params, state: BankState, task: Int[Tensor, ""]
    ) -> tuple[Params, BankState]:
        return lookup(params, state, task), lend(state, task)

    def end_task(params: Params, state: BankState) -> tuple[Params, BankState]:
        return params, check_in(state, working(params))

    def lookup(params: Params, state: BankState, task: TaskId) -> Params:
        return {**params, **look_up(state, working(params), task)}

    def rows(params: Params, state: BankState) -> Params:
        return check_in(state, working(params)).rows

    def restore(
        params: Params, state: BankState, rows: Params, forgotten: Bool[Tensor, " tasks"]
    ) -> tuple[Params, BankState]:
        state = state._replace(rows=working(rows))
        return {**params, **row_of_current(state, working(params))}, state

    return Bank(
        init=init,
        begin_task=begin_task,
        end_task=end_task,
        lookup=lookup,
        rows=rows,
        restore=restore,
        groups=None if groups is None else tuple(groups),
    )


def shared() -> Bank:
    """The bank of a model whose tasks share all parameters: it keeps nothing."""

    def init(key: Key, params: Params) -> State:
        return ()

    return Bank(init=init)


def in_fields(banks: Mapping[str, Bank], make: Callable[..., State] | None = None) -> Bank:
    """One bank of the banks whose states are fields of a larger state (a NamedTuple).

    Args:
        banks: The bank of each field. No two have a group in common.
        make: Makes the larger state of its fields, by keyword. Without it the bank has no `init` of
            its own: an algorithm's `init` makes the state.
    """

    def init(key: Key, params: Params) -> State:
        if make is None:
            raise TypeError("this bank acts on a state that an algorithm's init makes")
        return make(**{field: bank.init(key, params) for field, bank in banks.items()})

    def begin_task(params: Params, state: State, task: Int[Tensor, ""]) -> tuple[Params, State]:
        for field, bank in banks.items():
            params, new = bank.begin_task(params, getattr(state, field), task)
            state = state._replace(**{field: new})
        return params, state

    def end_task(params: Params, state: State) -> tuple[Params, State]:
        for field, bank in banks.items():
            params, new = bank.end_task(params, getattr(state, field))
            state = state._replace(**{field: new})
        return params, state

    def lookup(params: Params, state: State, task: TaskId) -> Params:
        for field, bank in banks.items():
            params = bank.lookup(params, getattr(state, field), task)
        return params

    def rows(params: Params, state: State) -> Params:
        found: Params = {}
        for field, bank in banks.items():
            found |= bank.rows(params, getattr(state, field))
        return found

    def restore(
        params: Params, state: State, rows: Params, forgotten: Bool[Tensor, " tasks"]
    ) -> tuple[Params, State]:
        for field, bank in banks.items():
            params, new = bank.restore(params, getattr(state, field), rows, forgotten)
            state = state._replace(**{field: new})
        return params, state

    return Bank(
        init=init,
        begin_task=begin_task,
        end_task=end_task,
        lookup=lookup,
        rows=rows,
        restore=restore,
        groups=_groups(banks),
    )


def _groups(banks: Mapping[str, Bank]) -> tuple[str, ...] | None:
    """The groups of all banks; None where one keeps every group."""
    found: tuple[str, ...] = ()
    for bank in banks.values():
        if bank.groups is None:
            return None
        found += bank.groups
    return found
