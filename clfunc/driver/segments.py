"""Segments of steps: the engine runs some steps of an epoch in one go.

A run has diverged when a parameter or its loss is not finite after a segment. The segment then runs
again from its beginning, a chunk (the steps of one program; one step in eager mode) at a time, and
the run is frozen as it was before the first chunk after which it was not finite. It is tested no
more, and its neighbours never notice.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clfunc import tree
from clfunc.driver.active import nan_unless, select
from clfunc.driver.evaluate import bare
from clfunc.driver.run_state import RunState, extended
from clfunc.engine import scan as engines
from clfunc.results.result import Curve
from clfunc.scenarios import Stream
from clfunc.scenarios.base import Examples
from clfunc.types import Metrics, Params, State

_CURVE_POINTS = 1000  # a training curve has at most about so many points
_SEGMENT_STEPS = 1024  # the longest segment
_SEGMENT_EXAMPLES = 2**17  # examples of a segment, over all runs: the bar moves about once a second


class Stepper:
    """Runs segments of steps, with an engine that it chooses at the first step.

    Args:
        step: One step of all runs, `(carry, entries) -> (carry, metrics)`.
        data: The examples of the scenario, on the run's device.
        engine: The engine as the user named it; `auto` chooses one.
        all_steps: How many steps the run takes in all, >= 1. It decides how many steps one point of
            the training curve is the mean of and, with the review steps, what `auto` chooses.
        review_steps: How many batches its reviews have in all.
        say: Prints a line.
    """

    def __init__(
        self,
        step: engines.StepFunction,
        data: Examples,
        engine: str,
        all_steps: int,
        review_steps: int,
        say: Callable[[str], None],
    ) -> None:
        self.step = step
        self.data = data
        self.engine = engine
        self.all_steps = all_steps
        self.review_steps = review_steps
        self.say = say
        self.plan: engines.EnginePlan | None = None

    def set_plan(self, plan: engines.EnginePlan) -> None:
        """Runs every later step as this plan says."""
        self.plan = plan
        self.say(f"engine: {plan.engine}, steps a call: {plan.unroll} ({plan.why})")

    def make_plan(
        self, run_state: RunState, stream: Stream, entries: Tensor
    ) -> engines.EnginePlan | None:
        """Chooses the engine before the first step; None if that is done already."""
        if self.plan is not None:
            return None
        carry = self._carry(run_state, stream)
        steps = self.all_steps + self.review_steps
        self.set_plan(engines.plan(self.engine, self.step, carry, entries[0], steps))
        return self.plan

    @property
    def unroll(self) -> int:
        """Steps of one program."""
        assert self.plan is not None
        return self.plan.unroll

    @property
    def log_every(self) -> int:
        """How many steps one point of the training curve is the mean of.

        It divides `unroll`, or `unroll` divides it.
        """
        wanted = max(1, self.all_steps // _CURVE_POINTS)
        if wanted >= self.unroll:
            return _rounded_up(wanted, self.unroll)
        return next(n for n in range(wanted, self.unroll + 1) if self.unroll % n == 0)

    def segment_end(self, run_state: RunState, entries: Tensor, *every: int | None) -> int:
        """The step of the epoch at which the next segment ends.

        Something happens `every` so many steps of the run. The segment ends at the first place
        where a program and a point of the curve end too. So these places do not depend on what else
        ends segments.
        """
        most = max(1, _SEGMENT_EXAMPLES // entries[0].numel())
        steps = min(_SEGMENT_STEPS, most)
        for period in every:
            if period is not None:
                steps = min(steps, period - run_state.done % period)
        end = _rounded_up(run_state.step + steps, max(self.unroll, self.log_every))
        return min(end, len(entries))

    def run(
        self, run_state: RunState, active: Tensor, stream: Stream, entries: Tensor, phase: int
    ) -> RunState:
        """The run state after the steps of a segment, `entries: [steps, *runs, batch]`."""
        old = run_state.params, run_state.state
        carry, metrics = self._scan(self._carry(run_state, stream), entries, self.log_every)
        params, state = select(active, carry[:2], old)
        diverged = run_state.diverged
        lost = active & ~_are_finite(params, metrics, active.ndim)
        if lost.any():
            diverged, kept = self._last_finite(run_state, stream, entries, lost)
            params, state = select(diverged == run_state.diverged, (params, state), kept)

        steps = len(entries)
        ends = torch.arange(self.log_every, steps + self.log_every, self.log_every)
        curve = Curve(
            step=run_state.done + ends.clamp(max=steps),
            task=torch.full_like(ends, phase),
            values=nan_unless(active, metrics),
        )
        return run_state._replace(
            params=params,
            state=state,
            diverged=diverged,
            logged=extended(run_state.logged, curve),
            step=run_state.step + steps,
            done=run_state.done + steps,
        )

    def review(
        self,
        look: engines.StepFunction,
        run_state: RunState,
        active: Tensor,
        stream: Stream,
        xs: Any,
    ) -> RunState:
        """The run state after some batches of a review, `xs: [steps, *runs, batch]`.

        A review sees params and changes the state alone.
        """
        engine = "eager" if self.plan is None else self.plan.engine
        carry, _ = engines.scan(look, self._carry(run_state, stream), xs, engine=engine)
        state = select(active, carry[1], run_state.state)
        return run_state._replace(state=state, step=run_state.step + len(tree.leaves(xs)[0]))

    def review_end(self, run_state: RunState, entries: Tensor) -> int:
        """The batch of the review at which the next segment ends."""
        most = max(1, _SEGMENT_EXAMPLES // entries[0].numel())
        return min(run_state.step + min(_SEGMENT_STEPS, most), len(entries))

    def _last_finite(
        self, run_state: RunState, stream: Stream, entries: Tensor, lost: Tensor
    ) -> tuple[Tensor, tuple[Params, State]]:
        """At which step the `lost` runs diverge, and their params and state before that chunk."""
        carry = self._carry(run_state, stream)
        kept = run_state.params, run_state.state
        done, diverged = run_state.done, run_state.diverged
        for chunk in entries.split(self.unroll):
            carry, metrics = self._scan(carry, chunk, 1)
            done += len(chunk)
            broken = lost & (diverged < 0) & ~_are_finite(carry[0], metrics, lost.ndim)
            diverged = torch.where(broken, done, diverged)
            kept = select(diverged < 0, carry[:2], kept)
            if not (lost & (diverged < 0)).any():
                break
        return diverged, kept

    def _carry(self, run_state: RunState, stream: Stream) -> Any:
        return run_state.params, run_state.state, self.data, bare(stream)

    def _scan(self, carry: Any, entries: Tensor, log_every: int) -> tuple[Any, Metrics]:
        assert self.plan is not None
        return engines.scan(
            self.step,
            carry,
            entries,
            engine=self.plan.engine,
            unroll=self.plan.unroll,
            log_every=log_every,
        )


def _are_finite(params: Params, metrics: Metrics, run_axes: int) -> Tensor:
    """Which runs have finite parameters and losses, `Bool[*runs]` on the CPU.

    This is the one thing that a segment asks the device.
    """
    checks = []
    for leaf in tree.leaves(params):
        if leaf.is_floating_point():
            checks.append(leaf.isfinite().flatten(run_axes).all(-1))
    for name in ("loss", "objective"):
        if name in metrics:
            checks.append(metrics[name].isfinite().all(0))
    return torch.stack(checks).all(0).cpu()


def _rounded_up(number: int, multiple: int) -> int:
    return multiple * math.ceil(number / multiple)
