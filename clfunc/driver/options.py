"""`RunOptions`: how a run trains, tests and reports, as one value that every layer hands on."""

from dataclasses import dataclass, replace
from typing import Any, TypedDict

import torch

from clfunc.driver.timeline import Requests, Skip


class RunKeywords(TypedDict, total=False):
    """The keywords of `run` that `run_chunks`, `halve`, `run_until` and `audit` take too.

    See `RunOptions`.
    """

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
    """How a run trains, tests and reports. `run` documents each field.

    >>> options = RunOptions(epochs=3)
    >>> options.changed(batch_size=32).epochs
    3
    """

    epochs: int = 1
    batch_size: int = 64
    engine: str = "auto"
    evaluate: str | int = "seen"
    probe_every: int | None = None
    requests: Requests = ()  # one mapping that all runs share, or one a run
    skip: Skip = ()  # one set that all runs share, or one a run
    device: torch.device | str | None = None
    checkpoint_every: int | None = None
    progress: bool = True
    config: dict[str, Any] | None = None  # what else config.json records

    def changed(self, **fields: Any) -> "RunOptions":
        """The same options except for these fields."""
        return replace(self, **fields)
