"""`run`: train an algorithm on a scenario, task by task, evaluating as it goes. One run, or a sweep of them in one program.

Nothing in the loop asks the device for a value: metrics stay there until an epoch ends.
"""

import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from clfunc import tree
from clfunc.driver import checkpoint
from clfunc.driver import run_state as standing
from clfunc.driver.checkpoint import Keeper
from clfunc.driver.loop import Loop, Trainer, steps_of
from clfunc.driver.options import RunOptions
from clfunc.driver.progress import Progress
from clfunc.driver.timeline import Requests, Skip, Timeline, timeline
from clfunc.engine import scan as engines
from clfunc.engine.sweep import coordinates, members, sweep
from clfunc.results import plots
from clfunc.results import result as results
from clfunc.results.files import check_writable, tidy
from clfunc.results.result import Result
from clfunc.scenarios import Scenario
from clfunc.settings import find, plain
from clfunc.types import Algorithm, Keys


def run(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    *,
    epochs: int = 1,
    batch_size: int = 64,
    engine: str = "auto",
    evaluate: str | int = "seen",
    probe_every: int | None = None,
    requests: Requests = (),
    skip: Skip = (),
    device: torch.device | str | None = None,
    out: str | Path | None = None,
    resume: bool | Literal["anyway"] = False,
    checkpoint_every: int | None = None,
    progress: bool = True,
    config: dict[str, Any] | None = None,
) -> Result:
    """Train on every task of a scenario and evaluate.

    Args:
        algorithm: One, or a `sweep` of many.
        scenario: Shared by all runs, or with a runs axis of its own.
        key: `[2]`, or `[runs, 2]` for as many runs in one program; run i is what it would be alone with `key[i]`.
        epochs: Passes over each task, >= 1.
        batch_size: Examples in a step of one run, >= 1. An epoch's last batch is filled up from the epoch's beginning.
        engine: `eager`, `trace`, `compile`, `cudagraph` (on CUDA alone), or `auto`, which chooses and says what it chose; see
            `clfunc.engine.scan`.
        evaluate: After each task, test all tasks `seen`, the `current` one, all seen ones every n tasks (and at the end), or
            `none`.
        probe_every: Call the algorithm's `probe`, if it has one, about every so many steps too, not just after each task.
        requests: What to unlearn and when: `{1: [ForgetSet(task=0)]}` forgets task 0 after task 1. Tasks count from 0. One
            mapping that all runs share, or a list with a mapping for each. All tasks seen are tested after it.
        skip: Tasks that are never trained, counted from 0; one set that all runs share, or a list with a set for each.
        device: Where to run; the key's device if not given.
        out: A folder for results, figures and checkpoints; nothing is written without. SIGTERM and Ctrl-C then leave a
            checkpoint before they stop the run (a second one stops it at once).
        resume: Go on from the newest good checkpoint in `out`, if there is one; the result has the bits of a run that was
            never stopped. Everything that decides it must be as it was. `"anyway"` lets torch, the device and the number
            of threads be others, which the last bits may show.
        checkpoint_every: Save about every so many steps; if not given, when a task ends and once a minute. The last two
            checkpoints are kept.
        progress: Show a progress bar and the engine's choice.
        config: What else to record in config.json, such as the command line.

    Raises:
        ValueError: A number out of range, an algorithm whose head does not fit the scenario, a request that cannot be met,
            an `out` not writable, a checkpoint that is another run's or damaged (`checkpoint.Refused`).
        Interrupted: A KeyboardInterrupt: the run was asked to stop, and has left a checkpoint.
    """
    runs = key.shape[0] if key.ndim == 2 else None
    where = torch.device(device) if device is not None else key.device
    key = key.to(where)
    check(
        algorithm,
        scenario,
        key,
        epochs,
        batch_size,
        engine,
        evaluate,
        probe_every,
        checkpoint_every,
    )
    if resume and out is None:
        raise ValueError("resume needs out, the folder of the run to go on with")
    if out is not None:
        check_writable(Path(out))
    events = timeline(scenario, algorithm, runs, requests, skip)
    about = _config(algorithm, scenario, key, epochs, batch_size, engine) | events.plain()
    about |= {
        "evaluate": evaluate,
        "probe_every": probe_every,
        "checkpoint_every": checkpoint_every,
    }
    about |= {"device": torch.cuda.get_device_name(where) if where.type == "cuda" else str(where)}
    about |= {"data_sha256": _digest(scenario)} if out is not None else {}
    results.check_config(about | (config or {}))
    began = time.perf_counter()
    every = probe_every, checkpoint_every
    loop = loop_of(algorithm, scenario.to(where), key, epochs, batch_size, evaluate, events, *every)

    with (
        torch.no_grad(),
        Progress(progress, loop.planned_steps(), len(scenario.phases), epochs) as bar,
    ):
        saved = _saved(Path(out), about, resume, loop, bar) if out is not None else None
        keeper = Keeper(Path(out), checkpoint_every) if out is not None else None
        trainer = Trainer(loop, engine, bar, keeper, about)
        with keeper or nullcontext():
            at = trainer.run(key, saved)
        bar.say(_diverged(at.diverged))

    used = trainer.plan.engine if trainer.plan else engine
    result = Result(
        accuracy=at.accuracy,
        training=at.training,
        validation=at.validation,
        params=at.params,
        state=at.state,
        config=about | (config or {}) | {"engine": used},
        coordinates=coordinates(algorithm),
        steps=at.done,
        train_seconds=at.seconds,
        wall_seconds=at.wall + time.perf_counter() - began,
        engine=used,
        probes=at.probes,
        pictures=at.pictures,
        events=events.events,
        snapshots=at.snapshots,
        diverged=at.diverged,
    )
    if out is not None:
        for folder in (Path(out), Path(out) / "figures"):
            tidy(folder)
        plots.save(results.save(result, Path(out)), Path(out) / "figures")
    return result


def loop_of(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    epochs: int,
    batch_size: int,
    evaluate: str | int,
    events: Timeline | None = None,
    probe_every: int | None = None,
    save_every: int | None = None,
) -> Loop:
    """What `run` does, for arguments that were checked; without `events`, every task is trained."""
    runs = key.shape[0] if key.ndim == 2 else None
    many = algorithm if runs is None or members(algorithm) else sweep([algorithm] * runs)
    steps = steps_of(scenario, batch_size)
    events = events or timeline(scenario, algorithm, runs, {}, ())
    return Loop(
        many,
        scenario,
        runs,
        epochs,
        batch_size,
        evaluate,
        steps,
        events,
        probe_every,
        save_every,
    )


def _saved(
    out: Path, about: dict[str, Any], resume: bool | Literal["anyway"], loop: Loop, bar: Progress
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The checkpoint to go on from; where none is wanted, the folder is cleared of any."""
    if not resume:
        checkpoint.clear(out)
        return None
    here, events = json.loads(json.dumps(about)), len(loop.timeline.events)

    def same(found: dict[str, Any]) -> None:
        held = found.get("config")
        if not isinstance(held, dict):
            raise ValueError("it does not say whose it is")
        there, wanted = (_lasting(c) if resume == "anyway" else c for c in (held, here))
        parts = checkpoint.differences(there, wanted)
        if parts:
            more = f" and {len(parts) - 6} more" if len(parts) > 6 else ""
            raise checkpoint.Refused(
                f"cannot resume {out}, it is another run's: {', '.join(parts[:6])}{more}"
            )
        standing.check(found, events, loop.epochs, max(loop.steps))
        if found.get("plan"):
            engines.check_engine(found["plan"][0], loop.scenario.data.y.device)

    saved = checkpoint.load(out, same, bar.warn)
    place = saved[1]["place"] if saved else {}
    if not place:
        bar.say(f"no checkpoint in {out}: starting at the beginning")
    elif place["event"] == events:
        bar.say(f"{out} is finished, after {place['done']} steps: nothing left to train")
    else:
        bar.say(f"resuming {out} at step {place['done']}")
    return saved


def _lasting(config: dict[str, Any]) -> dict[str, Any]:
    """What must be as it was, wherever a run goes on."""
    return {
        name: value
        for name, value in config.items()
        if name not in ("versions", "device", "threads")
    }


def _digest(scenario: Scenario) -> str:
    """Of the stored examples and of the first and last task, so that a run is not taken up on others.

    What a task computes (a mean, an angle) counts to some three digits: threads and devices may differ in the last ones.
    """
    computed = tree.leaves((scenario.train(0), scenario.test(scenario.num_tasks - 1)))
    rounded = [
        leaf.mul(2**12).round().to(torch.int64) if leaf.is_floating_point() else leaf
        for leaf in computed
    ]
    return checkpoint.digest((*tree.leaves(scenario.data), *rounded))


def _diverged(steps: Tensor) -> str:
    """A line about the runs that have diverged, if any."""
    gone = [(run, step) for run, step in enumerate(steps.reshape(-1).tolist()) if step >= 0]
    some = ", ".join(f"{run} at step {step}" for run, step in gone[:8]) + (
        ", ..." if len(gone) > 8 else ""
    )
    return (
        f"diverged, and frozen before: {len(gone)} of {steps.numel()} run(s): {some}"
        if gone
        else ""
    )


def check(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    epochs: int,
    batch_size: int,
    engine: str = "auto",
    evaluate: str | int = "seen",
    probe_every: int | None = None,
    checkpoint_every: int | None = None,
) -> None:
    """Raise ValueError, in one line, for what `run` cannot do."""
    counts = {
        "epochs": epochs,
        "batch_size": batch_size,
        "probe_every": probe_every,
        "checkpoint_every": checkpoint_every,
    }
    for name, number in counts.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, given {number}")
    engines.check_engine(engine, key.device)
    if evaluate not in ("seen", "current", "none") and not (
        isinstance(evaluate, int) and evaluate >= 1
    ):
        raise ValueError(
            f"evaluate must be 'seen', 'current', 'none' or a number of tasks, given {evaluate!r}"
        )
    if key.shape[-1:] != (2,) or key.ndim > 2:
        raise ValueError(f"key must be [2], or [runs, 2] for a sweep, given {list(key.shape)}")
    size, runs = members(algorithm), key.shape[0] if key.ndim == 2 else None
    if size and size != runs:
        raise ValueError(
            f"a sweep of {size} needs a key of shape [{size}, 2], given {list(key.shape)}"
        )
    if scenario.runs not in (None, runs):
        raise ValueError(
            f"the scenario has {scenario.runs} runs, so key must be [{scenario.runs}, 2], given {list(key.shape)}"
        )
    room = find(algorithm.settings, "num_tasks")
    if room is not None and room < scenario.num_tasks:
        raise ValueError(
            f"the scenario has {scenario.num_tasks} tasks, given an algorithm for num_tasks={room}"
        )
    _check_head(find(algorithm.settings, "head"), scenario)


def _check_head(head: dict[str, Any] | None, scenario: Scenario) -> None:
    if head is None:
        return
    fits, given = (
        scenario.head().settings,
        f"{head['name']} head for {len(head['classes'])} task(s)",
    )
    if scenario.mixed and head["name"] not in ("mtl", "stl"):
        raise ValueError(
            f"a joint scenario mixes tasks in a batch and needs an mtl or stl head, given a {given}"
        )
    if not scenario.mixed and head["name"] not in (scenario.paradigm, fits["name"]):
        raise ValueError(
            f"a {scenario.paradigm} scenario needs a {fits['name']} head, given a {given}: use scenario.head()"
        )
    if head["name"] in ("til", "cil", "mtl") and len(head["classes"]) < scenario.num_tasks:
        raise ValueError(
            f"the scenario has {scenario.num_tasks} tasks, given a {given}: use scenario.head()"
        )
    width, needed = (
        sum(h["classes"]) if h["name"] == "cil" else max(h["classes"]) for h in (head, fits)
    )
    if width < needed:
        raise ValueError(
            f"the scenario needs {needed} classes in a head, given {width}: use scenario.head()"
        )


def _config(
    algorithm: Algorithm, scenario: Scenario, key: Keys, epochs: int, batch_size: int, engine: str
) -> dict[str, Any]:
    """Everything that decides a result."""
    settings = plain(algorithm.settings)
    name = (
        settings["members"][0]["name"] if members(algorithm) else settings.get("name", "algorithm")
    )
    return {
        "algorithm": name,
        "scenario": scenario.name,
        "dataset": scenario.dataset,
        "paradigm": scenario.paradigm,
        "tasks": scenario.num_tasks,
        "phases": list(scenario.phases),
        "epochs": epochs,
        "batch_size": batch_size,
        "engine": engine,
        "threads": torch.get_num_threads(),
        "keys": key.reshape(-1, 2).tolist(),
        "seeds": [int(low + (high << 32)) for low, high in key.reshape(-1, 2).tolist()],
        "settings": settings,
        "scenario_settings": plain(scenario.settings),
        "versions": results.versions(),
    }


def run_with(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    options: RunOptions,
    *,
    out: str | Path | None = None,
    resume: bool | Literal["anyway"] = False,
) -> Result:
    """`run`, with its options as one value."""
    return run(algorithm, scenario, key, out=out, resume=resume, **vars(options))


def refuse_impossible(
    algorithm: Algorithm, scenario: Scenario, key: Keys, options: RunOptions
) -> None:
    """Raise ValueError, in one line, for what `run` cannot do."""
    check(
        algorithm,
        scenario,
        key,
        options.epochs,
        options.batch_size,
        options.engine,
        options.evaluate,
        options.probe_every,
        options.checkpoint_every,
    )
