"""A contender, and clfunc's own: its step as the driver makes it, run by `scan`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import clfunc as cl
from benchmarks.cases import Job
from clfunc.driver.evaluate import bare
from clfunc.driver.loop import make_step  # the step that users run, not a copy of it
from clfunc.engine import scan as engines
from clfunc.types import Params, State

# By dotted name, with an axis of runs; the utilities of continual backprop are among them.
Weights = dict[str, Tensor]
EAGER_SHARE = 8


class Contender(NamedTuple):
    """A program that trains from a given start.

    Fields:
        name: Name of the contender.
        runs: How many runs it trains at once. A plain loop trains the first run alone, since its
            runs come one after the other.
        start: `(params, state, is_check) -> carry`. For a check, units are reset with clfunc's own
            random numbers.
        advance: `(carry, entries) -> carry`, which returns when the steps are done. The carry that
            it is given is not used again.
        weights: `carry -> Weights`.
        share: A slow contender is timed on one in so many of the steps.
    """

    name: str
    runs: int
    start: Callable[[Params, State, bool], Any]
    advance: Callable[[Any, Tensor], Any]
    weights: Callable[[Any], Weights]
    share: int = 1


def own(job: Job, engine: str, unroll: int | None = None) -> tuple[Contender, engines.EnginePlan]:
    """clfunc with an engine, and how many steps the engine runs at a time.

    With the engine `compile`, the contender is called `clfunc`.

    Args:
        job: What to train.
        engine: `eager`, `trace`, `compile` or `cudagraph`.
        unroll: Steps of a compiled program; the engine chooses if not given.
    """
    runs = None if job.runs == 1 else job.runs
    step = make_step(job.algorithm, job.scenario, runs)

    def start(params: Params, state: State, is_check: bool) -> Any:
        return params, state, job.scenario.data, bare(job.stream)

    first = job.stream.train[..., : job.case.batch]
    plan = engines.plan(engine, step, start(job.params, job.state, False), first, 1)
    if unroll is not None and engine not in ("eager", "trace"):
        plan = plan._replace(unroll=unroll)

    def advance(carry: Any, entries: Tensor) -> Any:
        carry, _ = cl.scan(step, carry, entries, engine=plan.engine, unroll=plan.unroll)
        return carry

    def weights(carry: Any) -> Weights:
        params, state = job.many(carry[:2])
        found = dict(cl.tree.items(params))
        if job.case.method == "cbp":
            for group, units in state.opt.units.items():
                found[f"utility.{group}"] = units.utility
        return found

    contender = Contender(
        name="clfunc" if engine == "compile" else engine,
        runs=job.runs,
        start=start,
        advance=advance,
        weights=weights,
        share=EAGER_SHARE if engine == "eager" else 1,
    )
    return contender, plan


def finetuned(job: Job, name: str, more: int = 0) -> Contender:
    """Compiled finetuning of the job's network, with so many more examples in each step.

    It is the least that a method takes which adds them to the batch, in one pass over all.
    """
    algorithm = cl.finetuning(job.model, cl.sgd(job.case.lr))
    runs = None if job.runs == 1 else job.runs
    if runs is not None:
        algorithm = cl.sweep([algorithm] * runs)
    step = make_step(algorithm, job.scenario, runs)
    key = cl.random.key(0) if runs is None else cl.random.split(cl.random.key(0), runs)
    params, state = cl.tree.to(algorithm.init(key), job.stream.train.device)

    def start(*_: Any) -> Any:
        return params, state, job.scenario.data, bare(job.stream)

    def advance(carry: Any, entries: Tensor) -> Any:
        longer = torch.cat([entries, entries[..., :more]], -1)
        carry, _ = cl.scan(step, carry, longer, engine="compile")
        return carry

    return Contender(name, job.runs, start, advance, weights=lambda _: {})
