"""`run`: train an algorithm on a scenario, task by task, and evaluate it.

It trains one run, or a sweep of many in one program. The loop asks the device for no value, except
whether a run has diverged: metrics stay on the device until an epoch ends.
"""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clfunc.driver import loop
from clfunc.driver.algorithm_record import AlgorithmRecord, read_algorithm
from clfunc.driver.checkpoint import Description
from clfunc.driver.config import run_config
from clfunc.driver.loop import (
    Stage,
    Trainer,
    make_review,
    make_step,
    start_and_order,
    steps_of,
)
from clfunc.driver.options import RunOptions
from clfunc.driver.progress import Progress
from clfunc.driver.refusals import refuse_impossible as refuse_impossible
from clfunc.driver.refusals import refuse_unfit
from clfunc.driver.resume import Resume, Saved, find_checkpoint
from clfunc.driver.run_state import RunState, from_tensors, to_tensors
from clfunc.driver.saver import Saver
from clfunc.driver.schedule import Schedule
from clfunc.driver.segments import Stepper
from clfunc.driver.timeline import Requests, Skip, timeline
from clfunc.engine import scan as engines
from clfunc.engine.sweep import coordinates, sweep
from clfunc.results import plots
from clfunc.results import result as results
from clfunc.results.files import check_writable, tidy
from clfunc.results.result import Result
from clfunc.scenarios import Scenario
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
    resume: Resume = False,
    checkpoint_every: int | None = None,
    progress: bool = True,
    config: dict[str, Any] | None = None,
) -> Result:
    """Train on every task of a scenario and evaluate.

    >>> import clfunc as cl
    >>> scenario = cl.scenarios.permuted(cl.datasets.load("digits"), 2, cl.random.key(0))
    >>> model = cl.mlp(scenario.inputs, hidden=(8,), head=scenario.head())
    >>> algorithm = cl.finetuning(model, cl.sgd(0.1))
    >>> result = cl.run(algorithm, scenario, cl.random.key(1), engine="eager", progress=False)
    >>> result.accuracy.shape, result.steps
    (torch.Size([2, 2]), 46)

    Args:
        algorithm: One algorithm, or a `sweep` of many.
        scenario: One that all runs share, or one with an axis of runs.
        key: `[2]`, or `[runs, 2]` for as many runs in one program. Run i is what it would be alone
            with `key[i]`.
        epochs: Passes over each task, >= 1.
        batch_size: Examples in a step of one run, >= 1. An epoch's last batch is filled up from the
            epoch's beginning.
        engine: `eager`, `trace`, `compile`, `cudagraph` (on CUDA alone), or `auto`, which chooses
            one and prints it; see `clfunc.engine.scan`.
        evaluate: After each task, test all tasks `seen`, the `current` one, all seen ones every n
            tasks (and at the end), or `none`.
        probe_every: Call the algorithm's `probe`, if it has one, about every so many steps too, not
            just after each task.
        requests: What to unlearn and when: `{1: [ForgetSet(task=0)]}` forgets task 0 after task 1.
            Tasks count from 0. One mapping that all runs share, or a list with a mapping for each.
            All tasks seen are tested after it.
        skip: Tasks that are never trained, counted from 0; one set that all runs share, or a list
            with a set for each.
        device: Where to run; the key's device if not given.
        out: A folder for results, figures and checkpoints; nothing is written without. SIGTERM and
            Ctrl-C then leave a checkpoint before they stop the run (a second one stops it at once).
        resume: Go on from the newest good checkpoint in `out`, if there is one. The result has the
            bits of a run that was never stopped. Everything that decides the result must be as it
            was. `"anyway"` lets torch, the device and the number of threads differ, which the last
            bits may show.
        checkpoint_every: Save about every so many steps; if not given, when a task ends and once a
            minute. The last two checkpoints are kept. It may differ when a run goes on.
        progress: Show a progress bar and the engine's choice.
        config: What else to record in config.json, such as the command line.

    Raises:
        ValueError: A number out of range, an algorithm whose head does not fit the scenario, a
            request that cannot be met, an `out` not writable, a setting that is a function which a
            file cannot tell from another, a checkpoint that is another run's or damaged
            (`checkpoint.Refused`).
        Interrupted: A KeyboardInterrupt: the run was asked to stop, and has left a checkpoint.
    """
    options = RunOptions(
        epochs=epochs,
        batch_size=batch_size,
        engine=engine,
        evaluate=evaluate,
        probe_every=probe_every,
        requests=requests,
        skip=skip,
        device=device,
        checkpoint_every=checkpoint_every,
        progress=progress,
        config=config,
    )
    return run_with(algorithm, scenario, key, options, out=out, resume=resume)


def run_with(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    options: RunOptions,
    *,
    out: str | Path | None = None,
    resume: Resume = False,
) -> Result:
    """`run`, with its options as one value."""
    began = time.perf_counter()
    folder = Path(out) if out is not None else None
    device = torch.device(options.device) if options.device is not None else key.device
    key = key.to(device)
    record = read_algorithm(algorithm)
    refuse_unfit(record, scenario, key, options)
    if resume and folder is None:
        raise ValueError("resume needs out, the folder of the run to go on with")
    if folder is not None:
        check_writable(folder)
    runs = key.shape[0] if key.ndim == 2 else None
    events = timeline(scenario, record, runs, options.requests, options.skip)
    config = run_config(record, scenario, key, options, events, on_disk=folder is not None)
    extra_config = options.config or {}
    results.check_config(config | extra_config)

    schedule = Schedule(
        scenario=scenario.to(device),
        runs=runs,
        options=options,
        steps=steps_of(scenario, options.batch_size),
        timeline=events,
        review_size=record.review_size(options.batch_size),
    )
    many = _for_runs(algorithm, record, runs)
    run_state, trainer = _train(many, schedule, key, config, folder, resume, began)
    plan = trainer.stepper.plan
    used_engine = plan.engine if plan is not None else options.engine
    result = Result(
        accuracy=run_state.accuracy,
        training=run_state.training,
        validation=run_state.validation,
        params=run_state.params,
        state=run_state.state,
        config=config | extra_config | {"engine": used_engine},
        coordinates=coordinates(algorithm),
        steps=run_state.done,
        train_seconds=run_state.seconds,
        wall_seconds=run_state.wall + time.perf_counter() - began,
        engine=used_engine,
        probes=run_state.probes,
        pictures=run_state.pictures,
        events=events.events,
        snapshots=run_state.snapshots,
        diverged=run_state.diverged,
    )
    if folder is not None:
        _write(result, folder)
    return result


def make_trainer(algorithm: Algorithm, schedule: Schedule, bar: Progress) -> Trainer:
    """The parts of a run, for an algorithm that has the axis of runs where the schedule has it."""
    stepper = Stepper(
        step=make_step(algorithm, schedule.scenario, schedule.runs),
        data=schedule.scenario.data,
        engine=schedule.options.engine,
        all_steps=schedule.all_steps,
        review_steps=schedule.all_review_steps,
        say=bar.say,
    )
    review = make_review(algorithm, schedule.scenario, schedule.runs)
    return Trainer(
        algorithm=algorithm,
        schedule=schedule,
        stepper=stepper,
        review=review,
        note=bar.note,
    )


def resumed(trainer: Trainer, start: Keys, saved: Saved) -> RunState:
    """The run state of a checkpoint. The trainer goes on with the engine that it was taken with."""
    tensors, description = saved
    if description["plan"]:
        engine, unroll = description["plan"]
        trainer.stepper.set_plan(engines.EnginePlan(engine, unroll, "as before"))
    return from_tensors(trainer.first_run_state(start), tensors, description)


def _for_runs(algorithm: Algorithm, record: AlgorithmRecord, runs: int | None) -> Algorithm:
    """The algorithm with the axis of runs, if there is one."""
    if runs is None or record.members is not None:
        return algorithm
    return sweep([algorithm] * runs)


def _train(
    algorithm: Algorithm,
    schedule: Schedule,
    key: Keys,
    config: dict[str, Any],
    folder: Path | None,
    resume: Resume,
    began: float,
) -> tuple[RunState, Trainer]:
    """Plays every stage from the beginning or from a checkpoint; after each it may save."""
    options = schedule.options
    phases = len(schedule.scenario.phases)
    events = len(schedule.timeline.events)
    start, order = start_and_order(key)
    with (
        torch.no_grad(),
        Progress(options.progress, schedule.planned_steps(), phases, options.epochs) as bar,
    ):
        saved, saver = None, None
        if folder is not None:
            saved = find_checkpoint(folder, config, resume, schedule, bar)
            saver = Saver(folder, options.checkpoint_every)
        trainer = make_trainer(algorithm, schedule, bar)

        def saved_form() -> tuple[dict[str, Tensor], Description]:
            tensors, description = to_tensors(run_state)
            description["place"]["wall"] += time.perf_counter() - began
            plan = trainer.stepper.plan
            description["plan"] = [plan.engine, plan.unroll] if plan is not None else None
            return tensors, description | {"config": config}

        with saver or nullcontext():
            if saved is None:
                run_state = trainer.first_run_state(start)
            else:
                run_state = resumed(trainer, start, saved)
                bar.skip(run_state.done)
            for stage in loop.play(trainer, run_state, order):
                run_state = stage.run_state
                _show(stage, bar)
                if saver is not None and stage.can_resume:
                    is_end_of_task = stage.name == "end_event"
                    is_end_of_run = run_state.event == events
                    saver.save_if_due(run_state.done, is_end_of_task, is_end_of_run, saved_form)
        bar.say(_diverged_line(run_state.diverged))
    return run_state, trainer


def _show(stage: Stage, bar: Progress) -> None:
    if stage.name == "steps":
        assert stage.phase is not None
        bar.advance(stage.steps, stage.phase, stage.run_state.epoch)


def _diverged_line(diverged: Tensor) -> str:
    """A line about the runs that have diverged; empty if none has."""
    lost = []
    for run_number, step in enumerate(diverged.reshape(-1).tolist()):
        if step >= 0:
            lost.append(f"{run_number} at step {step}")
    if not lost:
        return ""
    more = ", ..." if len(lost) > 8 else ""
    listed = ", ".join(lost[:8]) + more
    return f"diverged, and frozen before: {len(lost)} of {diverged.numel()} run(s): {listed}"


def _write(result: Result, folder: Path) -> None:
    """Writes the result's files and figures, and removes what a killed process left."""
    figures = folder / "figures"
    tidy(folder)
    tidy(figures)
    plots.save(results.save(result, folder), figures)
