"""`scan` and its engines: what jax.lax.scan promises, and that a compiled carry touches nothing of its caller's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clfunc import engine, tree
from clfunc.engine import scan
from clfunc.testing.laws import identical


def add_up(carry, x):
    total, held = carry
    return (total + x, held), {"total": total + x}


@given(st.integers(1, 9), st.integers(1, 4))
def test_scan_is_a_loop_and_log_every_keeps_means(steps, every):
    xs = torch.arange(1, steps + 1, dtype=torch.float64)
    (total, _), ys = scan(add_up, (torch.zeros((), dtype=torch.float64), torch.ones(2)), xs, log_every=every)
    totals = xs.cumsum(0)
    assert total == totals[-1]
    expected = [totals[i : i + every].mean() for i in range(0, steps, every)]
    torch.testing.assert_close(ys["total"], torch.stack(expected))


def test_scan_refuses_no_steps_and_unknown_engines_in_one_line():
    with pytest.raises(ValueError, match="length 0"):
        scan(add_up, (torch.zeros(()), torch.ones(2)), torch.zeros(0))
    with pytest.raises(ValueError, match="auto, eager, trace, compile, given 'jit'"):
        scan(add_up, (torch.zeros(()), torch.ones(2)), torch.zeros(1), engine="jit")


def swap(carry, x):
    a, b, c = carry
    return (b, a + x, c), {"a": a.sum()}


@pytest.mark.compiled
@pytest.mark.parametrize("unroll", [1, 3])
def test_a_compiled_carry_may_swap_its_leaves_and_touches_nothing_of_the_callers(unroll):
    carry = (torch.zeros(3), torch.ones(3), torch.full((3,), 7.0))
    before, xs = tree.clone(carry), torch.arange(1.0, 8.0)
    expected = scan(swap, carry, xs)
    assert identical(scan(swap, carry, xs, engine="compile", unroll=unroll), expected)
    assert identical(carry, before)
    assert engine._moves(swap, carry, xs[0]) == ("borrowed", "computed", "fixed")


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64])
def test_a_number_that_counts_counts_on_across_compiled_chunks(dtype):
    carry, xs = (torch.zeros((), dtype=dtype), torch.ones(2)), torch.arange(6, dtype=dtype)
    assert identical(scan(add_up, carry, xs, engine="compile", unroll=2), scan(add_up, carry, xs))


@pytest.mark.compiled
def test_more_programs_than_torch_keeps_for_one_function_can_be_compiled():
    for n in range(10):

        def step(carry, x, n=n):
            return carry + x * n, {"sum": carry.sum()}

        assert scan(step, torch.zeros(2), torch.ones(1), engine="compile")[0].tolist() == [n, n]


@pytest.mark.parametrize("engine", ["trace", pytest.param("compile", marks=pytest.mark.compiled)])
def test_leaves_that_begin_as_one_tensor_may_part(engine):
    def step(carry, x):
        a, b = carry
        return (a + x, b + 2 * x), {"sum": (a + b).sum()}

    one, xs = torch.zeros(3), torch.ones(4)
    assert identical(scan(step, (one, one), xs, engine=engine), scan(step, (one, one), xs, engine="eager"))


def test_auto_says_that_there_is_no_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    plan = engine.plan("auto", add_up, (torch.zeros(()), torch.ones(2)), torch.tensor(1.0), 10**9)
    assert plan.engine == "trace" and "no C++ compiler found" in plan.why


@pytest.mark.parametrize("steps, chosen", [(10, "eager"), (10**12, "compile")])
def test_auto_compiles_only_what_is_long_enough_to_pay(steps, chosen):
    plan = engine.plan("auto", add_up, (torch.zeros(()), torch.ones(2)), torch.tensor(1.0), steps)
    assert plan.engine == chosen and plan.why


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64])
@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_a_compiled_count_goes_on_counting(shape, dtype):
    def step(carry, x):
        return carry + 1, {"sum": carry.sum()}

    start = torch.zeros(shape, dtype=dtype)
    total, ys = scan(step, start, torch.ones(6), engine="compile", unroll=2)
    assert (total == 6).all() and len(set(ys["sum"].tolist())) == 6
