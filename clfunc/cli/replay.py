"""Where two runs part between what they have in common: both are lived again from there, a step of each at a time.

A run is a function of its arguments, which config.json holds, and of a checkpoint. So from the last checkpoint that both
folders hold, leaf for leaf, or from a beginning that they share, both are taken up in eager mode and compared after every step.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from clfunc import tree
from clfunc.cli import many
from clfunc.driver import checkpoint
from clfunc.driver.loop import Trainer, start_and_order
from clfunc.driver.progress import Progress
from clfunc.driver.run import loop_of
from clfunc.driver.run_state import Standing, check
from clfunc.engine import scan as engines
from clfunc.experiments import diff as difference
from clfunc.experiments.diff import Part
from clfunc.results import store as archive

Held = dict[
    tuple[int, ...], tuple[dict[str, Tensor], checkpoint.About]
]  # a folder's checkpoints by where they were taken


def parting(a: Path, b: Path, differ: bool) -> list[str]:
    """A line of what two runs' checkpoints tell, or none; if they or the results `differ`, by a replay from the last alike."""
    left, right = held(a), held(b)
    common = sorted(left.keys() & right.keys())
    if not common:
        return ["no replay: the folders hold no checkpoint of one step"] if differ else []
    runs = len(archive.read_json(a / "config.json").get("seeds", [0]))
    apart = [
        (at, part) for at in common if (part := _first(left[at][0], right[at][0], runs, at[-1]))
    ]
    if len(apart) == len(common):
        return [
            f"apart at step {apart[0][0][-1]}, the first that both hold a checkpoint of: {apart[0][1]}"
        ]
    if not (differ or apart):
        return []
    start = max(set(common) - {at for at, _ in apart})
    try:
        return [_replayed(_Way(a, *left[start]), _Way(b, *right[start]), start[-1], runs)]
    except Exception as error:  # whatever edited arguments make the factories raise
        return [
            f"no replay from step {start[-1]}: {' '.join(str(error).split())[:300] or type(error).__name__}"
        ]


def held(folder: Path) -> Held:
    """The sound checkpoints of a folder, by event, epoch, step of it, and steps done."""
    found: Held = {}
    for name in (checkpoint.PREVIOUS, checkpoint.NEWEST):
        try:
            tensors, about = checkpoint.read(folder, name)
            found[tuple(int(about["place"][n]) for n in ("event", "epoch", "step", "done"))] = (
                tensors,
                about,
            )
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _first(a: dict[str, Tensor], b: dict[str, Tensor], runs: int, step: int) -> Part | None:
    """The first leaf of params and state that differs."""
    left, right = (
        [item for item in sorted(side.items()) if item[0].startswith(("params.", "state."))]
        for side in (a, b)
    )
    return next(difference.leaves(left, right, runs, step), None)


def _replayed(a: "_Way", b: "_Way", start: int, runs: int) -> str:
    """Both ways, a step of each at a time."""
    done = start
    for left, right in zip(a.steps(), b.steps(), strict=False):
        if (left.done, left.event) != (right.done, right.event):
            return f"replayed from step {start}: alike to step {done}, then one goes on to another task"
        part = _first(_named(left), _named(right), runs, left.done)
        if part:
            when = (
                f"after step {left.done}"
                if left.step
                else f"at the end of event {left.event}, after step {left.done}"
            )
            return f"replayed from step {start}, the runs part {when}: {part}"
        done = left.done
    return f"replayed from step {start}: alike to step {done}: it is not the arguments that make the difference"


def _named(at: Standing) -> dict[str, Tensor]:
    return dict(tree.items({"params": at.params, "state": at.state}))


class _Paused(Exception):
    """Where a run might be saved."""

    def __init__(self, at: Standing) -> None:
        super().__init__()
        self.at = at


class _Stepper(Trainer):
    """Stops wherever a run may be saved; it may be saved after every step."""

    def pause(self, at: Standing, ended: bool = False) -> NoReturn:
        raise _Paused(at)


class _Way:
    """A run taken up from a checkpoint, by the arguments that its folder records."""

    def __init__(self, folder: Path, tensors: dict[str, Tensor], about: checkpoint.About) -> None:
        words = archive.read_json(folder / "config.json").get("arguments")
        if not isinstance(words, dict):
            raise ValueError(
                f"{folder} was not made by the clfunc command, so how to make it again is not known"
            )
        args, job = many.rebuilt(words)
        algorithm = job.algorithm._replace(probe=None)  # it looks, and changes nothing
        loop = loop_of(
            algorithm, job.scenario, job.key, args.epochs, args.batch_size, "none", save_every=1
        )
        check(about, len(loop.timeline.events), loop.epochs, max(loop.steps))
        start, self.order = start_and_order(job.key.to(job.device))
        self.trainer = _Stepper(loop, "eager", Progress(False, 0, 0, 0), None, {})
        self.start = self.trainer.resumed(loop.begin(start), tensors, about)
        self.trainer.plan = engines.EnginePlan("eager", 1, "a replay")

    def steps(self) -> Iterator[Standing]:
        """The standings after each step, and after each event."""
        at = self.start
        while at.event < len(self.trainer.loop.timeline.events):
            with torch.no_grad():
                try:
                    self.trainer.live(at, self.order)
                except _Paused as paused:
                    at = paused.at
            yield at
