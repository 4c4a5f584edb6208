"""Each engine gives what a loop gives, whatever a step does with its leaves and whatever it was
first called with.
"""

import pytest
import torch

from clfunc import finetuning, mlp, scenarios, sgd, tree
from clfunc.driver.loop import make_step
from clfunc.engine import cudagraph as graphs
from clfunc.engine.compiled import find_moves
from clfunc.engine.scan import scan
from clfunc.random import key
from clfunc.testing import toy_stream
from clfunc.testing.laws import identical
from clfunc.testing.play import toy_data

XS = torch.arange(1.0, 7.0)


def returned(carry, x):
    return (carry[0] + x, carry[1]), {"as it was": carry[0]}


def lagging(carry, x):
    now, before = carry
    return (now + x, now), {"drift": (now - before).sum()}


def cloned(carry, x):
    now, before = carry
    return (now + x, now.clone()), {"drift": (now - before).sum()}


def crossed(carry, x):
    a, b = carry
    return (b, a), {"drift": x * (a - b).sum()}


def of_a_table(carry, x):
    table, row = carry
    return (table + x, table[1]), {"row": row.sum()}


def sides(carry, x):
    table, other = carry
    return (table + x, table.T), {"other": other[0, 1] + other.sum()}


TABLE = torch.arange(6.0).reshape(2, 3)
SQUARE = torch.arange(9.0).reshape(3, 3)
STEPS = {
    "a y is a leaf": (returned, (torch.zeros(()), torch.ones(2))),
    "a leaf follows another": (lagging, (torch.zeros(3), torch.ones(3))),
    "a leaf follows a clone of another": (cloned, (torch.zeros(3), torch.ones(3))),
    "two leaves change places": (crossed, (torch.zeros(3), torch.ones(3))),
    "a leaf is a row of another": (of_a_table, (TABLE, torch.ones(3))),
    "a leaf is another transposed": (sides, (SQUARE, torch.ones(3, 3))),
}


def loop(step, carry, xs):
    ys = []
    for x in xs:
        carry, y = step(carry, x)
        ys.append(y)
    return carry, tree.stack(ys)


@pytest.mark.parametrize(
    "how",
    ["trace", *(pytest.param(unroll, marks=pytest.mark.compiled) for unroll in (1, 2))],
    ids=str,
)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_may_hand_its_leaves_about(name, how):
    step, carry = STEPS[name]
    engine = {"engine": "trace"} if how == "trace" else {"engine": "compile", "unroll": how}
    assert identical(scan(step, carry, XS, **engine), loop(step, carry, XS))


@pytest.mark.compiled
def test_copies_keep_signs_of_zero_and_numbers_that_are_not():
    carry = (torch.tensor([0.0, -0.0, torch.nan, -torch.inf]), torch.tensor([1.0, 2, 3, 4]))
    for a, b in zip(scan(crossed, carry, XS[:1], engine="compile")[0], carry[::-1], strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()
    flags = (torch.tensor([True, False]), torch.tensor([True, True]))

    def flipped(carry, x):
        return (carry[1], carry[0]), {"x": x + carry[0].sum()}

    assert identical(scan(flipped, flags, XS[:1], engine="compile"), loop(flipped, flags, XS[:1]))


def test_leaves_that_begin_as_one_tensor_do_not_pass_for_handed_on():
    one = torch.zeros(3)
    assert find_moves(lagging, (one, one), XS[0]) == ("computed", "borrowed")
    assert find_moves(crossed, (one, one), XS[0]) == ("borrowed", "borrowed")
    assert find_moves(returned, (one, one), XS[0]) == ("computed", "fixed")


def test_what_a_step_does_is_found_for_each_shape_and_dtype():
    def step(carry, x):
        (a,) = carry
        return (a + x if len(a) > 2 or a.dtype == torch.float64 else a,), {"sum": a.sum()}

    found = [
        find_moves(step, (torch.zeros(size, dtype=dtype),), XS[0])
        for size, dtype in ((2, torch.float32), (3, torch.float32), (2, torch.float64))
    ]
    assert found == [("fixed",), ("computed",), ("computed",)]


@pytest.mark.parametrize("how", ["trace", pytest.param("compile", marks=pytest.mark.compiled)])
def test_a_program_serves_only_carries_of_the_kind_that_it_was_made_for(how):
    def step(carry, x):
        a, b = carry.values()
        flat = a.reshape(-1) * (2 if a.shape[0] > a.shape[1] else 1)
        y = {"sum": flat.sum() + b.sum() + torch.finfo(a.dtype).bits}
        return dict(zip(carry, (a + x, b), strict=True)), y

    wide = torch.arange(6.0).reshape(2, 3)
    carries = [
        {"a": wide, "b": wide},
        {"a": wide.T, "b": wide},  # of another shape
        {"a": wide.T.contiguous().T, "b": wide},  # of other strides
        {"a": wide.double(), "b": wide},  # of another dtype
        {"b": wide, "a": 2 * wide},  # of another structure
    ]
    for carry in carries:
        assert identical(scan(step, carry, XS[:2], engine=how), loop(step, carry, XS[:2]))
    for xs in (XS[:2, None].expand(2, 3), XS[:2].double()):
        assert identical(scan(step, carries[3], xs, engine=how), loop(step, carries[3], xs))


def test_operations_are_found_anew_while_a_carry_changes_its_kind():
    def step(carry, x):
        (a,) = carry
        wider = {torch.float16: torch.float32, torch.float32: torch.float64}.get(a.dtype)
        return ((2 * a).to(wider) if wider else a + x,), {"sum": a.sum().double()}

    carry = (torch.ones(2, dtype=torch.float16),)
    assert identical(scan(step, carry, XS, engine="trace"), loop(step, carry, XS))


def test_two_steps_of_one_shape_are_two_lists_of_operations():
    def times(n):
        return lambda carry, x: (carry * n + x, {"sum": carry.sum()})

    assert [scan(times(n), torch.ones(2), XS[:1], engine="trace")[0].tolist() for n in (2, 3)] == [
        [3, 3],
        [4, 4],
    ]


def test_a_graph_fits_only_where_every_large_leaf_lies_in_its_own_place(monkeypatch):
    monkeypatch.setattr(graphs, "SMALL", 0)
    monkeypatch.setattr(graphs, "_captured", lambda *args: (None, []))
    a, b = torch.zeros(3), torch.ones(3)
    graph = graphs.Graph(lambda *leaves: [], (a, b), (True, True), (XS,))
    assert graph.fits((a, b)) and not graph.fits((b, a)) and not graph.fits((a, b.clone()))


def test_a_step_is_kept_for_one_learner_one_view_and_one_number_of_runs():
    one, other = toy_stream(), scenarios.rotated(toy_data(), 2, key(0))
    mixed = one._replace(mixed=True)

    algorithm = finetuning(mlp(one.inputs, (3,), one.head()), sgd(0.1))
    ways = ((one, None), (one, 2), (one, 3), (other, None), (mixed, None))
    steps = [make_step(algorithm, *way) for way in ways]
    assert len(set(steps)) == 5 and make_step(algorithm, one, None) is steps[0]
