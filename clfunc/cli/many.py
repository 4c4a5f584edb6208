"""How a job's runs are done: in one program, in chunks that fit, on several devices, or on a cluster.

A chunk goes to another process or machine as the arguments of the command line and the numbers of its runs, and comes back
as safetensors.
"""

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clfunc.cli import build
from clfunc.driver.options import RunOptions
from clfunc.driver.progress import say
from clfunc.driver.run import run
from clfunc.engine.sweep import members, part, sweep
from clfunc.experiments import chunks, sizing
from clfunc.experiments import executors as cluster
from clfunc.experiments.chunk_store import ChunkStore
from clfunc.experiments.cutting import ChunkPlan, cut, plan_chunks
from clfunc.experiments.halving import check_halving, halve
from clfunc.experiments.until import check_until, run_until
from clfunc.results.packing import pack, unpack
from clfunc.results.result import Result


def prepare(args: build.Run, job: build.Job) -> Callable[[], Result]:
    """Check how the runs are to be done; the function that does them.

    Raises:
        ValueError: Anything wrong with that, in one line.
    """
    how = {"out": args.out, "progress": args.progress} | options(args, job)
    at_once, wanted = runs_at_once(args), (job.algorithm, job.scenario, job.key)
    devices = [device.strip() for device in args.devices.split(",") if device.strip()]
    for device in devices:
        build.device(device, "--devices")
    if len(devices) == 1:
        raise ValueError("--devices takes several, joined by commas: give one to --device")
    _refuse_both(args)
    saved: dict[str, Any] = {
        "resume": "anyway" if args.resume_anyway else args.resume,
        "checkpoint_every": args.checkpoint_every,
    }
    if isinstance(args, build.Sweep) and args.halving:
        check_halving(job.algorithm, job.scenario, job.key, args.eta)
        return lambda: halve(*wanted, eta=args.eta, **how)
    if isinstance(args, build.Sweep) and args.until_ci is not None:
        width, batch = args.until_ci, args.seeds
        check_until(job.scenario, job.key, width, batch, RunOptions(**options(args, job)))
        return lambda: run_until(*wanted, width, batch=batch, runs_at_once=at_once, **how)
    if job.key.ndim == 1:
        return lambda: run(*wanted, **(how | saved))
    if isinstance(args, build.Sweep) and args.cluster == "ray":
        place, threads = (args.cluster_address, args.device), torch.get_num_threads()
        return lambda: _spread(args, job, at_once, cluster.ray_cluster(*place, threads))
    if devices:
        return lambda: _spread(args, job, at_once, cluster.processes(devices))
    return lambda: chunks.run_chunks(*wanted, runs_at_once=at_once, **(how | saved))


def told(result: Result) -> list[str]:
    """What halving or the search for an interval came to, for the end of a run."""
    if "halving" in result.config:
        halving = result.config["halving"]
        last = halving["rungs"][-1]["configurations"]
        kept = [
            ", ".join(f"{name}={value:g}" for name, value in one["settings"].items())
            for one in last
            if one["kept"]
        ]
        began = len(halving["rungs"][0]["configurations"])
        return [f"left of {began} configurations, by {halving['by']} examples: {'; '.join(kept)}"]
    if "until_ci" not in result.config:
        return []
    wanted, found = result.config["until_ci"]["width"], result.config["until_ci"]["configurations"]
    widths = [math.inf if one["interval"] is None else one["interval"] for one in found]
    reached = sum(width < wanted for width in widths)
    return [
        f"95% interval narrower than {wanted:g} points: {reached} of {len(found)}; widest {max(widths):.2f}"
    ]


def _refuse_both(args: build.Run) -> None:
    """Raise ValueError for ways of running that do not go together."""
    if not isinstance(args, build.Sweep):
        return
    spread = {"--cluster": args.cluster != "none", "--devices": bool(args.devices)}
    ways = {"--halving": args.halving, "--until-ci": args.until_ci is not None} | spread
    given = [flag for flag, on in ways.items() if on]
    of = {"eta": "--halving", "max_seeds": "--until-ci", "cluster_address": "--cluster"}
    for name, way in of.items():
        if getattr(args, name) != getattr(build.Sweep, name) and not ways[way]:
            raise ValueError(f"--{name.replace('_', '-')} is of {way}: give that too")
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} do not go together: give one of them")
    if (args.halving or args.until_ci is not None) and (
        args.resume or args.resume_anyway or args.checkpoint_every
    ):
        raise ValueError(
            "--halving and --until-ci keep no checkpoints: leave out --resume and --checkpoint-every"
        )
    if args.halving and args.runs_at_once != "auto":
        raise ValueError("--halving runs all that is left at once: leave out --runs-at-once")


def runs_at_once(args: build.Run) -> "int | str":
    """`auto` or a number; ValueError for anything else."""
    if args.runs_at_once != "auto" and not (args.runs_at_once.isdigit() and int(args.runs_at_once)):
        raise ValueError(
            f"--runs-at-once must be auto or a number from 1, given {args.runs_at_once!r}"
        )
    return "auto" if args.runs_at_once == "auto" else int(args.runs_at_once)


def options(args: build.Run, job: build.Job) -> dict[str, Any]:
    """What `run` takes of the arguments, whatever the runs and wherever they are done."""
    return {
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "engine": args.engine,
        "evaluate": job.evaluate,
        "probe_every": args.probe_every,
        "config": {"arguments": arguments(args)},
    }


def arguments(args: build.Run) -> dict[str, Any]:
    """The arguments as JSON can hold them."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(args).items()
    }


def _spread(
    args: build.Run, job: build.Job, at_once: "int | str", machines: cluster.Executor
) -> Result:
    """Chunks on many machines, each put in its place as it comes."""
    began, algorithm = time.perf_counter(), job.algorithm
    how = options(args, job)
    asked = RunOptions(**how)
    store = ChunkStore(args.out, algorithm, job.scenario, job.key, asked)
    told, threads = _sent(args), torch.get_num_threads()
    plan = store.saved_plan(len(job.key), at_once)
    if plan is None:
        plan = _planned(args, job, at_once, machines)
    say(plan.why, args.progress)
    done = {number: store.find(runs) for number, runs in enumerate(plan.chunks)}
    left = [number for number, found in done.items() if found is None]
    jobs = [
        (told, list(plan.chunks[n]), plan.engine, store.label(plan.chunks[n]), threads)
        for n in left
    ]
    for number, data in machines.run(chunk, jobs):
        runs = plan.chunks[left[number]]
        store.keep(runs, data, plan)
        done[left[number]] = unpack(data, algorithm)
        counted = sum(result is not None for result in done.values())
        say(
            f"chunk {counted}/{len(plan.chunks)}: runs {runs[0] + 1} to {runs[-1] + 1} are done",
            args.progress,
        )
    return chunks.finish(
        [r for _, r in sorted(done.items()) if r is not None], algorithm, plan, store, began
    )


def _planned(
    args: build.Run, job: build.Job, at_once: "int | str", machines: cluster.Executor
) -> ChunkPlan:
    """How to cut, and the engine for all: as asked, or as one of the machines finds."""
    if at_once != "auto" and args.engine != "auto":
        asked = RunOptions(**options(args, job))
        planned = plan_chunks(job.algorithm, job.scenario, job.key, asked, at_once)
        return planned._replace(engine=args.engine)
    question = (_sent(args), at_once, machines.slots, machines.sharing, torch.get_num_threads())
    ((_, (size, why, engine)),) = machines.run(survey, [question])
    return ChunkPlan(cut(len(job.key), size), why, engine)


def _sent(args: build.Run) -> dict[str, Any]:
    """The arguments for another process, whose folder is another."""
    root = None if args.data_root is None else args.data_root.absolute()
    return arguments(dataclasses.replace(args, data_root=root)) | {"command": type(args).__name__}


def _received(
    sent: dict[str, Any], threads: int, device: str
) -> tuple[build.Run, build.Job, dict[str, Any]]:
    """On the other side: the arguments, the job on this device, and what `run` takes, with the arguments as they were."""
    torch.set_num_threads(threads)
    return _rebuilt(json.dumps(sent), device)


@functools.lru_cache(maxsize=1)
def _rebuilt(sent: str, device: str) -> tuple[build.Run, build.Job, dict[str, Any]]:
    """The same for all chunks of a job, so that they share what was compiled for it."""
    words = json.loads(sent)
    args, job = rebuilt(words | {"device": device})
    return dataclasses.replace(args, device=words["device"]), job, options(args, job)


def rebuilt(words: dict[str, Any]) -> tuple[build.Run, build.Job]:
    """The arguments that were recorded as JSON can hold them, and their job; of its runs, many are a sweep.

    Raises:
        ValueError: They ask for nothing that can be done.
    """
    kind = getattr(build, words.get("command", "Sweep" if "grid" in words else "Run"))
    lists = {name: tuple(value) for name, value in words.items() if isinstance(value, list)}
    paths = {
        name: None if words[name] is None else Path(words[name]) for name in ("out", "data_root")
    }
    args = kind(
        **({name: value for name, value in words.items() if name != "command"} | lists | paths)
    )
    again = {"out": None, "resume": False, "resume_anyway": False}
    job = build.job(dataclasses.replace(args, **again))
    if job.key.ndim == 2 and not members(job.algorithm):
        job = dataclasses.replace(job, algorithm=sweep([job.algorithm] * len(job.key)))
    return args, job


def survey(
    sent: dict[str, Any],
    at_once: "int | str",
    devices: int,
    sharing: int,
    threads: int,
    device: str,
) -> tuple[int, str, str]:
    """Work: the size of chunks that fits here, why, and the engine for them."""
    args, job, how = _received(sent, threads, device)
    batch = args.batch_size
    plan = plan_chunks(
        job.algorithm,
        job.scenario,
        job.key,
        RunOptions(**how),
        at_once,
        devices=devices,
        sharing=sharing,
    )
    first, engine = plan.chunks[0], str(args.engine)
    if engine == "auto":
        few = part(job.algorithm, first)
        engine = sizing.choose(
            few, job.scenario.part(first), job.key[list(first)], batch, args.epochs
        )
    return len(first), plan.why, engine


def chunk(
    sent: dict[str, Any], runs: list[int], engine: str, name: str, threads: int, device: str
) -> bytes:
    """Work: the packed result of these runs."""
    _, job, how = _received(sent, threads, device)
    how |= {"engine": engine, "progress": False}
    result = run(part(job.algorithm, runs), job.scenario.part(runs), job.key[runs], **how)
    return pack(result, name)
