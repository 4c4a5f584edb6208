"""The laws about engines: a traced or compiled step computes what the eager step computes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.driver.evaluate import bare, over_runs, with_runs
from clfunc.driver.run import run
from clfunc.engine.programs import programs
from clfunc.engine.scan import scan
from clfunc.engine.sweep import sweep
from clfunc.random import key, split
from clfunc.scenarios import Scenario, Stream, epoch_entries
from clfunc.testing.case import Case
from clfunc.testing.compare import TOLERANCE, distance, identical
from clfunc.testing.play import play
from clfunc.types import Algorithm, Keys, Task

BATCH_SIZE = 8
STEPS = 4  # of a task


class Way(NamedTuple):
    """A way of running a step: alone (`members` 0) or as a sweep of so many members."""

    momentum: float | None
    members: int
    unroll: int  # steps of a compiled program


def tracing_changes_no_bit(case: Case) -> None:
    """The traced step of a sweep computes the bits of its eager step."""
    _assert_tracing_changes_no_bit(case, sweep(case.members()[:2]), split(key(6), 2))


def tracing_changes_no_bit_of_a_run_alone(case: Case) -> None:
    """The traced step of a run alone computes the bits of its eager step."""
    _assert_tracing_changes_no_bit(case, case.members()[0], key(6))


def _assert_tracing_changes_no_bit(case: Case, algorithm: Algorithm, keys: Keys) -> None:
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 20, "progress": False}
    eager = run(algorithm, case.scenario(), keys, engine="eager", **settings)
    traced = run(algorithm, case.scenario(), keys, engine="trace", **settings)
    carries_agree = identical((eager.params, eager.state), (traced.params, traced.state))
    assert carries_agree, "tracing changes parameters or state"
    assert identical(eager.training, traced.training), "tracing changes metrics"


def engines_agree(case: Case) -> None:
    """A compiled step computes what the eager step computes, to rounding: alone, one step a program,
    without momentum; and as a sweep, two steps a program, with momentum.
    """
    ways = (
        Way(momentum=None, members=0, unroll=1),
        Way(momentum=0.9, members=3, unroll=2),
    )
    for way in ways:
        _assert_engines_agree(case, way)


def engines_agree_in_every_way(case: Case) -> None:
    """A compiled step computes what the eager step computes, to rounding, for every pair of a size
    of the sweep with momentum or without.
    """
    for momentum in (None, 0.9):
        for members in (0, 1, 3):
            way = Way(momentum=momentum, members=members, unroll=1 if momentum else 2)
            _assert_engines_agree(case, way)


def one_program_for_all_tasks(case: Case) -> None:
    """`torch.compile(fullgraph=True)` traces the step, and a run compiles it once for all tasks,
    epochs and steps.
    """
    torch.compiler.reset()
    members = case.members()[:2]
    is_traced = False

    def call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal is_traced
        if name == "step" and not is_traced:
            is_traced = True
            function = torch.compile(function, fullgraph=True, backend="eager")
        return function(*arguments)

    play(members[0], case.scenario(), key(6), call)

    programs.clear()
    before = programs.made["compile"]
    settings: dict[str, Any] = {
        "epochs": 2,
        "batch_size": BATCH_SIZE,
        "engine": "compile",
        "progress": False,
    }
    run(sweep(members), case.scenario(), split(key(6), 2), **settings)
    found = programs.made["compile"] - before
    expected = 1 if members[0].review is None else 2  # one of steps, one of reviews
    assert found == expected, f"compiled {found} programs, not {expected}"


def _assert_engines_agree(case: Case, way: Way) -> None:
    """Assert that both engines agree on every step of every task; the eager one carries on."""
    members = case.members(momentum=way.momentum)
    runs = way.members or None
    algorithm = members[0] if runs is None else sweep(members[:runs])
    keys = key(2) if runs is None else split(key(2), runs)
    scenario = case.scenario()
    step = _scanned_step(algorithm, scenario, runs)

    params, state = algorithm.init(keys)
    for phase in range(len(scenario.phases)):
        stream = with_runs(scenario, scenario.train(phase), runs)
        task = Task(
            id=stream.task,
            steps_per_epoch=torch.full_like(stream.task, STEPS),
            epochs=torch.full_like(stream.task, STEPS),
        )
        params, state = algorithm.begin_task(params, state, task)
        for chunk in _entries(keys, stream, runs).split(way.unroll):
            carry = (params, state, scenario.data, bare(stream))
            before = tree.clone(carry)
            eager = scan(step, carry, chunk, engine="eager", unroll=way.unroll)
            compiled = scan(step, carry, chunk, engine="compile", unroll=way.unroll)
            assert identical(before, carry), "the compiled engine wrote to its caller's carry"
            far = distance(eager, compiled)
            is_near = far <= way.unroll * TOLERANCE[torch.float32]
            assert is_near, f"runs={runs}: compiled is {far:.1e} from eager"
            params, state, _, _ = eager[0]
        params, state = algorithm.end_task(params, state)


def _scanned_step(
    algorithm: Algorithm,
    scenario: Scenario,
    runs: int | None,
) -> Callable[..., Any]:
    """`(carry, entries) -> (carry, metrics)`, as `scan` takes a step."""
    make = over_runs(scenario.batch, runs, (None, 0, 0))

    def step(carry: Any, entries: Tensor) -> tuple[Any, Any]:
        params, state, data, stream = carry
        batch = make(data, stream, entries)
        params, state, metrics = algorithm.step(params, state, batch)
        return (params, state, data, stream), metrics

    return step


def _entries(keys: Keys, stream: Stream, runs: int | None) -> Tensor:
    """The entries of a task's steps, `[steps, *runs, batch]`."""

    def draw(key: Tensor, stream: Stream) -> Tensor:
        return epoch_entries(key, stream, STEPS * BATCH_SIZE).reshape(STEPS, BATCH_SIZE)

    entries = over_runs(draw, runs)(keys, stream)
    if runs is None:
        return entries
    return entries.movedim(1, 0).contiguous()
