"""A bank: one row a task, of which one works in the parameters and the others wait."""

from typing import NamedTuple

import pytest
import torch

from clfunc import tree
from clfunc.bank import (
    BankState,
    check_in,
    check_out,
    filed,
    in_fields,
    look_up,
    parked,
    repeated,
    row_of_current,
    shared,
)
from clfunc.random import key, normal
from clfunc.testing.laws import identical

TASKS = 3


class Larger(NamedTuple):
    first: BankState
    second: BankState
    steps: torch.Tensor


def drawn(number, group):
    def start(key_, params):
        return {group: {"w": normal(key_, (TASKS, 2), at=number)}}

    return start


def params():
    return {name: {"w": torch.zeros(2)} for name in ("shared", "a", "b")}


def task(number):
    return torch.tensor(number)


def two():
    banks = {"first": parked(("a",), drawn(1, "a")), "second": parked(("b",), drawn(2, "b"))}
    bank = in_fields(banks)
    begun = params()
    states = {name: part.init(key(0), begun) for name, part in banks.items()}
    return bank, begun, Larger(**states, steps=torch.tensor(7))


def test_a_row_that_works_elsewhere_is_found_there_and_the_others_in_the_bank():
    bank = filed({"w": torch.arange(6.0).reshape(TASKS, 2)})
    working, bank = check_out(bank, task(1))
    assert working["w"].tolist() == [2.0, 3.0] and int(bank.current) == 1
    working = {"w": working["w"] + 10}
    assert look_up(bank, working, task(1))["w"].tolist() == [12.0, 13.0]
    assert look_up(bank, working, task(2))["w"].tolist() == [4.0, 5.0]
    both = look_up(bank, working, torch.tensor([1, 0]))
    assert both["w"].tolist() == [[12.0, 13.0], [0.0, 1.0]]


def test_to_check_in_replaces_the_row_of_the_current_task_only():
    bank = filed({"w": torch.arange(6.0).reshape(TASKS, 2)})
    assert identical(check_in(bank, {"w": torch.ones(2)}), bank)
    _, bank = check_out(bank, task(1))
    rows = check_in(bank, {"w": torch.ones(2)}).rows["w"]
    assert rows.tolist() == [[0.0, 1.0], [1.0, 1.0], [4.0, 5.0]]


def test_no_row_is_current_before_the_first_task():
    bank = filed(repeated({"w": torch.ones(2)}, TASKS))
    working = {"w": torch.full((2,), 5.0)}
    assert int(bank.current) == -1
    assert identical(row_of_current(bank, working), working)


def test_groups_leave_the_bank_as_their_task_begins_and_return_as_it_ends():
    bank = parked(("a",), drawn(1, "a"))
    state = bank.init(key(0), params())
    begun, state = bank.begin_task(params(), state, task(2))
    assert identical(begun["a"], tree.index(state.rows["a"], 2))
    assert identical(begun["shared"], params()["shared"])
    trained = begun | {"a": {"w": torch.ones(2)}}
    ended, state = bank.end_task(trained, state)
    other, state = bank.begin_task(ended, state, task(0))
    assert not identical(other["a"], trained["a"])
    assert identical(bank.lookup(other, state, task(2))["a"], trained["a"])
    assert identical(bank.begin_task(other, state, task(2))[0]["a"], trained["a"])


def test_without_names_a_bank_keeps_every_group():
    def start(key_, params):
        return repeated(params, TASKS)

    bank = parked(None, start)
    state = bank.init(key(0), params())
    begun, state = bank.begin_task(params(), state, task(0))
    trained = tree.map(lambda leaf: leaf + 1, begun)
    assert bank.groups is None
    assert identical(tree.index(bank.rows(trained, state), 0), trained)


def test_banks_in_fields_of_a_state_are_one_bank_that_leaves_other_fields_alone():
    bank, begun, state = two()
    begun, state = bank.begin_task(begun, state, task(1))
    assert bank.groups == ("a", "b") and int(state.steps) == 7
    rows = bank.rows(begun, state)
    assert set(rows) == {"a", "b"}
    assert identical(tree.index(rows, 1), {"a": begun["a"], "b": begun["b"]})


def test_what_is_restored_is_in_the_bank_and_in_the_parameters():
    bank, begun, state = two()
    begun, state = bank.begin_task(begun, state, task(1))
    rows = tree.map(lambda leaf: leaf + 3, bank.rows(begun, state))
    restored, after = bank.restore(begun, state, rows, torch.zeros(TASKS, dtype=torch.bool))
    assert identical(bank.rows(restored, after), rows)
    assert identical(restored["a"], tree.index(rows["a"], 1))
    assert identical(restored["shared"], begun["shared"])


def test_a_bank_without_rows_changes_nothing():
    bank = shared()
    state = bank.init(key(0), params())
    assert identical(bank.begin_task(params(), state, task(0)), (params(), state))
    assert identical(bank.lookup(params(), state, task(0)), params())
    assert bank.rows(params(), state) == {} and bank.groups == ()


def test_a_bank_in_fields_has_no_init_of_its_own_unless_it_can_make_the_state():
    bank, begun, _ = two()
    with pytest.raises(TypeError, match="an algorithm's init makes"):
        bank.init(key(0), begun)
