"""`scan` and its engines: what jax.lax.scan promises, and that a compiled carry touches nothing of
its caller's.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import clfunc as cl
from clfunc import tree
from clfunc.engine import cudagraph as graphs
from clfunc.engine import scan as engine
from clfunc.engine.compiled import find_moves
from clfunc.engine.programs import programs
from clfunc.engine.scan import scan
from clfunc.random import key
from clfunc.testing import toy_stream
from clfunc.testing.laws import distance, identical


def add_up(carry, x):
    total, held = carry
    return (total + x, held), {"total": total + x}


@given(st.integers(1, 9), st.integers(1, 4))
def test_scan_is_a_loop_and_log_every_keeps_means(steps, every):
    xs = torch.arange(1, steps + 1, dtype=torch.float64)
    (total, _), ys = scan(
        add_up, (torch.zeros((), dtype=torch.float64), torch.ones(2)), xs, log_every=every
    )
    totals = xs.cumsum(0)
    assert total == totals[-1]
    expected = [totals[i : i + every].mean() for i in range(0, steps, every)]
    torch.testing.assert_close(ys["total"], torch.stack(expected))


def test_scan_refuses_no_steps_and_unknown_engines_in_one_line():
    with pytest.raises(ValueError, match="length 0"):
        scan(add_up, (torch.zeros(()), torch.ones(2)), torch.zeros(0))
    with pytest.raises(ValueError, match="auto, eager, trace, compile, cudagraph, given 'jit'"):
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
    assert find_moves(swap, carry, xs[0]) == ("borrowed", "computed", "fixed")


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
    assert identical(
        scan(step, (one, one), xs, engine=engine), scan(step, (one, one), xs, engine="eager")
    )


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


def test_a_cuda_graph_is_refused_off_cuda_in_one_line_before_anything_runs(tmp_path):
    def step(carry, x):
        raise AssertionError("ran")

    with pytest.raises(
        ValueError,
        match="engine='cudagraph' needs a CUDA device, given cpu: use auto, compile or eager",
    ) as error:
        scan(step, (torch.zeros(2),), torch.zeros(1), engine="cudagraph")
    assert "\n" not in str(error.value)
    scenario = toy_stream()
    algorithm = cl.finetuning(cl.mlp(scenario.inputs, (3,), scenario.head()), cl.sgd(0.1))._replace(
        step=step
    )
    for where in (None, "cpu"):
        with pytest.raises(ValueError, match="needs a CUDA device, given cpu"):
            cl.run(
                algorithm, scenario, key(0), engine="cudagraph", device=where, out=tmp_path / "out"
            )
    assert not (tmp_path / "out").exists()


class Replay:
    """Stands in for a CUDA graph: runs the program again on the tensors that it was captured with."""

    def __init__(self, program, carry, xs):
        self.replay = lambda: [
            old.copy_(new) for old, new in zip(self.ys, program(*carry, *xs), strict=True)
        ]
        self.ys = [y.clone() for y in program(*carry, *xs)]


def captured(program, carry, xs):
    graph = Replay(program, carry, xs)
    return graph, graph.ys


def run_steps(step, carry, xs, size, moves):
    """A scan by a graph, two chunks at a time, with the program called as it is."""
    structure = tree.structure(carry)

    def program(*leaves):
        count = len(moves)
        new, y = tree.unflatten(list(leaves[:count]), structure), None
        for x in leaves[count]:
            new, y = step(new, x)
        for buffer, value, how in zip(leaves, tree.clone(tree.leaves(new)), moves, strict=False):
            if how != "fixed":
                buffer.copy_(value)
        return tree.leaves(tree.clone(y))

    leaves, ys, made = tree.clone(tree.leaves(carry)), [], []
    for part in xs.split(2 * size):
        chunks = [(chunk,) for chunk in part.split(size)]
        if not made or not made[-1].fits(leaves):
            made.append(graphs.Graph(program, leaves, [how == "fixed" for how in moves], chunks[0]))
        ys += made[-1].run_chunks(leaves, chunks)
    return tree.unflatten(leaves, structure), ys, made


@pytest.mark.parametrize("small", [0, 2**16])
def test_a_graph_replayed_over_chunks_is_the_program_called_on_each(monkeypatch, small):
    monkeypatch.setattr(graphs, "_captured", captured)
    monkeypatch.setattr(graphs, "SMALL", small)
    carry, xs = (torch.zeros(3), torch.ones(3), torch.full((3,), 7.0)), torch.arange(1.0, 13.0)
    expected, returned = scan(swap, carry, xs)
    found, ys, made = run_steps(swap, carry, xs, 2, ("borrowed", "computed", "fixed"))
    assert identical(found, expected) and len(made) == 1
    assert torch.equal(torch.stack([y for (y,) in ys]), returned["a"][1::2])
    assert not made[0].fits([leaf.clone() for leaf in tree.leaves(found)]) or small


@pytest.mark.compiled
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("runs", [1, 3])
def test_a_cuda_graph_arrives_where_eager_steps_do(runs):
    scenario = toy_stream()
    algorithm = cl.hat(
        cl.mlp(scenario.inputs, (6, 5), scenario.head()), cl.sgd(0.1, 0.9), num_tasks=3
    )
    keys = cl.random.split(key(0), runs)
    eager, graph = (
        cl.run(
            algorithm,
            scenario,
            keys,
            batch_size=8,
            epochs=2,
            engine=e,
            device="cuda",
            progress=False,
        )
        for e in ("eager", "cudagraph")
    )
    assert graph.engine == "cudagraph"
    assert (
        distance((eager.params, eager.training.values), (graph.params, graph.training.values))
        <= 1e-4
    )


@pytest.mark.compiled
def test_a_program_is_found_in_the_compile_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.utils.counters.clear()
    first = scan(
        swap, (torch.zeros(5), torch.ones(5), torch.ones(5)), torch.ones(2), engine="compile"
    )
    programs.clear()
    again = scan(
        swap, (torch.zeros(5), torch.ones(5), torch.ones(5)), torch.ones(2), engine="compile"
    )
    found = torch._dynamo.utils.counters["aot_autograd"]
    assert identical(first, again)
    assert (found["autograd_cache_miss"], found["autograd_cache_hit"]) == (1, 1)
