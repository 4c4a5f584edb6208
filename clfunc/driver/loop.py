"""The loops of `run`: over events (tasks trained, tasks unlearned), epochs and segments of steps.

All that they gather is one `Standing`, which they thread through. What an event does to a run that takes no part in it, because
it skips the task or has diverged, is undone by selection, outside the step's program.

A run has diverged when a parameter or its loss is not finite after a segment. The segment is then lived through again from its
beginning, a chunk (the steps of one program; one step in eager mode) at a time, and the run is frozen as it was before the
first chunk after which it was not finite. It is tested no more, and its neighbours never notice.
"""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.driver.checkpoint import About, Keeper
from clfunc.driver.evaluate import bare, over_runs, score, with_runs
from clfunc.driver.progress import Progress
from clfunc.driver.run_state import Standing, begun, extended, no_points, packed, settled, unpacked
from clfunc.driver.timeline import Timeline
from clfunc.engine import scan as engines
from clfunc.engine.identity import Identity, identity
from clfunc.engine.programs import Step
from clfunc.engine.sweep import members
from clfunc.random import fold_in, split
from clfunc.results.events import Event
from clfunc.results.result import Curve
from clfunc.scenarios import Scenario, Stream, epoch_entries
from clfunc.scenarios.base import make_batch
from clfunc.types import Algorithm, Key, Keys, Metrics, Params, State, Task

_PROBED = 256  # examples that a probe looks at
_POINTS = 1000  # of a training curve, at most about so many


class Loop(NamedTuple):
    """What one call of `run` does."""

    algorithm: Algorithm
    scenario: Scenario
    runs: int | None
    epochs: int
    batch_size: int
    evaluate: str | int
    steps: list[int]  # of an epoch, for each phase
    timeline: Timeline
    probe_every: int | None = None
    save_every: int | None = None

    def begin(self, start: Keys) -> Standing:
        """Before the first event."""
        shape = (
            len(self.timeline.events),
            self.scenario.num_tasks,
            *self.timeline.skipped.shape[:-1],
        )
        return begun(tree.to(self.algorithm.init(start), start.device), shape)

    def phase(self, event: Event) -> int | None:
        """The phase that ends with this many tasks seen; a mixture has one for all."""
        known = event.kind == "trained" and event.task + 1 in self.scenario.phases
        return self.scenario.phases.index(event.task + 1) if known else None

    def wanted(self, event: Event) -> Tensor:
        """Which runs are to train a task, `Bool[*runs]` on the CPU."""
        return ~self.timeline.skipped[..., event.task]

    def planned_steps(self) -> int:
        """How many steps are to be done, if nothing goes wrong."""
        events = ((e, self.phase(e)) for e in self.timeline.events)
        return self.epochs * sum(
            self.steps[p] for e, p in events if p is not None and self.wanted(e).any()
        )

    def train_stream(self, phase: int) -> Stream:
        return with_runs(self.scenario, self.scenario.train(phase), self.runs)

    def test_stream(self, task: int) -> Stream:
        return with_runs(self.scenario, self.scenario.test(task), self.runs)

    def entries(self, order: Keys, phase: int, epoch: int, stream: Stream) -> Tensor:
        """The epoch's entries, `[steps, *runs, batch]`, from a key of their own, so that any epoch can be drawn again."""
        size = (self.steps[phase], self.batch_size)

        def draw(key: Key, stream: Stream) -> Tensor:
            return epoch_entries(fold_in(key, phase, epoch), stream, size[0] * size[1]).reshape(
                size
            )

        entries = over_runs(draw, self.runs)(order, stream)
        return entries if self.runs is None else entries.movedim(1, 0).contiguous()

    def tested(self, event: Event) -> range:
        """The tasks to test after an event."""
        phase, last = self.phase(event), event.task + 1 == self.scenario.phases[-1]
        if self.evaluate == "none" or (phase is None and event.kind == "trained"):
            return range(0)
        if self.evaluate == "current" and phase is not None:
            return range(0 if self.scenario.mixed else event.task, event.task + 1)
        if (
            isinstance(self.evaluate, int)
            and phase is not None
            and not last
            and (phase + 1) % self.evaluate
        ):
            return range(0)
        return range(event.task + 1)


class Trainer:
    """Lives through the events, with the engine that was planned."""

    def __init__(
        self, loop: Loop, engine: str, bar: Progress, keeper: Keeper | None, config: About
    ) -> None:
        self.loop, self.engine, self.bar, self.keeper, self.config = (
            loop,
            engine,
            bar,
            keeper,
            config,
        )
        self.plan: engines.EnginePlan | None = None
        self.began = time.perf_counter()
        self.total = loop.epochs * sum(loop.steps)
        self.every = max(1, self.total // _POINTS)
        self.step = make_step(loop.algorithm, loop.scenario, loop.runs)

    def run(self, key: Keys, saved: tuple[Mapping[str, Tensor], About] | None = None) -> Standing:
        """From the beginning, or from what was saved, to the end."""
        start, order = start_and_order(key)
        at = self.loop.begin(start)
        if saved is not None:
            at = self.resumed(at, *saved)
        return self.live(at, order)

    def live(self, at: Standing, order: Keys) -> Standing:
        """The events that are left; `order` is the key of the order of examples."""
        for event in self.loop.timeline.events[at.event :]:
            phase, under_way = self.loop.phase(event), at.epoch or at.step
            if event.kind == "unlearned":
                at = self.unlearn(at, event)
            elif phase is not None and (under_way or self.active(at, event).any()):
                at = self.train(at, event, phase, order)
            at = self.test(at, event)._replace(event=at.event + 1, epoch=0, step=0)
            at = self.pause(at, ended=True)
        return at

    def resumed(self, start: Standing, tensors: Mapping[str, Tensor], about: About) -> Standing:
        """Where a checkpoint was taken, with the engine that it was taken with."""
        at = unpacked(start, tensors, about)
        if about["plan"]:
            engine, unroll = about["plan"]
            self.plan = engines.EnginePlan(engine, unroll, "as before")
            self.bar.say(
                f"engine: {self.plan.engine}, steps a call: {self.plan.unroll} ({self.plan.why})"
            )
        self.bar.skip(at.done)
        return at

    def pause(self, at: Standing, ended: bool = False) -> Standing:
        """Where a run may be saved, and taken up again: nothing but the standing goes from here to what follows."""
        at = settled(at)
        if self.keeper is not None:
            last = at.event == len(self.loop.timeline.events)
            self.keeper.offer(at.done, ended, last, lambda: self.packed(at))
        return at

    def packed(self, at: Standing) -> tuple[dict[str, Tensor], About]:
        tensors, about = packed(at)
        about["place"]["wall"] += time.perf_counter() - self.began
        plan = list(self.plan[:2]) if self.plan else None
        return tensors, about | {"config": self.config, "plan": plan}

    def train(self, at: Standing, event: Event, phase: int, order: Keys) -> Standing:
        """Train a task: its beginning, its epochs, its end, and a probe."""
        loop = self.loop
        stream = loop.train_stream(phase)
        if not (at.epoch or at.step):
            counts = (torch.full_like(stream.task, n) for n in (loop.steps[phase], loop.epochs))
            at = apply(
                at, self.active(at, event), loop.algorithm.begin_task, Task(stream.task, *counts)
            )
        for epoch in range(at.epoch, loop.epochs):
            entries = loop.entries(order, phase, epoch, stream)
            at = self.epoch(at, event, stream, entries, phase)
            if not self.active(at, event).any():
                break
        at = apply(at, self.active(at, event), loop.algorithm.end_task)
        return self.probe(at, stream, entries, phase)

    def active(self, at: Standing, event: Event) -> Tensor:
        """Which runs take part in training a task, `Bool[*runs]` on the CPU."""
        return self.loop.wanted(event) & (at.diverged < 0)

    def epoch(
        self, at: Standing, event: Event, stream: Stream, entries: Tensor, phase: int
    ) -> Standing:
        """Train for what is left of an epoch; tell `end_epoch` the validation metrics, or the mean training ones."""
        loop = self.loop
        size = _segment(
            entries, self.planned(at, stream, entries).unroll, loop.probe_every, loop.save_every
        )
        for start in range(at.step, len(entries), size):
            if not self.active(at, event).any():
                break
            began, segment = time.perf_counter(), entries[start : start + size]
            at = self.segment(at, self.active(at, event), stream, segment, phase)
            at = at._replace(seconds=at.seconds + time.perf_counter() - began)
            self.bar.advance(len(segment), phase, at.epoch)
            if (
                loop.probe_every
                and at.done // loop.probe_every > (at.done - len(segment)) // loop.probe_every
            ):
                at = self.probe(at, stream, entries[: at.step], phase)
            at = self.pause(at)
        curve = tree.to(at.logged, "cpu")
        at = at._replace(training=extended(at.training, curve), logged=no_points())
        active = self.active(at, event)
        at, told = self.validated(at, active, stream, curve)
        return apply(at, active, loop.algorithm.end_epoch, told)._replace(
            epoch=at.epoch + 1, step=0
        )

    def planned(self, at: Standing, stream: Stream, entries: Tensor) -> engines.EnginePlan:
        """The engine for all steps, chosen at the first."""
        if self.plan is None:
            self.plan = engines.plan(
                self.engine, self.step, self.carry(at, stream), entries[0], self.total
            )
            self.bar.say(
                f"engine: {self.plan.engine}, steps a call: {self.plan.unroll} ({self.plan.why})"
            )
            self.bar.note("starting" if self.plan.engine == "eager" else "compiling")
        return self.plan

    def carry(self, at: Standing, stream: Stream) -> Any:
        return at.params, at.state, self.loop.scenario.data, bare(stream)

    def segment(
        self, at: Standing, active: Tensor, stream: Stream, entries: Tensor, phase: int
    ) -> Standing:
        """Some steps in one go."""
        carry, metrics = self.scan(self.carry(at, stream), entries, self.every)
        params, state = chosen(active, carry[:2], (at.params, at.state))
        diverged, lost = at.diverged, active & ~finite(params, metrics, active.ndim)
        if lost.any():
            diverged, kept = self.rescued(at, stream, entries, lost)
            params, state = chosen(diverged == at.diverged, (params, state), kept)
        ends = torch.arange(self.every, len(entries) + self.every, self.every).clamp(
            max=len(entries)
        )
        curve = Curve(at.done + ends, torch.full_like(ends, phase), known(active, metrics))
        at = at._replace(step=at.step + len(entries), done=at.done + len(entries))
        return at._replace(
            params=params, state=state, diverged=diverged, logged=extended(at.logged, curve)
        )

    def scan(self, carry: Any, entries: Tensor, every: int = 1) -> tuple[Any, Metrics]:
        assert self.plan is not None
        engine, unroll, _ = self.plan
        return engines.scan(
            self.step, carry, entries, engine=engine, unroll=unroll, log_every=every
        )

    def rescued(
        self, at: Standing, stream: Stream, entries: Tensor, lost: Tensor
    ) -> tuple[Tensor, tuple[Params, State]]:
        """Where in a segment the `lost` runs diverge, and their params and state as they last were finite."""
        assert self.plan is not None
        carry, kept, done, diverged = (
            self.carry(at, stream),
            (at.params, at.state),
            at.done,
            at.diverged,
        )
        for chunk in entries.split(self.plan.unroll):
            carry, metrics = self.scan(carry, chunk)
            done += len(chunk)
            gone = lost & (diverged < 0) & ~finite(carry[0], metrics, lost.ndim)
            diverged = torch.where(gone, done, diverged)
            kept = chosen(diverged < 0, carry[:2], kept)
            if not (lost & (diverged < 0)).any():
                break
        return diverged, kept

    def validated(
        self, at: Standing, active: Tensor, stream: Stream, curve: Curve
    ) -> tuple[Standing, Metrics]:
        """What `end_epoch` is told, noted where it is measured on examples held out."""
        if not stream.valid.shape[-1]:
            return at, tree.map(lambda v: v.mean(0).to(stream.task.device), curve.values)
        told = score(
            self.loop.algorithm,
            self.loop.scenario,
            at.params,
            at.state,
            stream,
            "valid",
            self.loop.runs,
        )
        values = tree.map(lambda v: v[None].cpu(), known(active, told))
        point = Curve(curve.step[-1:], curve.task[-1:], values)
        return at._replace(validation=extended(at.validation, point)), told

    def probe(self, at: Standing, stream: Stream, entries: Tensor, phase: int) -> Standing:
        """Keep what the algorithm tells of itself: its numbers and vectors over time, its pictures as of now.

        It is shown the examples of the last steps, `_PROBED` of them or a batch, whichever is more.
        """
        loop = self.loop
        if loop.algorithm.probe is None:
            return at
        make = over_runs(loop.scenario.batch, loop.runs, (None, 0, 0))
        shown = entries[-max(1, _PROBED // loop.batch_size) :].movedim(0, -2).flatten(-2)
        batch = make(loop.scenario.data, bare(stream), shown)
        told = tree.to(loop.algorithm.probe(at.params, at.state, batch), "cpu")
        flat = 1 if loop.runs is None else 2
        values = {name: v[None] for name, v in told.items() if v.ndim <= flat}
        point = Curve(torch.tensor([at.done]), torch.tensor([phase]), values)
        pictures = {name: v for name, v in told.items() if v.ndim > flat}
        return at._replace(probes=extended(at.probes, point), pictures=pictures)

    def unlearn(self, at: Standing, event: Event) -> Standing:
        """Forget what is asked, run by run."""
        assert self.loop.algorithm.unlearn is not None
        self.bar.note(f"unlearning after task {event.task + 1}")
        asked = self.loop.timeline.forgotten(event)
        mask = asked.to(tree.leaves(at.params)[0].device)
        at = apply(at, asked.any(-1) & (at.diverged < 0), self.loop.algorithm.unlearn, mask)
        return at._replace(snapshots=(*at.snapshots, (at.params, at.state)))

    def test(self, at: Standing, event: Event) -> Standing:
        """Note the accuracy on the tasks that are tested after an event."""
        loop, accuracy = self.loop, at.accuracy.clone()
        for tested in loop.tested(event):
            self.bar.note(
                f"task {event.task + 1}/{loop.scenario.phases[-1]} testing task {tested + 1}"
            )
            stream = loop.test_stream(tested)
            found = score(
                loop.algorithm, loop.scenario, at.params, at.state, stream, runs=loop.runs
            )
            accuracy[at.event, tested] = known(
                at.diverged < 0, {"accuracy": found["accuracy"].cpu()}
            )["accuracy"]
        return at._replace(accuracy=accuracy)


def start_and_order(key: Keys) -> tuple[Keys, Keys]:
    """The key of a run's beginning and that of the order of its examples, or those of each run."""
    return over_runs(lambda k: tuple(split(k).unbind()), None if key.ndim == 1 else len(key))(key)


def steps_of(scenario: Scenario, batch_size: int) -> list[int]:
    """Steps of an epoch, for each phase."""
    lengths = (scenario.train(phase).train.shape[-1] for phase in range(len(scenario.phases)))
    return [-(-length // batch_size) for length in lengths]


def make_step(algorithm: Algorithm, scenario: Scenario, runs: int | None) -> Step:
    """One step on a list of entries. The carry holds the examples and the task's view, untouched.

    Two steps that are made of equal functions and settings are equal, and share programs. The
    members of a sweep differ in numbers only, so the first one speaks for all.
    """
    settings = algorithm.settings
    if members(algorithm):
        settings = settings | {"members": settings["members"][:1]}
    view, mixed = scenario.view, scenario.mixed
    what = identity(settings, algorithm.step, view, mixed, runs)
    return _step(algorithm.step, view, mixed, runs, what)


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


def chosen(active: Tensor, new: Any, old: Any) -> Any:
    """`new` for the active runs, `old` for the others; `active` is on the CPU, so where all are it costs nothing."""
    if active.all():
        return new
    return tree.where(active.to(tree.leaves(new)[0].device), new, old)


def apply(
    at: Standing, active: Tensor, f: Callable[..., tuple[Params, State]], *args: Any
) -> Standing:
    """What a hook of the algorithm makes of the active runs' params and state."""
    params, state = chosen(active, f(at.params, at.state, *args), (at.params, at.state))
    return at._replace(params=params, state=state)


def finite(params: Params, metrics: Metrics, ndim: int) -> Tensor:
    """Which runs have finite parameters and losses, `Bool[*runs]` on the CPU; the one thing that a segment asks the device."""
    axes = [
        leaf.isfinite().flatten(ndim).all(-1)
        for leaf in tree.leaves(params)
        if leaf.is_floating_point()
    ]
    losses = [metrics["loss"].isfinite().all(0)] if "loss" in metrics else []
    return torch.stack([*axes, *losses]).all(0).cpu()


def known(active: Tensor, metrics: Metrics) -> Metrics:
    """NaN for runs that take no part; the runs are the last axis."""
    if active.all():
        return metrics
    return tree.map(lambda v: torch.where(active.to(v.device), v, torch.nan), metrics)


def _segment(entries: Tensor, unroll: int, *every: int | None) -> int:
    """Steps between two moves of the progress bar, probes or checkpoints: whole chunks, fewer the more a step has to do."""
    wanted = min(1024, max(1, 2**17 // entries[0].numel()), *(n or 1024 for n in every))
    return -(-wanted // unroll) * unroll
