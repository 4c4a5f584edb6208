"""What a contender is, and clfunc's own: its step as the driver makes it, through `scan`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

import clfunc as cl
from benchmarks.cases import Job
from clfunc.driver.evaluate import bare
from clfunc.driver.loop import make_step  # what users run, not a copy of it
from clfunc.engine import scan as engines
from clfunc.types import Params, State

Weights = dict[
    str, Tensor
]  # by dotted name, with an axis of runs; also the utilities of continual backprop


class Contender(NamedTuple):
    """A program that trains from a given start. A carry that was handed to `advance` is not used again."""

    name: str
    runs: int  # that it trains at once; plain loops train the first run alone, since theirs come one after the other
    start: Callable[
        [Params, State, bool], Any
    ]  # the flag: reset with clfunc's own random numbers, for a check
    advance: Callable[[Any, Tensor], Any]  # (carry, entries) -> carry, done when it returns
    weights: Callable[[Any], Weights]
    share: int = 1  # it is timed on this part of the steps, where it is slow


def own(job: Job, engine: str, unroll: int | None = None) -> tuple[Contender, engines.EnginePlan]:
    """clfunc with an engine, and how many steps that runs at a time; compiled it is called `clfunc`."""
    step = make_step(job.algorithm, job.scenario, None if job.runs == 1 else job.runs)

    def start(params: Params, state: State, checking: bool) -> Any:
        return params, state, job.scenario.data, bare(job.stream)

    def advance(carry: Any, entries: Tensor) -> Any:
        return cl.scan(step, carry, entries, engine=plan.engine, unroll=plan.unroll)[0]

    def weights(carry: Any) -> Weights:
        params, state = job.many(carry[:2])
        groups = state.opt.units if job.case.method == "cbp" else {}
        return dict(cl.tree.items(params)) | {
            f"utility.{group}": units.utility for group, units in groups.items()
        }

    first = job.stream.train[..., : job.case.batch]
    plan = engines.plan(engine, step, start(job.params, job.state, False), first, 1)
    plan = plan if unroll is None or engine in ("eager", "trace") else plan._replace(unroll=unroll)
    name = "clfunc" if engine == "compile" else engine
    return Contender(name, job.runs, start, advance, weights, 8 if engine == "eager" else 1), plan
