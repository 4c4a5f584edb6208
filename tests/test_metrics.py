"""Every metric is its formula in plain loops, reads no task before it was trained, and is NaN where
it has no value.
"""

import inspect
import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from clfunc import metrics

RUNS = ((), (3,), (2, 2))


def average_accuracy(a, independent, joint, random):
    return [sum(a[n][t] for t in range(n + 1)) / (n + 1) for n in range(len(a))]


def backward_transfer(a, independent, joint, random):
    return [sum(a[n][t] - a[t][t] for t in range(n)) / n if n else math.nan for n in range(len(a))]


def forgetting(a, independent, joint, random):
    def drop(n, t):
        return max(a[m][t] for m in range(t, n)) - a[n][t]

    return [sum(drop(n, t) for t in range(n)) / n if n else math.nan for n in range(len(a))]


def forward_transfer(a, independent, joint, random):
    return [
        sum(a[t][t] - independent[t] for t in range(1, n + 1)) / n if n else math.nan
        for n in range(len(a))
    ]


def forgetting_ratio(a, independent, joint, random):
    def share(n, t):
        return (a[n][t] - random[t]) / (joint[t] - random[t])

    return [sum(share(n, t) for t in range(n + 1)) / (n + 1) - 1 for n in range(len(a))]


NAIVE = {
    f.__name__: f
    for f in (average_accuracy, backward_transfer, forgetting, forward_transfer, forgetting_ratio)
}
READS = {  # whether the value after task n (from 0) reads a[m, t]
    "average_accuracy": lambda n, m, t: m == n and t <= n,
    "backward_transfer": lambda n, m, t: t < n and m in (n, t),
    "forgetting": lambda n, m, t: t < n and t <= m <= n,
    "forward_transfer": lambda n, m, t: 0 < t == m <= n,
    "forgetting_ratio": lambda n, m, t: m == n and t <= n,
}
COMPAT = ("average_accuracy", "backward_transfer", "forward_transfer", "forgetting_ratio")


def uniform(shape, seed, low=0.0, high=1.0):
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


@st.composite
def measured(draw):
    """An accuracy array with NaN above its diagonal, and each task's independent, joint and random
    accuracy.
    """
    trained, more = draw(st.integers(1, 6)), draw(st.integers(0, 2))
    runs, seed = draw(st.sampled_from(RUNS)), draw(st.integers(0, 10**6))
    tested = trained + more
    acc = uniform((trained, tested, *runs), seed)
    for n, t in product(range(trained), range(tested)):
        if t > n:
            acc[n, t] = math.nan
    references = [
        uniform((tested, *runs), seed + i, *bounds)
        for i, bounds in ((1, (0, 1)), (2, (0.6, 1)), (3, (0, 0.4)))
    ]
    return acc, *references


def call(name, acc, independent, joint, random, **more):
    """The metric, given those of the references that it takes."""
    known = {"independent": independent, "joint": joint, "random": random}
    function = getattr(metrics, name)
    taken = {key: known[key] for key in inspect.signature(function).parameters if key in known}
    return function(acc, **taken, **more)


@pytest.mark.parametrize("name", NAIVE)
@given(arrays=measured())
def test_every_value_is_its_formula_in_plain_loops_for_each_run(name, arrays):
    value, acc = call(name, *arrays), arrays[0]
    runs = acc.shape[2:]
    assert value.shape == (acc.shape[0], *runs)
    for run in product(*map(range, runs)):
        plain = [array[(..., *run)].tolist() for array in arrays]
        assert_close(
            value[(..., *run)].tolist(), NAIVE[name](*plain), rtol=1e-12, atol=1e-12, equal_nan=True
        )


@pytest.mark.parametrize("name", NAIVE)
@given(arrays=measured())
def test_every_value_exists_but_those_that_need_an_earlier_task_and_have_none(name, arrays):
    missing = call(name, *arrays).isnan()
    alone = name in ("backward_transfer", "forgetting", "forward_transfer")
    assert missing[0].all() == alone
    assert not missing[1:].any()


@pytest.mark.parametrize("name", NAIVE)
@given(arrays=measured(), data=st.data())
def test_every_value_reads_the_accuracies_of_its_formula_and_no_others(name, arrays, data):
    acc, *references = arrays
    m = data.draw(st.integers(0, acc.shape[0] - 1))
    t = data.draw(st.integers(0, acc.shape[1] - 1))
    before, changed = call(name, *arrays), acc.clone()
    changed[m, t] = math.nan
    after = call(name, changed, *references)
    for n, (old, new) in enumerate(zip(before, after, strict=True)):
        if READS[name](n, m, t):
            assert new.isnan().all()
        else:
            assert_close(new, old, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "reference"),
    [("forward_transfer", 0), ("forgetting_ratio", 1), ("forgetting_ratio", 2)],
)
@given(arrays=measured(), data=st.data())
def test_every_value_reads_the_references_of_the_tasks_seen_only(name, reference, arrays, data):
    acc, *references = arrays
    t = data.draw(st.integers(0, acc.shape[1] - 1))
    before = call(name, *arrays)
    references[reference] = references[reference].clone()
    references[reference][t] = math.nan
    after = call(name, acc, *references)
    for n, (old, new) in enumerate(zip(before, after, strict=True)):
        if t <= n and not (name == "forward_transfer" and t == 0):
            assert new.isnan().all()
        else:
            assert_close(new, old, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", NAIVE)
@given(arrays=measured())
def test_no_value_depends_on_what_is_above_the_diagonal(name, arrays):
    acc, *references = arrays
    assert_close(
        call(name, acc.nan_to_num(0.77), *references),
        call(name, *arrays),
        rtol=0,
        atol=0,
        equal_nan=True,
    )


@pytest.mark.parametrize("name", NAIVE)
@given(arrays=measured())
def test_no_metric_writes_to_its_arguments(name, arrays):
    before = [array.clone() for array in arrays]
    call(name, *arrays)
    assert_close(list(arrays), before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", COMPAT)
@given(arrays=measured())
def test_every_value_that_clarena_prints_is_kept_and_every_other_is_nan(name, arrays):
    value, printed = call(name, *arrays), call(name, *arrays, compat="clarena")
    tasks = len(value)
    rows = {"backward_transfer": range(2, tasks), "forgetting_ratio": range(tasks - 1, tasks)}.get(
        name, range(tasks)
    )
    for n in range(tasks):
        if n in rows:
            assert_close(printed[n], value[n], rtol=0, atol=0, equal_nan=True)
        else:
            assert printed[n].isnan().all()


@given(measured())
def test_every_metric_has_its_meaning_at_the_ends_of_its_range(arrays):
    acc, independent, joint, random = arrays
    diagonal = torch.stack([acc[t, t] for t in range(len(acc))])
    steady = torch.cat([diagonal, independent[len(acc) :]]).expand(acc.shape)
    zeros = torch.zeros_like(acc[:, 0])
    assert_close(metrics.average_accuracy(torch.ones_like(acc)), zeros + 1)
    assert_close(metrics.backward_transfer(steady)[1:], zeros[1:])
    assert_close(metrics.forgetting(steady)[1:], zeros[1:])
    assert_close(metrics.forward_transfer(steady, steady[0])[1:], zeros[1:])
    assert_close(metrics.forgetting_ratio(joint.expand(acc.shape), joint, random), zeros)
    assert_close(metrics.forgetting_ratio(random.expand(acc.shape), joint, random), zeros - 1)


def test_the_values_of_a_small_table_are_those_worked_out_by_hand():
    nan = math.nan
    acc = torch.tensor([[0.9, nan, nan], [0.7, 0.8, nan], [0.8, 0.5, 0.6]], dtype=torch.float64)
    tasks = [
        torch.tensor(row, dtype=torch.float64)
        for row in ([0.5, 0.9, 0.7], [1.0, 1.0, 0.8], [0.5, 0.5, 0.3])
    ]
    expected = {
        "average_accuracy": [0.9, 0.75, 1.9 / 3],
        "backward_transfer": [nan, -0.2, -0.2],
        "forgetting": [nan, 0.2, 0.2],
        "forward_transfer": [nan, -0.1, -0.1],
        "forgetting_ratio": [-0.2, -0.5, (0.6 + 0.0 + 0.6) / 3 - 1],
    }
    for name, values in expected.items():
        assert_close(
            call(name, acc, *tasks).tolist(), values, equal_nan=True, rtol=1e-12, atol=1e-12
        )
