"""Resuming: the checkpoint of the same run is found, compared with the run, and read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from clfunc.driver import checkpoint
from clfunc.driver.checkpoint import Description, Refused
from clfunc.driver.progress import Progress
from clfunc.driver.run_state import refuse_unsound
from clfunc.driver.schedule import Schedule
from clfunc.engine import scan as engines

Resume = bool | Literal["anyway"]
Saved = tuple[Mapping[str, Tensor], Description]
_FREE = ("checkpoint_every",)  # entries of the config that decide no result
_FREE_ANYWAY = (
    *_FREE,
    "versions",
    "device",
    "threads",
)  # entries that may show in the last bits only


def find_checkpoint(
    out: Path, config: dict[str, Any], resume: Resume, schedule: Schedule, bar: Progress
) -> Saved | None:
    """The newest good checkpoint in `out`; None where there is none.

    Without `resume` every checkpoint in `out` is removed.

    Raises:
        Refused: It is another run's, or there are checkpoints and none is good.
    """
    if not resume:
        checkpoint.clear(out)
        return None
    events = len(schedule.timeline.events)
    free = _FREE_ANYWAY if resume == "anyway" else _FREE
    device = schedule.scenario.data.y.device

    def check(description: Description) -> None:
        _refuse_other_run(out, description, config, free)
        refuse_unsound(description, events, *schedule.longest)
        if description.get("plan"):
            engines.check_engine(description["plan"][0], device)

    saved = checkpoint.load(out, check, bar.warn)
    if saved is None:
        bar.say(f"no checkpoint in {out}: starting at the beginning")
        return None
    place = saved[1]["place"]
    if place["event"] == events:
        bar.say(f"{out} is finished, after {place['done']} steps: nothing left to train")
    else:
        bar.say(f"resuming {out} at step {place['done']}")
    return saved


def _refuse_other_run(
    out: Path, description: Description, config: dict[str, Any], free: tuple[str, ...]
) -> None:
    """Raise unless the checkpoint's config is this run's, but for the entries in `free`."""
    saved_config = description.get("config")
    if not isinstance(saved_config, dict):
        raise ValueError("it does not say which run it belongs to")
    there = _without(saved_config, free)
    here = _without(json.loads(json.dumps(config)), free)
    differences = checkpoint.differences(there, here)
    if differences:
        listed = ", ".join(differences[:6])
        more = f" and {len(differences) - 6} more" if len(differences) > 6 else ""
        raise Refused(f"cannot resume {out}, it is another run's: {listed}{more}")


def _without(config: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in names}
