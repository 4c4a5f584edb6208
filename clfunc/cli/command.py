"""The entry point: parse, build, run. Exit codes: 0 done, 1 the run failed (or two runs differ), 2 the arguments were wrong."""

import contextlib
import io
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from clfunc.cli import build, many, replay, tables, unlearn
from clfunc.driver.checkpoint import Interrupted, Refused
from clfunc.experiments import diff as difference
from clfunc.results import result as results
from clfunc.results.files import check_writable

Command = (
    Annotated[build.Run, tyro.conf.subcommand("run")]
    | Annotated[build.Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[build.Unlearn, tyro.conf.subcommand("unlearn")]
    | Annotated[build.Report, tyro.conf.subcommand("report")]
    | Annotated[build.Diff, tyro.conf.subcommand("diff")]
    | Annotated[build.List, tyro.conf.subcommand("list")]
)

_LONGEST = 1000  # characters of a message


def entry() -> None:
    """The installed command."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv`; the exit code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(
            f"clfunc: note: {message}", file=sys.stderr
        )
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
        again = [*argv, *(["--resume"] if "--resume" not in argv else [])]
        return _complain(stop, 1, f"; to go on: clfunc {shlex.join(again)}")
    except KeyboardInterrupt:
        print("clfunc: interrupted", file=sys.stderr)
        return 1
    except Exception as error:
        if os.environ.get("CLFUNC_TRACEBACK"):
            raise
        return _complain(error, 1, " (CLFUNC_TRACEBACK=1 shows where)")


def _complain(error: BaseException, code: int, more: str = "") -> int:
    print(f"clfunc: {_line(str(error)) or type(error).__name__}{more}", file=sys.stderr)
    return code


def _line(text: str) -> str:
    """A message as one printable line, its end left out where it goes on and on."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _LONGEST else line[:_LONGEST] + " ..."


def _prepare(
    command: "build.Run | build.Report | build.Diff | build.List",
) -> Callable[[], int | None]:
    """Check everything about a command; what is left to do, as a function; it may give an exit code."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    if isinstance(command, build.List):
        return lambda: tables.list_all(console)
    if isinstance(command, build.Report):
        named = tables.load_results(command.results)
        beside = os.path.commonpath([str(path.absolute().parent) for path in command.results])
        out = command.out or Path(beside) / "report"
        check_writable(out)
        return lambda: tables.report(named, out, console)
    if isinstance(command, build.Diff):
        found = difference.folders(command.a, command.b)
        return lambda: tables.differences(
            found[0], found[1] + replay.parting(command.a, command.b, bool(found[1]))
        )
    job = build.job(command)
    if isinstance(command, build.Unlearn):
        return lambda: unlearn.work(command, job, many.options(command, job), console)
    work = many.prepare(command, job)
    return lambda: _train(command, work, console)


def _train(args: build.Run, work: Callable[[], results.Result], console: Console) -> None:
    result = work()
    console.print(tables.results_table({result.config["algorithm"]: results.to_xarray(result)}))
    for line in many.told(result):
        console.print(line, highlight=False, markup=False)
    rate = result.steps / max(result.train_seconds, 1e-9)
    runs, where = (
        len(result.config["seeds"]),
        f"; results and figures in {args.out}" if args.out else "",
    )
    console.print(
        f"{result.wall_seconds:.1f} s, {rate:,.0f} steps/s of {runs} run(s), {result.engine}{where}",
        highlight=False,
    )


def _parse(argv: Sequence[str]) -> "build.Run | build.Report | build.Diff | build.List":
    """Arguments as a dataclass. A mistake is one line on standard error and exit code 2."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                Command,
                args=list(argv),
                prog="clfunc",
                description="Continual learning as pure functions.",
            )
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise
        print(f"clfunc: {_line(_plain(said.getvalue()))}", file=sys.stderr)
        raise SystemExit(2) from None


def _plain(said: str) -> str:
    """What the parser says, without its colours, the box around it, and advice on reading help."""
    words = re.sub(r"\x1b\[[0-9;]*m|[\u2500-\u257f]|-{5,}", " ", said)
    words = re.split("For full helptext|Argument helptext", " ".join(words.split()))[0]
    words = re.sub(
        r" \(applied to [^)]*\)| Arguments are applied to the directly preceding [^.]*\.", "", words
    )
    words = re.sub(
        r"^(Parsing error|Unrecognized options|Invalid choice|Value error|Missing subcommand) ",
        "",
        words,
    )
    return re.sub(
        r"no type matching \{None\}\|(\S+) could be instantiated from \[(.*?)\]\. Got.*",
        r"takes \1, given \2",
        words,
    )
