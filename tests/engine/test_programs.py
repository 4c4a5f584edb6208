"""A second run of the same job makes no program; what differs has its own, and each its own result."""

import pytest
import torch

import clfunc as cl
from clfunc.engine import scan as engine
from clfunc.engine.identity import identity
from clfunc.engine.programs import Programs, Step, programs
from clfunc.random import key, split
from clfunc.testing import toy_stream
from clfunc.testing.laws import distance, identical

COMPILED = pytest.param("compile", marks=pytest.mark.compiled)


def trained(engine="eager", lr=0.1, runs=None, mask=None, loss=None):
    """A run of a job of which every part is built anew."""
    scenario = toy_stream()
    model = cl.mlp(scenario.inputs, (8, 6), scenario.head())
    tx = cl.sgd(lr, 0.9) if mask is None else cl.chain(cl.sgd(lr, 0.9), cl.mask_updates(mask))
    algorithm = cl.finetuning(model, tx, **({"loss": loss} if loss else {}))
    keys = key(1) if runs is None else split(key(1), runs)
    return cl.run(algorithm, scenario, keys, batch_size=8, engine=engine, progress=False)


def square(logits, batch):
    return logits.square().mean()


@pytest.fixture
def traces(monkeypatch):
    """Counts what is traced, which comes before whatever is compiled."""
    made = []

    def counted(f, leaves):
        made.append(f)
        return traced(f, leaves)

    traced = engine.traced
    for module in ("scan", "compiled", "trace"):
        monkeypatch.setattr(f"clfunc.engine.{module}.traced", counted)
    programs.clear()
    return made


@pytest.mark.parametrize("engine", ["trace", COMPILED])
@pytest.mark.parametrize("runs", [None, 2])
def test_a_second_run_of_a_job_built_again_makes_no_program(traces, engine, runs):
    first = trained(engine, runs=runs)
    assert traces
    before, made = len(traces), programs.made.copy()
    second = trained(engine, runs=runs)
    assert len(traces) == before and programs.made == made
    assert identical((first.params, first.training), (second.params, second.training))


@pytest.mark.parametrize("engine", ["trace", COMPILED])
def test_jobs_that_differ_in_numbers_share_programs_and_have_their_own_results(traces, engine):
    trained(engine, lr=0.1)
    before = len(traces)
    found = trained(engine, lr=0.02)
    assert len(traces) == before
    assert distance(found.params, trained("eager", lr=0.02).params) <= 1e-5
    assert distance(found.params, trained("eager", lr=0.1).params) > 1e-3


DIFFERENT = {"loss": {"loss": square}, "mask": {"mask": {"hidden1": False}}}


@pytest.mark.parametrize("name", DIFFERENT)
def test_jobs_that_differ_in_anything_else_share_nothing(traces, name):
    trained("trace")
    before = len(traces)
    found = trained("trace", **DIFFERENT[name])
    assert len(traces) > before
    assert identical(found.params, trained("eager", **DIFFERENT[name]).params)


def test_a_step_that_was_replaced_in_an_algorithm_is_the_step_that_runs(traces):
    scenario = toy_stream()
    algorithm = cl.finetuning(cl.mlp(scenario.inputs, (3,), scenario.head()), cl.sgd(0.1))

    def still(params, state, batch):
        return params, state, algorithm.step(params, state, batch)[2]

    how = {"batch_size": 8, "engine": "trace", "progress": False}
    moved = cl.run(algorithm, scenario, key(0), **how)
    kept = cl.run(algorithm._replace(step=still), scenario, key(0), **how)
    start = algorithm.init(split(key(0))[0])[0]
    assert identical(kept.params["hidden1"], start["hidden1"])
    assert not identical(moved.params["hidden1"], start["hidden1"])


def test_steps_of_one_identity_share_a_program_and_plain_functions_do_not(traces):
    def times(n):
        return lambda carry, x: (carry * n + x, {"sum": carry.sum()})

    xs = torch.ones(1)
    for n in (2, 3):
        engine.scan(times(n), torch.ones(2), xs, engine="trace")
    assert len(traces) == 2
    for n in (4, 4):
        engine.scan(Step(times(n), identity(n)), torch.ones(2), xs, engine="trace")
    assert len(traces) == 3


def test_the_program_whose_last_use_is_the_longest_ago_is_dropped():
    cache = Programs(most=2)
    for name in ("a", "b", "a", "c", "a", "b"):
        assert cache.find("program", name, name.upper) == name.upper()
    assert cache.made["program"] == 4
    cache.clear()
    cache.find("program", "b", str)
    assert cache.made["program"] == 5


def test_a_setting_of_torch_that_decides_a_program_is_part_of_its_key():
    cache = Programs()
    cache.find("program", "a", str)
    torch.set_default_dtype(torch.float64)
    try:
        cache.find("program", "a", str)
    finally:
        torch.set_default_dtype(torch.float32)
    cache.find("program", "a", str)
    assert cache.made["program"] == 2


def test_what_cannot_be_made_is_not_kept():
    cache = Programs()
    with pytest.raises(ZeroDivisionError):
        cache.find("program", "a", lambda: 1 / 0)
    assert cache.find("program", "a", str) == "" and cache.made["program"] == 1
