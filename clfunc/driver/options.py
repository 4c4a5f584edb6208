"""`RunOptions`: what a run is told besides its algorithm, scenario and keys. It travels as one value through every layer."""

from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import torch

from clfunc.driver.timeline import Requests, Skip


class RunKeywords(TypedDict, total=False):
    """The keywords of `run` that `run_chunks`, `halve`, `run_until` and `audit` take too. See `RunOptions`."""

    epochs: int
    batch_size: int
    engine: str
    evaluate: str | int
    probe_every: int | None
    requests: Requests
    skip: Skip
    device: torch.device | str | None
    checkpoint_every: int | None
    progress: bool
    config: dict[str, Any] | None


@dataclass(frozen=True)
class RunOptions:
    """How to train, test and tell; `run` documents each field. Task numbers count from 0."""

    epochs: int = 1
    batch_size: int = 64
    engine: str = "auto"
    evaluate: str | int = "seen"
    probe_every: int | None = None
    requests: Requests = field(default_factory=dict)  # for all runs, or one for each
    skip: Skip = ()  # for all runs, or one for each
    device: torch.device | str | None = None
    checkpoint_every: int | None = None
    progress: bool = True
    config: dict[str, Any] | None = None  # what else to record in config.json

    def changed(self, **fields: Any) -> "RunOptions":
        """The same options but for these fields."""
        return replace(self, **fields)
