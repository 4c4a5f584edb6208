"""How a job's runs are done: in one program, in chunks, on several devices, or on a cluster.

A chunk goes to another process or machine as the arguments of the command line and the numbers of
its runs, and its result comes back as safetensors.
"""

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable
from typing import Any, Literal

import torch

from clfunc.cli import build
from clfunc.cli.arguments import Run, Sweep, from_json, to_json
from clfunc.driver.progress import say
from clfunc.driver.run import run_with
from clfunc.engine.sweep import members, part, sweep
from clfunc.experiments import chunks, executors, sizing
from clfunc.experiments.chunk_store import ChunkStore
from clfunc.experiments.cutting import ChunkPlan, cut, plan_chunks
from clfunc.experiments.halving import check_halving, halve
from clfunc.experiments.until import check_until, run_until
from clfunc.results.packing import pack, unpack
from clfunc.results.result import Result

Words = dict[str, Any]  # the arguments as JSON can hold them


def prepare(args: Run, job: build.Job) -> Callable[[], Result]:
    """Check how the runs are to be done; the function that does them.

    Raises:
        ValueError: Something is wrong with the way to run; one line says what.
    """
    at_once = runs_at_once(args)
    devices = _devices(args)
    _refuse_ways(args)
    inputs = job.inputs
    keywords = build.keywords(job.options)
    out = args.out
    if isinstance(args, Sweep) and args.halving:
        check_halving(*inputs, args.eta)
        return lambda: halve(*inputs, eta=args.eta, out=out, **keywords)
    if isinstance(args, Sweep) and args.until_ci is not None:
        width = args.until_ci
        batch = args.seeds
        check_until(job.scenario, job.key, width, batch, job.options)
        return lambda: run_until(
            *inputs,
            width,
            batch=batch,
            runs_at_once=at_once,
            out=out,
            **keywords,
        )
    resume = _resume(args)
    if job.key.ndim == 1:
        return lambda: run_with(*inputs, job.options, out=out, resume=resume)
    if isinstance(args, Sweep) and args.cluster == "ray":
        return lambda: _spread(args, job, at_once, _ray(args))
    if devices:
        return lambda: _spread(args, job, at_once, executors.processes(devices))
    return lambda: chunks.run_chunks(
        *inputs,
        runs_at_once=at_once,
        out=out,
        resume=resume,
        **keywords,
    )


def outcome(result: Result) -> list[str]:
    """What halving or the search for an interval came to, as lines for the end of a run."""
    if "halving" in result.config:
        return [_halved(result.config["halving"])]
    if "until_ci" in result.config:
        return [_narrowed(result.config["until_ci"])]
    return []


def _halved(halving: dict[str, Any]) -> str:
    first, last = halving["rungs"][0], halving["rungs"][-1]
    kept = []
    for configuration in last["configurations"]:
        if configuration["kept"]:
            settings = configuration["settings"].items()
            kept.append(", ".join(f"{name}={value:g}" for name, value in settings))
    began = len(first["configurations"])
    return f"left of {began} configurations, by {halving['by']} examples: {'; '.join(kept)}"


def _narrowed(until: dict[str, Any]) -> str:
    wanted = until["width"]
    widths = []
    for configuration in until["configurations"]:
        width = configuration["interval"]
        widths.append(math.inf if width is None else width)
    reached = sum(width < wanted for width in widths)
    return (
        f"95% interval narrower than {wanted:g} points: {reached} of {len(widths)};"
        f" widest {max(widths):.2f}"
    )


def _devices(args: Run) -> list[str]:
    """The devices that share the chunks; none if `--devices` is not given."""
    devices = [name.strip() for name in args.devices.split(",") if name.strip()]
    for name in devices:
        build.named_device(name, "--devices")
    if len(devices) == 1:
        raise ValueError("--devices takes several, joined by commas: give one to --device")
    return devices


def _ray(args: Sweep) -> executors.Executor:
    threads = torch.get_num_threads()
    return executors.ray_cluster(args.cluster_address, args.device, threads)


def _resume(args: Run) -> bool | Literal["anyway"]:
    return "anyway" if args.resume_anyway else args.resume


# The flags that mean nothing without another one.
_PARTS = {"eta": "--halving", "max_seeds": "--until-ci", "cluster_address": "--cluster"}


def _refuse_ways(args: Run) -> None:
    """Raise ValueError for ways of running that do not go together."""
    if not isinstance(args, Sweep):
        return
    ways = {
        "--halving": args.halving,
        "--until-ci": args.until_ci is not None,
        "--cluster": args.cluster != "none",
        "--devices": bool(args.devices),
    }
    for name, way in _PARTS.items():
        changed = getattr(args, name) != getattr(Sweep, name)
        if changed and not ways[way]:
            raise ValueError(f"--{name.replace('_', '-')} is of {way}: give that too")
    given = [flag for flag, wanted in ways.items() if wanted]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} do not go together: give one of them")
    saves = args.resume or args.resume_anyway or args.checkpoint_every
    if saves and (ways["--halving"] or ways["--until-ci"]):
        raise ValueError(
            "--halving and --until-ci keep no checkpoints:"
            " leave out --resume and --checkpoint-every"
        )
    if args.halving and args.runs_at_once != "auto":
        raise ValueError("--halving runs all that is left at once: leave out --runs-at-once")


def runs_at_once(args: Run) -> int | str:
    """`auto`, or the number of runs in a chunk.

    Raises:
        ValueError: It is neither.
    """
    asked = args.runs_at_once
    if asked == "auto":
        return asked
    if not asked.isdecimal() or int(asked) == 0:
        raise ValueError(f"--runs-at-once must be auto or a number from 1, given {asked!r}")
    return int(asked)


def _spread(args: Run, job: build.Job, at_once: int | str, machines: executors.Executor) -> Result:
    """Run the chunks on many machines, and keep each result as it comes."""
    began = time.perf_counter()
    store = ChunkStore(args.out, *job.inputs, job.options)
    plan = store.saved_plan(len(job.key), at_once)
    if plan is None:
        plan = _planned(args, job, at_once, machines)
    say(plan.why, args.progress)

    results = [store.find(runs) for runs in plan.chunks]
    missing = [number for number, result in enumerate(results) if result is None]
    threads = torch.get_num_threads()
    jobs = []
    for number in missing:
        runs = plan.chunks[number]
        jobs.append((_sent(args), list(runs), plan.engine, store.label(runs), threads))
    for job_number, data in machines.run(chunk, jobs):
        number = missing[job_number]
        runs = plan.chunks[number]
        store.keep(runs, data, plan)
        results[number] = unpack(data, job.algorithm)
        done = sum(result is not None for result in results)
        place = f"chunk {done}/{len(plan.chunks)}"
        say(f"{place}: runs {runs[0] + 1} to {runs[-1] + 1} are done", args.progress)
    whole = [result for result in results if result is not None]
    return chunks.finish(whole, job.algorithm, plan, store, began)


def _planned(
    args: Run, job: build.Job, at_once: int | str, machines: executors.Executor
) -> ChunkPlan:
    """Where to cut, and the engine: as the arguments say, or as one of the machines finds."""
    if at_once != "auto" and args.engine != "auto":
        plan = plan_chunks(*job.inputs, job.options, at_once)
        return plan._replace(engine=args.engine)
    threads = torch.get_num_threads()
    question = (_sent(args), at_once, machines.slots, machines.sharing, threads)
    ((_, (size, why, engine)),) = machines.run(survey, [question])
    return ChunkPlan(cut(len(job.key), size), why, engine)


def _sent(args: Run) -> Words:
    """The arguments for another process, which may run in another folder."""
    root = None if args.data_root is None else args.data_root.absolute()
    words = to_json(dataclasses.replace(args, data_root=root))
    return words | {"command": type(args).__name__}


@functools.lru_cache(maxsize=1)
def _received(sent: str, device: str) -> tuple[Run, build.Job]:
    """On another machine: the arguments that were sent as JSON, and their job on this device.

    All chunks of a job receive the same job, so that they share what is compiled for it.
    """
    words = json.loads(sent)
    args, job = rebuilt(words | {"device": device})
    args = dataclasses.replace(args, device=words["device"])
    # the options record the arguments as they were typed; chunks that are done are kept instead of
    # checkpoints
    options = build.run_options(args).changed(progress=False, checkpoint_every=None)
    return args, dataclasses.replace(job, options=options)


def rebuilt(words: Words) -> tuple[Run, build.Job]:
    """The arguments that config.json records, and their job; several runs are always a sweep.

    Raises:
        ValueError: They ask for something that cannot be done.
    """
    args = from_json(words)
    job = build.job(dataclasses.replace(args, out=None, resume=False, resume_anyway=False))
    if job.key.ndim == 2 and not members(job.algorithm):
        algorithm = sweep([job.algorithm] * len(job.key))
        job = dataclasses.replace(job, algorithm=algorithm)
    return args, job


def survey(
    sent: Words,
    at_once: int | str,
    devices: int,
    sharing: int,
    threads: int,
    device: str,
) -> tuple[int, str, str]:
    """Work for an executor: the size of chunks that fits here, why, and the engine for them."""
    torch.set_num_threads(threads)
    args, job = _received(json.dumps(sent), device)
    batch = args.batch_size
    plan = plan_chunks(*job.inputs, job.options, at_once, devices=devices, sharing=sharing)
    first = plan.chunks[0]
    engine = str(args.engine)
    if engine == "auto":
        few = part(job.algorithm, first)
        scenario = job.scenario.part(first)
        engine = sizing.choose(few, scenario, job.key[list(first)], batch, args.epochs)
    return len(first), plan.why, engine


def chunk(sent: Words, runs: list[int], engine: str, name: str, threads: int, device: str) -> bytes:
    """Work for an executor: the packed result of these runs, under this name."""
    torch.set_num_threads(threads)
    _, job = _received(json.dumps(sent), device)
    few = part(job.algorithm, runs)
    scenario = job.scenario.part(runs)
    result = run_with(few, scenario, job.key[runs], job.options.changed(engine=engine))
    return pack(result, name)
