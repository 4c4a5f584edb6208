"""The entry point: parse, build, run.

Exit codes: 0 where the command is done, 1 where the run failed or two runs differ, 2 where the
arguments are wrong.
"""

import contextlib
import io
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from clfunc.cli import arguments, build, listing, many, replay, tables, unlearn
from clfunc.driver.checkpoint import Interrupted, Refused
from clfunc.experiments import diff
from clfunc.results.files import check_writable
from clfunc.results.result import Result, to_xarray

Command = (
    Annotated[arguments.Run, tyro.conf.subcommand("run")]
    | Annotated[arguments.Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[arguments.Unlearn, tyro.conf.subcommand("unlearn")]
    | Annotated[arguments.Report, tyro.conf.subcommand("report")]
    | Annotated[arguments.Diff, tyro.conf.subcommand("diff")]
    | Annotated[arguments.List, tyro.conf.subcommand("list")]
)
Given = arguments.Run | arguments.Report | arguments.Diff | arguments.List
Work = Callable[[], int | None]

_LONGEST = 1000  # characters of a message


def entry() -> None:
    """The installed command."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv`.

    Returns:
        The exit code.

    >>> main(["list"])  # doctest: +ELLIPSIS
    algorithms
    ...
    0
    """

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"clfunc: note: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = note
        return _main(argv)


def _main(argv: Sequence[str]) -> int:
    try:
        command = _parse(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        work = _prepare(command)
    except (ValueError, OSError) as error:
        return _complain(error, 2)
    try:
        return work() or 0
    except Refused as error:
        return _complain(error, 2)
    except Interrupted as stop:
        again = [*argv]
        if "--resume" not in argv:
            again.append("--resume")
        return _complain(stop, 1, f"; to go on: clfunc {shlex.join(again)}")
    except KeyboardInterrupt:
        print("clfunc: interrupted", file=sys.stderr)
        return 1
    except Exception as error:
        if os.environ.get("CLFUNC_TRACEBACK"):
            raise
        return _complain(error, 1, " (CLFUNC_TRACEBACK=1 shows where)")


def _complain(error: BaseException, code: int, more: str = "") -> int:
    message = _line(str(error)) or type(error).__name__
    print(f"clfunc: {message}{more}", file=sys.stderr)
    return code


def _line(text: str) -> str:
    """A message as one printable line; the end of a very long one is left out."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(printable.split())
    return line if len(line) <= _LONGEST else line[:_LONGEST] + " ..."


def _prepare(command: Given) -> Work:
    """Check everything about a command.

    Returns:
        A function that does the command; it may return an exit code.
    """
    console = Console(width=None if sys.stdout.isatty() else 120)
    if isinstance(command, arguments.List):
        return listing.prepare(command.name, console)
    if isinstance(command, arguments.Report):
        return _report(command, console)
    if isinstance(command, arguments.Diff):
        return _diff(command)
    job = build.job(command)
    if isinstance(command, arguments.Unlearn):
        return lambda: unlearn.work(command, job, console)
    work = many.prepare(command, job)
    return lambda: _train(command, work, console)


def _report(command: arguments.Report, console: Console) -> Work:
    named = tables.load_results(command.results)
    parents = [str(path.absolute().parent) for path in command.results]
    out = command.out or Path(os.path.commonpath(parents)) / "report"
    check_writable(out)
    return lambda: tables.report(named, out, console)


def _diff(command: arguments.Diff) -> Work:
    settings, values = diff.folders(command.a, command.b)

    def work() -> int:
        replayed = replay.parting(command.a, command.b, bool(values))
        return tables.differences(settings, values + replayed)

    return work


def _train(args: arguments.Run, work: Callable[[], Result], console: Console) -> None:
    """Do the runs, and print their table and how long they took."""
    result = work()
    named = {result.config["algorithm"]: to_xarray(result)}
    console.print(tables.results_table(named))
    for line in many.outcome(result):
        console.print(line, highlight=False, markup=False)
    rate = result.steps / max(result.train_seconds, 1e-9)
    runs = len(result.config["seeds"])
    where = f"; results and figures in {args.out}" if args.out else ""
    took = f"{result.wall_seconds:.1f} s, {rate:,.0f} steps/s of {runs} run(s)"
    console.print(f"{took}, {result.engine}{where}", highlight=False)


def _parse(argv: Sequence[str]) -> Given:
    """The arguments as a dataclass. A mistake is one line on standard error and exit code 2."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                Command,
                args=list(argv),
                prog="clfunc",
                description="Continual learning as pure functions.",
            )
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise
        print(f"clfunc: {_line(_plain(errors.getvalue()))}", file=sys.stderr)
        raise SystemExit(2) from None


_DECORATION = r"\x1b\[[0-9;]*m|[\u2500-\u257f]|-{5,}"  # colours, and the box around a message
_ADVICE = "For full helptext|Argument helptext"
_ASIDES = (
    r" \(applied to [^)]*\)"
    r"| Arguments are applied to the directly preceding [^.]*\."
)
_TITLE = "^(Parsing error|Unrecognized options|Invalid choice|Value error|Missing subcommand) "
_WRONG_TYPE = r"no type matching \{None\}\|(\S+) could be instantiated from \[(.*?)\]\. Got.*"


def _plain(message: str) -> str:
    """The parser's message without its colours, the box around it, and advice on reading help.

    >>> _plain("\u256d Parsing error \u256e Missing value for --tasks")
    'Missing value for --tasks'
    """
    words = " ".join(re.sub(_DECORATION, " ", message).split())
    words = re.split(_ADVICE, words)[0]
    words = re.sub(_ASIDES, "", words)
    words = re.sub(_TITLE, "", words)
    return re.sub(_WRONG_TYPE, r"takes \1, given \2", words)
