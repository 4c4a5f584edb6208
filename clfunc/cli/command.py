"""The entry point: parse, build, run. Exit codes: 0 done, 1 the run failed, 2 the arguments were wrong."""

import contextlib
import dataclasses
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

from clfunc import results
from clfunc.checkpoint import Interrupted, Refused
from clfunc.cli import build, tables
from clfunc.driver import run
from clfunc.files import check_writable

Command = (
    Annotated[build.Run, tyro.conf.subcommand("run")]
    | Annotated[build.Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[build.Report, tyro.conf.subcommand("report")]
    | Annotated[build.List, tyro.conf.subcommand("list")]
)


def entry() -> None:
    """The installed command."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv`; the exit code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"clfunc: note: {message}", file=sys.stderr)
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
        work()
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
    return 0


def _complain(error: BaseException, code: int, more: str = "") -> int:
    line = " ".join(str(error).split()) or type(error).__name__
    print(f"clfunc: {line}{more}", file=sys.stderr)
    return code


def _prepare(command: "build.Run | build.Report | build.List") -> Callable[[], None]:
    """Check everything about a command; what is left to do, as a function."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    if isinstance(command, build.List):
        return lambda: tables.list_all(console)
    if isinstance(command, build.Report):
        tables.check_results(command.results)
        beside = os.path.commonpath([str(path.absolute().parent) for path in command.results])
        out = command.out or Path(beside) / "report"
        check_writable(out)
        return lambda: tables.report(command.results, out, console)
    job = build.job(command)
    return lambda: _train(command, job, console)


def _train(args: build.Run, job: build.Job, console: Console) -> None:
    arguments = {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(args).items()}
    result = run(
        job.algorithm,
        job.scenario,
        job.key,
        epochs=args.epochs,
        batch_size=args.batch_size,
        engine=args.engine,
        evaluate=job.evaluate,
        probe_every=args.probe_every,
        out=args.out,
        resume="anyway" if args.resume_anyway else args.resume,
        checkpoint_every=args.checkpoint_every,
        progress=args.progress,
        config={"arguments": arguments},
    )
    console.print(tables.results_table({result.config["algorithm"]: results.to_xarray(result)}))
    rate = result.steps / max(result.train_seconds, 1e-9)
    runs, where = len(result.config["seeds"]), f"; results and figures in {args.out}" if args.out else ""
    console.print(
        f"{result.wall_seconds:.1f} s, {rate:,.0f} steps/s of {runs} run(s), {result.engine}{where}", highlight=False
    )


def _parse(argv: Sequence[str]) -> "build.Run | build.Report | build.List":
    """Arguments as a dataclass. A mistake is one line on standard error and exit code 2."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                Command, args=list(argv), prog="clfunc", description="Continual learning as pure functions."
            )
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise
        plain = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
        words = " ".join(re.sub(r"[^\x20-\x7e]", " ", plain).split())  # without the box around them
        words = re.sub(
            r"^(Parsing error|Unrecognized options|Invalid choice|Value error|Missing subcommand) ", "", words
        )
        print("clfunc: " + re.split("For full helptext|Argument helptext", words)[0].strip(), file=sys.stderr)
        raise SystemExit(2) from None
