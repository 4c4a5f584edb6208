"""A progress bar for `run`: it shows the task, the epoch, steps a second and the time left."""

import sys
from types import TracebackType
from typing import Any


class Progress:
    """A rich progress bar on standard error, if that is a terminal. `show=False` prints nothing.

    Args:
        show: Whether to print at all.
        steps: How many steps are planned.
        phases: How many phases the scenario has.
        epochs: Epochs of each phase.
    """

    def __init__(self, show: bool, steps: int, phases: int, epochs: int) -> None:
        self.bar: Any = None
        self.console: Any = None
        self.phases = phases
        self.epochs = epochs
        if show:
            from rich.console import Console

            self.console = Console(stderr=True)
            if self.console.is_terminal:
                self._add_bar(steps)

    def _add_bar(self, steps: int) -> None:
        """Adds the bar. Rich is imported where it is used, so that clfunc is imported quickly."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
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
        """Prints a line that stays above the bar. It prints nothing if the line is empty."""
        if self.console and line:
            self.console.print(line, style="dim", highlight=False, soft_wrap=True)

    def warn(self, line: str) -> None:
        """Prints a line on standard error, with and without `show`."""
        if self.console:
            self.console.print(line, style="yellow", highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr)

    def note(self, description: str) -> None:
        """Shows what the run is doing, in place of the task and epoch."""
        if self.bar:
            self.bar.update(self.id, description=description)

    def skip(self, steps: int) -> None:
        """Moves the bar past the steps that an earlier process took."""
        if self.bar:
            self.bar.update(self.id, completed=steps)

    def advance(self, steps: int, phase: int, epoch: int) -> None:
        """Moves the bar by some steps, and shows the phase, the epoch and the rate."""
        if self.bar:
            done = self.bar.tasks[self.id]
            rate = f"{done.speed:,.0f} steps/s" if done.speed else ""
            text = f"task {phase + 1}/{self.phases} epoch {epoch + 1}/{self.epochs}"
            self.bar.update(self.id, advance=steps, description=text, rate=rate)


def say(line: str, aloud: bool = True) -> None:
    """Prints a line on standard error in the style of `run`, if `aloud`."""
    with Progress(aloud, 0, 0, 0) as bar:
        bar.say(line)
