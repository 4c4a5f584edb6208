"""What a sweep takes, found by beginning one: the memory of each run, and the engine that pays."""

from typing import Any, NamedTuple

import torch

from clfunc import tree
from clfunc.driver.evaluate import AT_ONCE, bare, score, with_runs
from clfunc.driver.loop import make_step, steps_of
from clfunc.engine import scan as engines
from clfunc.engine.sweep import members, part, sweep
from clfunc.experiments import device_memory as memory
from clfunc.scenarios import Scenario, Stream
from clfunc.types import Algorithm, Keys, Params, State, Task

_SHARE = 0.5  # of the memory that there is: processes were seen to take up to 1.7 times what their tensors do


class Need(NamedTuple):
    """Bytes that a sweep takes: so many whatever its size, and so many more for each run."""

    fixed: int
    each: int

    def fit(self, room: int) -> int:
        """The runs that fit in so many bytes, at least one."""
        return max(1, int(_SHARE * room - self.fixed) // max(1, self.each))


def measure(
    algorithm: Algorithm, scenario: Scenario, key: Keys, batch_size: int
) -> tuple[Need, Need]:
    """What training takes and what testing takes, from rehearsals of one run and of two.

    Testing goes through a number of examples at a time, whatever the number of runs, so it adds to what runs hold an amount
    that one run tells.
    """
    near, runs = scenario.to(key.device), len(key)
    one = _begin(algorithm, near, key, 1)
    alone, held = _held(one) + memory.peak(lambda: _train(one, batch_size), key.device), _held(one)
    each = alone
    if runs > 1:
        two = _begin(algorithm, near, key, 2)
        each = _held(two) + memory.peak(lambda: _train(two, batch_size), key.device) - alone
    tested = near.test(0).test.shape[-1]
    batch = (
        memory.peak(lambda: _test(one), key.device)
        * min(AT_ONCE, runs * tested)
        // max(1, min(AT_ONCE, tested))
    )
    return Need(max(0, alone - each), max(1, each)), Need(batch, max(1, held))


class _Begun(NamedTuple):
    """A few runs, about to train their first task."""

    algorithm: Algorithm
    scenario: Scenario
    stream: Stream
    params: Params
    state: State
    runs: int

    @property
    def step(self) -> engines.StepFunction:
        return make_step(self.algorithm, self.scenario, self.runs)

    @property
    def carry(self) -> Any:
        return self.params, self.state, self.scenario.data, bare(self.stream)


def _begin(algorithm: Algorithm, scenario: Scenario, keys: Keys, runs: int) -> _Begun:
    chosen = list(range(runs))
    few = part(algorithm, chosen) if members(algorithm) else sweep([algorithm] * runs)
    own = scenario.part(chosen)
    with torch.no_grad():
        stream = with_runs(own, own.train(0), runs)
        task = Task(stream.task, *(torch.ones_like(stream.task) for _ in range(2)))
        return _Begun(few, own, stream, *few.begin_task(*few.init(keys[chosen]), task), runs)


def _held(begun: _Begun) -> int:
    return sum(leaf.nbytes for leaf in tree.leaves((begun.params, begun.state, begun.stream)))


def _train(begun: _Begun, batch_size: int) -> None:
    """Take two steps as `run` does, with an epoch's entries drawn, and what came before the steps still there."""
    carry = begun.carry
    with torch.no_grad():
        epoch = begun.stream.train.clone()
        entries = epoch[:, torch.arange(batch_size, device=epoch.device) % epoch.shape[-1]]
        for _ in range(2):
            carry, _ = begun.step(carry, entries)


def _test(begun: _Begun) -> None:
    stream = with_runs(begun.scenario, begun.scenario.test(0), begun.runs)
    with torch.no_grad():
        score(begun.algorithm, begun.scenario, begun.params, begun.state, stream, runs=begun.runs)


def choose(
    algorithm: Algorithm, scenario: Scenario, key: Keys, batch_size: int, epochs: int
) -> str:
    """The engine that `auto` comes to for these runs on this machine."""
    begun = _begin(algorithm, scenario.to(key.device), key, len(key))
    steps, entries = (
        epochs * sum(steps_of(scenario, batch_size)),
        begun.stream.train[:, :1].expand(-1, batch_size),
    )
    with torch.no_grad():
        return engines.plan("auto", begun.step, begun.carry, entries, steps).engine
