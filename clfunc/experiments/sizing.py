"""What a sweep needs, found by a trial of its beginning: the memory of each run, and the engine
that pays off.
"""

from typing import Any, NamedTuple

import torch

from clfunc import tree
from clfunc.driver.algorithm_record import read_algorithm
from clfunc.driver.evaluate import AT_ONCE, bare, score, with_runs
from clfunc.driver.loop import make_review, make_step, steps_of
from clfunc.engine import scan as engines
from clfunc.engine.sweep import members, part, sweep
from clfunc.experiments import device_memory
from clfunc.scenarios import Scenario, Stream
from clfunc.types import Algorithm, Keys, Params, State, Task

_SHARE = 0.5  # of the free memory: processes took up to 1.7 times what their tensors take


class Need(NamedTuple):
    """Bytes that a sweep takes: `fixed` for any number of runs, and `each` for every run."""

    fixed: int
    each: int

    def fit(self, room: int) -> int:
        """The runs that fit in `room` bytes, at least one."""
        return max(1, int(_SHARE * room - self.fixed) // max(1, self.each))


class _Trial(NamedTuple):
    """A few runs that are about to train their first task."""

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


def measure(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    batch_size: int,
) -> tuple[Need, Need]:
    """What training needs and what testing needs, from a trial of one run and of two.

    Args:
        algorithm: A sweep, or an algorithm by itself.
        scenario: As for `run`.
        key: `[runs, 2]`, on the device of the sweep.
        batch_size: Examples in a step of one run.
    """
    device = key.device
    near = scenario.to(device)
    runs = len(key)
    one = _begin(algorithm, near, key, 1)
    held = _held(one)
    need_of_one = held + device_memory.peak(lambda: _train(one, batch_size), device)
    each = need_of_one
    if runs > 1:
        two = _begin(algorithm, near, key, 2)
        need_of_two = _held(two) + device_memory.peak(lambda: _train(two, batch_size), device)
        each = need_of_two - need_of_one
    training = Need(fixed=max(0, need_of_one - each), each=max(1, each))

    # Testing takes at most AT_ONCE examples at a time, over all runs. So beside what the runs hold,
    # its memory grows with the examples at a time, and not with the runs.
    tested = near.test(0).test.shape[-1]
    peak_of_one = device_memory.peak(lambda: _test(one), device)
    at_once_of_one = max(1, min(AT_ONCE, tested))
    at_once_of_all = min(AT_ONCE, runs * tested)
    testing = Need(fixed=peak_of_one * at_once_of_all // at_once_of_one, each=max(1, held))
    return training, testing


def choose(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    batch_size: int,
    epochs: int,
) -> str:
    """The engine that `auto` chooses for these runs on this machine."""
    trial = _begin(algorithm, scenario.to(key.device), key, len(key))
    steps = epochs * sum(steps_of(scenario, batch_size))
    size = read_algorithm(algorithm).review_size(batch_size)
    steps += sum(steps_of(scenario, size)) if size else 0
    entries = trial.stream.train[:, :1].expand(-1, batch_size)
    with torch.no_grad():
        return engines.plan("auto", trial.step, trial.carry, entries, steps).engine


def _begin(
    algorithm: Algorithm,
    scenario: Scenario,
    keys: Keys,
    runs: int,
) -> _Trial:
    """The first `runs` runs at the beginning of their first task."""
    chosen = list(range(runs))
    few = part(algorithm, chosen) if members(algorithm) else sweep([algorithm] * runs)
    few_scenario = scenario.part(chosen)
    with torch.no_grad():
        stream = with_runs(few_scenario, few_scenario.train(0), runs)
        one = torch.ones_like(stream.task)
        task = Task(id=stream.task, steps_per_epoch=one, epochs=one)
        params, state = few.init(keys[chosen])
        params, state = few.begin_task(params, state, task)
    return _Trial(
        algorithm=few,
        scenario=few_scenario,
        stream=stream,
        params=params,
        state=state,
        runs=runs,
    )


def _held(trial: _Trial) -> int:
    """Bytes of what the runs hold before a step."""
    held = trial.params, trial.state, trial.stream
    return sum(leaf.nbytes for leaf in tree.leaves(held))


def _train(trial: _Trial, batch_size: int) -> None:
    """Take two steps as `run` does, and one of a review, with the entries of an epoch drawn, and the
    first params and state still held.
    """
    carry = trial.carry
    with torch.no_grad():
        epoch = trial.stream.train.clone()
        positions = torch.arange(batch_size, device=epoch.device) % epoch.shape[-1]
        entries = epoch[:, positions]
        for _ in range(2):
            carry, _ = trial.step(carry, entries)
        look = make_review(trial.algorithm, trial.scenario, trial.runs)
        if look is not None:
            size = read_algorithm(trial.algorithm).review_size(batch_size)
            shown = entries[:, :size]
            look(carry, (shown, torch.ones(shown.shape, device=shown.device)))


def _test(trial: _Trial) -> None:
    """Test the first task as `run` does."""
    stream = with_runs(trial.scenario, trial.scenario.test(0), trial.runs)
    with torch.no_grad():
        score(trial.algorithm, trial.scenario, trial.params, trial.state, stream, runs=trial.runs)
