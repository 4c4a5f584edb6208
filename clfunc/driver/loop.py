"""The loop of `run`, as a generator of named stages: `play`.

All that a run gathers is one `RunState`, which the stages thread through. Whoever drives the
generator looks at the run state after each stage: `run` saves checkpoints and moves the progress
bar, `clfunc diff` compares two runs step by step.
"""

import functools
import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.driver.active import apply_hook
from clfunc.driver.evaluate import over_runs
from clfunc.driver.observe import probed, tested, validated
from clfunc.driver.run_state import (
    RunState,
    contiguous,
    empty_curve,
    extended,
    first_run_state,
)
from clfunc.driver.schedule import Schedule
from clfunc.driver.segments import Stepper
from clfunc.engine.identity import Identity, identity
from clfunc.engine.programs import Step
from clfunc.engine.sweep import members
from clfunc.random import split
from clfunc.results.events import Event
from clfunc.scenarios import Scenario, Stream
from clfunc.scenarios.base import make_batch
from clfunc.types import Algorithm, Keys, Metrics, Settings, State, Task


class Stage(NamedTuple):
    """A named thing that the loop has just done, and the run state after it."""

    name: str  # begin_task, steps, end_epoch, review, end_task, unlearned or end_event
    run_state: RunState
    phase: int | None = None  # the phase being trained
    steps: int = 0  # how many steps this stage took

    @property
    def can_resume(self) -> bool:
        """Whether what follows depends on the run state alone, so that a run can go on from it."""
        return self.name in ("steps", "review", "end_event")


class Trainer(NamedTuple):
    """The parts that the stages of a run share."""

    algorithm: Algorithm
    schedule: Schedule
    stepper: Stepper
    review: Step | None  # a step of the review of a task; None where the algorithm makes none
    note: Callable[[str], None]  # shows what the loop is doing

    def first_run_state(self, start: Keys) -> RunState:
        """The run state before the first event, from the key of the run's beginning."""
        params, state = tree.to(self.algorithm.init(start), start.device)
        return first_run_state(params, state, self.schedule.accuracy_shape)

    def active(self, run_state: RunState, event: Event) -> Tensor:
        """Which runs train the task of an event: `Bool[*runs]` on the CPU."""
        return self.schedule.trains(event) & (run_state.diverged < 0)


Stages = Generator[Stage, None, RunState]


def play(trainer: Trainer, run_state: RunState, order: Keys) -> Stages:
    """Trains, unlearns and tests to the end of the run, and yields each stage when it is done.

    Args:
        trainer: The parts of the run.
        run_state: A first run state, or that of a stage that `can_resume`.
        order: The key of the order of examples, `[*runs, 2]`.
    """
    for event in trainer.schedule.timeline.events[run_state.event :]:
        if event.kind == "unlearned":
            run_state = _unlearned(trainer, run_state, event)
            yield Stage("unlearned", run_state)
        else:
            run_state = yield from _train_task(trainer, run_state, event, order)
        for task in trainer.schedule.tested_tasks(event):
            last = trainer.schedule.scenario.phases[-1]
            trainer.note(f"task {event.task + 1}/{last} testing task {task + 1}")
            run_state = tested(trainer.algorithm, trainer.schedule, run_state, event, task)
        run_state = run_state._replace(event=run_state.event + 1, epoch=0, step=0)
        run_state = contiguous(run_state)
        yield Stage("end_event", run_state)
    return run_state


def _train_task(trainer: Trainer, run_state: RunState, event: Event, order: Keys) -> Stages:
    """Trains the task of an event: its beginning, its epochs, its end, and a probe."""
    algorithm, schedule = trainer.algorithm, trainer.schedule
    phase = schedule.phase(event)
    is_under_way = run_state.epoch > 0 or run_state.step > 0
    if phase is None or not (is_under_way or trainer.active(run_state, event).any()):
        return run_state
    stream = schedule.train_stream(phase)
    if not is_under_way:
        task = Task(
            id=stream.task,
            steps_per_epoch=torch.full_like(stream.task, schedule.steps[phase]),
            epochs=torch.full_like(stream.task, schedule.options.epochs),
        )
        active = trainer.active(run_state, event)
        run_state = apply_hook(run_state, active, algorithm.begin_task, task)
        yield Stage("begin_task", run_state, phase)
    if run_state.epoch == schedule.options.epochs:  # the review is under way
        entries = schedule.entries(order, phase, run_state.epoch - 1, stream)
    for epoch in range(run_state.epoch, schedule.options.epochs):
        entries = schedule.entries(order, phase, epoch, stream)
        run_state = yield from _train_epoch(trainer, run_state, event, stream, entries, phase)
        if not trainer.active(run_state, event).any():
            break
    if trainer.review is not None:
        run_state = yield from _review_task(trainer, trainer.review, run_state, event, order, phase)
    active = trainer.active(run_state, event)
    run_state = apply_hook(run_state, active, algorithm.end_task)
    run_state = probed(algorithm, schedule, run_state, stream, entries, phase)
    yield Stage("end_task", run_state, phase)
    return run_state


def _train_epoch(
    trainer: Trainer,
    run_state: RunState,
    event: Event,
    stream: Stream,
    entries: Tensor,
    phase: int,
) -> Stages:
    """Trains what is left of an epoch, then gives `end_epoch` the epoch's metrics."""
    algorithm, schedule, stepper = trainer.algorithm, trainer.schedule, trainer.stepper
    options = schedule.options
    plan = stepper.make_plan(run_state, stream, entries)
    if plan is not None:
        trainer.note("starting" if plan.engine == "eager" else "compiling")
    while run_state.step < len(entries):
        active = trainer.active(run_state, event)
        if not active.any():
            break
        done = run_state.done
        end = stepper.segment_end(run_state, entries, options.probe_every, options.checkpoint_every)
        segment = entries[run_state.step : end]
        began = time.perf_counter()
        run_state = stepper.run(run_state, active, stream, segment, phase)
        seconds = time.perf_counter() - began
        run_state = run_state._replace(seconds=run_state.seconds + seconds)
        if _passes_multiple(done, run_state.done, options.probe_every):
            shown = entries[: run_state.step]
            run_state = probed(algorithm, schedule, run_state, stream, shown, phase)
        run_state = contiguous(run_state)
        yield Stage("steps", run_state, phase, run_state.done - done)

    curve = tree.to(run_state.logged, "cpu")
    training = extended(run_state.training, curve)
    run_state = run_state._replace(training=training, logged=empty_curve())
    active = trainer.active(run_state, event)
    run_state, metrics = validated(algorithm, schedule, run_state, active, stream, curve)
    run_state = apply_hook(run_state, active, algorithm.end_epoch, metrics)
    run_state = run_state._replace(epoch=run_state.epoch + 1, step=0)
    yield Stage("end_epoch", run_state, phase)
    return run_state


def _review_task(
    trainer: Trainer, look: Step, run_state: RunState, event: Event, order: Keys, phase: int
) -> Stages:
    """Shows the algorithm every example of the task once, with the params that the task left."""
    schedule, stepper = trainer.schedule, trainer.stepper
    active = trainer.active(run_state, event)
    if not active.any():
        return run_state
    trainer.note(f"task {event.task + 1}/{schedule.scenario.phases[-1]} reviewing")
    stream = schedule.train_stream(phase)
    xs = schedule.review_entries(order, phase, stream)
    while run_state.step < len(xs[0]):
        part = slice(run_state.step, stepper.review_end(run_state, xs[0]))
        began = time.perf_counter()
        run_state = stepper.review(look, run_state, active, stream, tree.index(xs, part))
        seconds = time.perf_counter() - began
        run_state = run_state._replace(seconds=run_state.seconds + seconds)
        run_state = contiguous(run_state)
        yield Stage("review", run_state, phase)
    return run_state


def _unlearned(trainer: Trainer, run_state: RunState, event: Event) -> RunState:
    """The run state after each run has forgotten what its request says, with a snapshot."""
    unlearn = trainer.algorithm.unlearn
    assert unlearn is not None
    trainer.note(f"unlearning after task {event.task + 1}")
    forgotten = trainer.schedule.timeline.forgotten(event)
    active = forgotten.any(-1) & (run_state.diverged < 0)
    mask = forgotten.to(tree.leaves(run_state.params)[0].device)
    run_state = apply_hook(run_state, active, unlearn, mask)
    snapshot = run_state.params, run_state.state
    return run_state._replace(snapshots=(*run_state.snapshots, snapshot))


def _passes_multiple(before: int, after: int, period: int | None) -> bool:
    """Whether a multiple of `period` lies after step `before`, up to step `after`."""
    return period is not None and after // period > before // period


def start_and_order(key: Keys) -> tuple[Keys, Keys]:
    """The key of a run's beginning and the key of the order of its examples, `[*runs, 2]` each."""

    def two(key: Keys) -> tuple[Keys, ...]:
        return tuple(split(key).unbind())

    start, order = over_runs(two, None if key.ndim == 1 else len(key))(key)
    return start, order


def steps_of(scenario: Scenario, batch_size: int) -> list[int]:
    """How many steps an epoch of each phase has."""
    steps = []
    for phase in range(len(scenario.phases)):
        length = scenario.train(phase).train.shape[-1]
        steps.append(-(-length // batch_size))
    return steps


def make_step(algorithm: Algorithm, scenario: Scenario, runs: int | None) -> Step:
    """One step on a list of entries. The carry holds the examples and the task's view, untouched.

    Two steps that are made of equal functions and settings are equal, and share programs.
    """
    view, mixed = scenario.view, scenario.mixed
    what = identity(_of_first_member(algorithm), algorithm.step, view, mixed, runs)
    return _step(algorithm.step, view, mixed, runs, what)


def make_review(algorithm: Algorithm, scenario: Scenario, runs: int | None) -> Step | None:
    """A step of a review on entries and their weights, with the carry of `make_step`.

    None where the algorithm makes no review.
    """
    if algorithm.review is None:
        return None
    look, view, mixed = algorithm.review, scenario.view, scenario.mixed
    what = identity(_of_first_member(algorithm), look, view, mixed, runs)
    return _review(look, view, mixed, runs, what)


def _of_first_member(algorithm: Algorithm) -> Settings:
    """The settings of an algorithm. Members of a sweep differ in numbers only, so the first one
    speaks for all.
    """
    settings = algorithm.settings
    if members(algorithm):
        settings = settings | {"members": settings["members"][:1]}
    return settings


@functools.lru_cache(maxsize=8)
def _review(
    look: Callable[..., State],
    view: Callable[..., Any],
    mixed: bool,
    runs: int | None,
    what: Identity,
) -> Step:
    batch = over_runs(functools.partial(make_batch, view, mixed), runs, (None, 0, 0, 0))

    def step(carry: Any, xs: tuple[Tensor, Tensor]) -> tuple[Any, Metrics]:
        params, state, data, stream = carry
        state = look(params, state, batch(data, stream, *xs))
        return (params, state, data, stream), {}

    return Step(step, what)


@functools.lru_cache(maxsize=8)
def _step(
    learn: Callable[..., Any],
    view: Callable[..., Any],
    mixed: bool,
    runs: int | None,
    what: Identity,
) -> Step:
    batch = over_runs(functools.partial(make_batch, view, mixed), runs, (None, 0, 0))

    def step(carry: Any, entries: Tensor) -> tuple[Any, Metrics]:
        params, state, data, stream = carry
        params, state, metrics = learn(params, state, batch(data, stream, entries))
        return (params, state, data, stream), metrics

    return Step(step, what)
