"""A progress bar for `run`: task, epoch, steps per second, time left. Silent when told to be."""

import sys
from types import TracebackType
from typing import Any


class Progress:
    """A rich progress bar on standard error, if that is a terminal. `show=False` prints nothing."""

    def __init__(self, show: bool, steps: int, phases: int, epochs: int) -> None:
        self.bar: Any = None
        self.phases, self.epochs = phases, epochs
        self.console: Any = None
        if show:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self.console = Console(stderr=True)
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
            )
            left = TextColumn("left"), TimeRemainingColumn()
            if self.console.is_terminal:
                self.bar = Bar(*columns, *left, console=self.console, transient=True)
                self.id = self.bar.add_task("starting", total=steps, rate="")

    def __enter__(self) -> "Progress":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar:
            self.bar.stop()

    def say(self, line: str) -> None:
        """A line that stays above the bar; nothing if it is empty."""
        if self.console and line:
            self.console.print(line, style="dim", highlight=False, soft_wrap=True)

    def warn(self, line: str) -> None:
        """A line for standard error, bar or no bar."""
        if self.console:
            self.console.print(line, style="yellow", highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr)

    def note(self, description: str) -> None:
        """What is going on, in place of the task and epoch."""
        if self.bar:
            self.bar.update(self.id, description=description)

    def skip(self, steps: int) -> None:
        """Steps that were done before."""
        if self.bar:
            self.bar.update(self.id, completed=steps)

    def advance(self, steps: int, phase: int, epoch: int) -> None:
        if self.bar:
            done = self.bar.tasks[self.id]
            rate = f"{done.speed:,.0f} steps/s" if done.speed else ""
            text = f"task {phase + 1}/{self.phases} epoch {epoch + 1}/{self.epochs}"
            self.bar.update(self.id, advance=steps, description=text, rate=rate)


def say(line: str, aloud: bool = True) -> None:
    """A line on standard error, as `run` says its engine."""
    with Progress(aloud, 0, 0, 0) as bar:
        bar.say(line)
