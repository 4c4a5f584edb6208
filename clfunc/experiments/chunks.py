"""`run_chunks`: a sweep that does not fit in memory, run chunk by chunk and merged.

Run i is what it would be alone, so the place of a cut changes nothing but rounding, and the same
cuts give the same bits. A chunk that is done is kept in `out/chunks` until all are, so that a sweep
that was stopped goes on from there.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Unpack

from clfunc import tree
from clfunc.driver.options import RunKeywords, RunOptions
from clfunc.driver.progress import say
from clfunc.driver.run import run_with
from clfunc.engine.sweep import members, part, sweep
from clfunc.experiments.chunk_store import ChunkStore
from clfunc.experiments.cutting import (
    ChunkPlan,
    options_of,
    plan_chunks,
    refuse_impossible_runs,
)
from clfunc.results import plots
from clfunc.results import result as results
from clfunc.results.merge import merge
from clfunc.results.packing import pack
from clfunc.results.result import Result
from clfunc.scenarios import Scenario
from clfunc.types import Algorithm, Keys


def run_chunks(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    *,
    runs_at_once: int | str = "auto",
    out: str | Path | None = None,
    resume: bool | Literal["anyway"] = False,
    **keywords: Unpack[RunKeywords],
) -> Result:
    """`run`, a chunk of the runs at a time; the result is that of the whole sweep, with its tensors
    on the CPU.

    >>> import clfunc as cl
    >>> scenario = cl.scenarios.permuted(cl.datasets.load("digits"), 2, cl.random.key(0))
    >>> algorithm = cl.finetuning(cl.mlp(scenario.inputs, (4,), scenario.head()), cl.sgd(0.1))
    >>> keys = cl.random.split(cl.random.key(1), 3)
    >>> quiet = {"batch_size": 512, "engine": "eager", "progress": False}
    >>> cl.run_chunks(algorithm, scenario, keys, runs_at_once=2, **quiet).config["chunks"]
    [2, 1]

    Args:
        algorithm: As for `run`: one algorithm, or a `sweep` of many.
        scenario: As for `run`.
        key: `[runs, 2]`.
        runs_at_once: Runs in a chunk, >= 1; or `auto`, which measures how many fit in memory.
        out: As for `run`. Chunks that are done are kept in its folder `chunks` until all are, and
            are not run again.
        resume: As for `run`, if all runs are one chunk. Several chunks need no checkpoints: what is
            kept is used again.
        **keywords: The rest of what `run` takes. Requests and tasks to skip may have an entry for
            each of all runs.

    Raises:
        ValueError: `run` refuses the arguments; the key is of one run only; `runs_at_once` is not a
            positive number.
    """
    options = RunOptions(**keywords)
    return run_chunks_with(
        algorithm,
        scenario,
        key,
        options,
        runs_at_once=runs_at_once,
        out=out,
        resume=resume,
    )


def run_chunks_with(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    options: RunOptions,
    *,
    runs_at_once: int | str = "auto",
    out: str | Path | None = None,
    resume: bool | Literal["anyway"] = False,
) -> Result:
    """`run_chunks`, with its options as one value."""
    began = time.perf_counter()
    refuse_impossible_runs(algorithm, scenario, key, options)
    store = ChunkStore(out, algorithm, scenario, key, options)
    saved = store.saved_plan(len(key), runs_at_once) if key.ndim == 2 else None
    plan = saved or plan_chunks(algorithm, scenario, key, options, runs_at_once)
    is_cut = len(plan.chunks) > 1
    say(plan.why, options.progress and (is_cut or runs_at_once != "auto"))
    if not is_cut and saved is None:
        return run_with(algorithm, scenario, key, options, out=out, resume=resume)

    # One sweep of all runs, so that its parts share their functions, and so what is compiled for
    # them.
    many = algorithm if members(algorithm) else sweep([algorithm] * len(key))
    options = options.changed(checkpoint_every=None)
    done = []
    for runs in plan.chunks:
        result = store.find(runs)
        if result is None:
            if plan.engine:
                options = options.changed(engine=plan.engine)
            chosen = options_of(options, runs)
            result = run_with(part(many, runs), scenario.part(runs), key[list(runs)], chosen)
            plan = plan._replace(engine=result.engine)  # the first chunk chooses it for all
            if store.out is not None:
                store.keep(runs, pack(result, store.label(runs)), plan)
        done.append(to_cpu(result))
    return finish(done, algorithm, plan, store, began)


def finish(
    done: Sequence[Result],
    algorithm: Algorithm,
    plan: ChunkPlan,
    store: ChunkStore,
    began: float,
) -> Result:
    """Merge the results of all chunks, write what `run` writes, and remove the chunks.

    Args:
        done: The result of each chunk, in order.
        algorithm: The sweep, or an algorithm by itself.
        plan: How the runs were cut.
        store: Where the chunks are kept.
        began: When, by `time.perf_counter`.
    """
    merged = merge(done, algorithm, plan.chunks)
    config = merged.config | {"chunks": [len(runs) for runs in plan.chunks]}
    seconds = time.perf_counter() - began
    merged = merged._replace(config=config, wall_seconds=seconds)
    if store.out is not None:
        plots.save(results.save(merged, store.out), store.out / "figures")
        store.clear()
    return merged


def to_cpu(result: Result) -> Result:
    """The result with params and state on the CPU, since a merged one can be larger than a device."""
    params = tree.to(result.params, "cpu")
    state = tree.to(result.state, "cpu")
    return result._replace(params=params, state=state)
