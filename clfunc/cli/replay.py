"""Where two runs part between their checkpoints: both run again, and are compared step by step.

A run is a function of its arguments, which config.json holds, and of a checkpoint. So both runs go
on in eager mode from the last checkpoint that both folders hold, leaf for leaf, and are compared
after every step and every event.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from clfunc import tree
from clfunc.cli import many
from clfunc.driver import checkpoint, loop
from clfunc.driver.algorithm_record import read_algorithm
from clfunc.driver.loop import Stage, start_and_order, steps_of
from clfunc.driver.options import RunOptions
from clfunc.driver.progress import Progress
from clfunc.driver.run import make_trainer
from clfunc.driver.run_state import RunState, from_tensors, refuse_unsound
from clfunc.driver.schedule import Schedule
from clfunc.driver.timeline import timeline
from clfunc.engine import scan as engines
from clfunc.experiments import diff as difference
from clfunc.experiments.diff import Difference
from clfunc.results import store

Saved = tuple[dict[str, Tensor], checkpoint.Description]
Place = tuple[int, ...]  # event, epoch, step of the epoch, and steps done in all
_REASON = 300  # characters of an error in a line


def parting(a: Path, b: Path, differ: bool) -> list[str]:
    """At most one line about where two runs part, from their checkpoints.

    Args:
        a: The folder of a run.
        b: The folder of another run.
        differ: Whether their results differ. If they or the checkpoints do, the runs are replayed
            from the last common one.
    """
    left, right = checkpoints(a), checkpoints(b)
    common = sorted(left.keys() & right.keys())
    if not common:
        return ["no replay: the folders hold no checkpoint of one step"] if differ else []
    runs = len(store.read_json(a / "config.json").get("seeds", [0]))
    apart: dict[Place, Difference] = {}
    for place in common:
        part = _first_difference(left[place][0], right[place][0], runs, place[-1])
        if part is not None:
            apart[place] = part
    if len(apart) == len(common):
        first = common[0]
        return [
            f"apart at step {first[-1]}, the first that both hold a checkpoint of: {apart[first]}"
        ]
    if not (differ or apart):
        return []
    start = max(place for place in common if place not in apart)
    try:
        return [_compare(replay(a, left[start]), replay(b, right[start]), start[-1], runs)]
    except Exception as error:  # edited arguments may make the factories raise anything
        reason = " ".join(str(error).split())[:_REASON] or type(error).__name__
        return [f"no replay from step {start[-1]}: {reason}"]


def checkpoints(folder: Path) -> dict[Place, Saved]:
    """The sound checkpoints of a folder, by where they were taken."""
    found: dict[Place, Saved] = {}
    for name in (checkpoint.PREVIOUS, checkpoint.NEWEST):
        try:
            tensors, description = checkpoint.read(folder, name)
            numbers = description["place"]
            place = tuple(int(numbers[n]) for n in ("event", "epoch", "step", "done"))
        except (ValueError, KeyError, TypeError):
            continue
        found[place] = tensors, description
    return found


def replay(folder: Path, saved: Saved) -> Iterator[Stage]:
    """The stages of a run from a checkpoint on: each step, and the end of each event.

    The run is made by the arguments that its folder records.

    Raises:
        ValueError: The folder does not record how to make the run again, or the checkpoint is not
            of this run.
    """
    words = store.read_json(folder / "config.json").get("arguments")
    if not isinstance(words, dict):
        raise ValueError(
            f"{folder} was not made by the clfunc command, so how to make it again is not known"
        )
    args, job = many.rebuilt(words)
    options = RunOptions(
        epochs=args.epochs,
        batch_size=args.batch_size,
        engine="eager",
        evaluate="none",
        checkpoint_every=1,
        progress=False,
    )
    runs = job.key.shape[0] if job.key.ndim == 2 else None
    record = read_algorithm(job.algorithm)
    schedule = Schedule(
        scenario=job.scenario,
        runs=runs,
        options=options,
        steps=steps_of(job.scenario, args.batch_size),
        timeline=timeline(job.scenario, record, runs, {}, ()),
        review_size=record.review_size(args.batch_size),
    )
    algorithm = job.algorithm._replace(probe=None)  # a probe changes nothing
    trainer = make_trainer(algorithm, schedule, Progress(False, 0, 0, 0))
    trainer.stepper.all_steps = (
        1  # every step is a point of the curve, so a segment may be one step
    )
    trainer.stepper.set_plan(engines.EnginePlan("eager", 1, "a replay"))
    start, order = start_and_order(job.key.to(job.device))
    tensors, description = saved
    refuse_unsound(description, len(schedule.timeline.events), *schedule.longest)
    run_state = from_tensors(trainer.first_run_state(start), tensors, description)
    return _resumable(loop.play(trainer, run_state, order))


def _resumable(stages: Iterator[Stage]) -> Iterator[Stage]:
    """The stages that runs are compared after, each made when it is asked for."""
    while True:
        with torch.no_grad():
            stage = next(stages, None)
        if stage is None:
            return
        if stage.can_resume:
            yield stage


def _compare(a: Iterator[Stage], b: Iterator[Stage], start: int, runs: int) -> str:
    """A line about the first stage after which two runs differ."""
    done = start
    for left_stage, right_stage in zip(a, b, strict=False):
        left, right = left_stage.run_state, right_stage.run_state
        if (left.done, left.event) != (right.done, right.event):
            return (
                f"replayed from step {start}: alike to step {done},"
                " then one goes on to another task"
            )
        part = _first_difference(_named(left), _named(right), runs, left.done)
        if part is not None:
            when = f"after step {left.done}"
            if left_stage.name == "end_event":
                when = f"at the end of event {left.event}, {when}"
            return f"replayed from step {start}, the runs part {when}: {part}"
        done = left.done
    return (
        f"replayed from step {start}: alike to step {done}:"
        " it is not the arguments that make the difference"
    )


def _named(run_state: RunState) -> dict[str, Tensor]:
    return dict(tree.items({"params": run_state.params, "state": run_state.state}))


def _first_difference(
    a: dict[str, Tensor], b: dict[str, Tensor], runs: int, step: int
) -> Difference | None:
    """The first leaf of params and state that differs."""
    return next(difference.leaves(_trained(a), _trained(b), runs, step), None)


def _trained(tensors: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """The leaves of params and state, by name."""
    trained = []
    for name, leaf in sorted(tensors.items()):
        if name.startswith(("params.", "state.")):
            trained.append((name, leaf))
    return trained
