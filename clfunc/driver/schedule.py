"""`Schedule`: what a run trains and tests, and in which order. Training changes nothing of it."""

from typing import NamedTuple

import torch
from torch import Tensor

from clfunc.driver.evaluate import over_runs, with_runs
from clfunc.driver.options import RunOptions
from clfunc.driver.timeline import Timeline
from clfunc.random import fold_in
from clfunc.results.events import Event
from clfunc.scenarios import Scenario, Stream, epoch_entries
from clfunc.types import Key, Keys


class Schedule(NamedTuple):
    """What a run trains and tests, and in which order."""

    scenario: Scenario
    runs: int | None  # None for one run, which has no axis of runs
    options: RunOptions
    steps: list[int]  # how many steps an epoch of each phase has
    timeline: Timeline
    review_size: int  # examples in a batch of the review of a task; 0 for no review

    @property
    def all_steps(self) -> int:
        """How many steps a run takes that skips nothing."""
        return self.options.epochs * sum(self.steps)

    def review_steps(self, phase: int) -> int:
        """How many batches the review of a phase has."""
        if not self.review_size:
            return 0
        return -(-self.scenario.train(phase).train.shape[-1] // self.review_size)

    @property
    def all_review_steps(self) -> int:
        """How many batches of reviews a run has that skips nothing."""
        return sum(self.review_steps(phase) for phase in range(len(self.steps)))

    @property
    def longest(self) -> tuple[int, int]:
        """The most epochs of a task, its review counted as one, and the most steps of an epoch."""
        reviews = [self.review_steps(phase) for phase in range(len(self.steps))]
        return self.options.epochs + (max(reviews) > 0), max(*self.steps, *reviews)

    @property
    def accuracy_shape(self) -> tuple[int, ...]:
        """`[events, tested tasks, *runs]`."""
        runs = self.timeline.skipped.shape[:-1]
        return len(self.timeline.events), self.scenario.num_tasks, *runs

    def phase(self, event: Event) -> int | None:
        """The phase that an event trains, or None. A mixture has one phase for all tasks."""
        tasks_seen = event.task + 1
        if event.kind != "trained" or tasks_seen not in self.scenario.phases:
            return None
        return self.scenario.phases.index(tasks_seen)

    def trains(self, event: Event) -> Tensor:
        """Which runs train the task of an event, and do not skip it: `Bool[*runs]` on the CPU."""
        return ~self.timeline.skipped[..., event.task]

    def planned_steps(self) -> int:
        """How many steps are taken if no run diverges; tasks that every run skips have none."""
        planned = 0
        for event in self.timeline.events:
            phase = self.phase(event)
            if phase is not None and self.trains(event).any():
                planned += self.options.epochs * self.steps[phase]
        return planned

    def train_stream(self, phase: int) -> Stream:
        """The stream that a phase trains, with the axis of runs."""
        return with_runs(self.scenario, self.scenario.train(phase), self.runs)

    def test_stream(self, task: int) -> Stream:
        """The stream that tests a task, with the axis of runs."""
        return with_runs(self.scenario, self.scenario.test(task), self.runs)

    def entries(self, order: Keys, phase: int, epoch: int, stream: Stream) -> Tensor:
        """An epoch's entries, `[steps, *runs, batch]`.

        Each epoch has its own key, so that it can be drawn again.
        """
        shape = self.steps[phase], self.options.batch_size
        return self._drawn(order, phase, epoch, stream, *shape)

    def review_entries(self, order: Keys, phase: int, stream: Stream) -> tuple[Tensor, Tensor]:
        """The entries of a review and their weights, `[steps, *runs, batch]` each.

        Every example of the task comes once with weight 1; what fills the batches up has weight 0.
        The order is that of one more epoch.
        """
        shape = self.review_steps(phase), self.review_size
        entries = self._drawn(order, phase, self.options.epochs, stream, *shape)
        place = torch.arange(shape[0] * shape[1], device=entries.device)
        place = place.reshape(shape[0], *[1] * (entries.ndim - 2), shape[1])
        counts = (place < stream.sizes[..., 0, None]).expand(entries.shape)
        return entries, counts.to(torch.get_default_dtype()).contiguous()

    def _drawn(
        self, order: Keys, phase: int, epoch: int, stream: Stream, steps: int, batch_size: int
    ) -> Tensor:
        def draw(key: Key, stream: Stream) -> Tensor:
            drawn = epoch_entries(fold_in(key, phase, epoch), stream, steps * batch_size)
            return drawn.reshape(steps, batch_size)

        entries = over_runs(draw, self.runs)(order, stream)
        if self.runs is None:
            return entries
        return entries.movedim(1, 0).contiguous()

    def tested_tasks(self, event: Event) -> range:
        """The tasks to test after an event."""
        evaluate = self.options.evaluate
        phase = self.phase(event)
        seen = range(event.task + 1)
        nothing = range(0)
        if evaluate == "none":
            return nothing
        if event.kind == "unlearned":
            return seen
        if phase is None:
            return nothing
        if evaluate == "current":
            return seen if self.scenario.mixed else range(event.task, event.task + 1)
        is_last = len(seen) == self.scenario.phases[-1]
        if isinstance(evaluate, int) and not is_last and (phase + 1) % evaluate:
            return nothing
        return seen
