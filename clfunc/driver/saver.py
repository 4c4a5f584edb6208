"""`Saver`: decides when a run is saved, and stops the run when a signal asks for it."""

import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from clfunc.driver import checkpoint
from clfunc.driver.checkpoint import Description, Interrupted

_SECONDS = 60.0  # between two checkpoints within a task
_COST_SHARE = 20.0  # the next checkpoint waits for so many times the seconds that the last one took


class Saver:
    """Decides when a run is saved, and stops it when SIGTERM or Ctrl-C asks for it.

    As a context manager it handles these signals. A second signal has its usual effect.

    Args:
        out: The folder of the checkpoints.
        every: Save about every so many steps; None saves when a task ends and once a minute.
    """

    def __init__(self, out: Path, every: int | None) -> None:
        self.out = out
        self.every = every
        self.saved_step = 0
        self.saved_time = time.monotonic()
        self.cost = 0.0  # seconds that the last checkpoint took
        self.is_asked_to_stop = False
        self.old_handlers: dict[int, Any] = {}

    def __enter__(self) -> "Saver":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.old_handlers[number] = signal.signal(number, self._ask_to_stop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self.old_handlers.items():
            signal.signal(number, handler)
        self.old_handlers = {}

    def _ask_to_stop(self, number: int, frame: Any) -> None:
        self.is_asked_to_stop = True
        self._restore_handlers()

    def save_if_due(
        self,
        step: int,
        is_end_of_task: bool,
        is_end_of_run: bool,
        to_tensors: Callable[[], tuple[Mapping[str, Tensor], Description]],
    ) -> None:
        """Save what `to_tensors` makes, if it is time.

        Raises:
            Interrupted: The run was asked to stop; it is saved.
        """
        if self.is_asked_to_stop or is_end_of_run or self._is_due(step, is_end_of_task):
            began = time.monotonic()
            checkpoint.save(self.out, *to_tensors())
            self.saved_step = step
            self.saved_time = time.monotonic()
            self.cost = self.saved_time - began
        if self.is_asked_to_stop:
            raise Interrupted(f"stopped at step {step}; a checkpoint is in {self.out}")

    def _is_due(self, step: int, is_end_of_task: bool) -> bool:
        if self.every is not None:
            return is_end_of_task or step // self.every > self.saved_step // self.every
        wait = max(0.0 if is_end_of_task else _SECONDS, _COST_SHARE * self.cost)
        return time.monotonic() - self.saved_time >= wait
