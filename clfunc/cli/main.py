"""The entry point: parse, build, run. Exit codes: 0 done, 1 the run failed, 2 the arguments were wrong."""

import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from clfunc import results
from clfunc.cli import build, tables
from clfunc.driver import run

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


def _prepare(command: "build.Run | build.Report | build.List"):
    """Check everything about a command; what is left to do, as a function."""
    console = Console()
    if isinstance(command, build.List):
        return lambda: tables.list_all(console)
    if isinstance(command, build.Report):
        out = (
            command.out or Path(os.path.commonpath([p.absolute().parent for p in command.results] or ["."])) / "report"
        )
        tables.check_results(command.results)
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
        out=args.out,
        progress=args.progress,
        config={"arguments": arguments},
    )
    console.print(tables.results_table({result.config["algorithm"]: results.to_xarray(result)}))
    rate = result.steps / max(result.train_seconds, 1e-9)
    seconds = (
        f"{result.wall_seconds:.1f} s, {rate:,.0f} steps/s of {len(result.config['seeds'])} run(s), {result.engine}"
    )
    console.print(seconds + (f"; results and figures in {args.out}" if args.out else ""), highlight=False)


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
        text = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
        lines = [re.sub(r"[│╭╮╰╯─┌┐└┘]", " ", line).strip() for line in text.splitlines()]
        kept = [
            line for line in lines if line and line not in ("Parsing error", "Required options", "Unrecognized options")
        ]
        kept = [line for line in kept if not line.startswith(("For full helptext", "usage"))]
        print("clfunc: " + " ".join(" ".join(kept).split()), file=sys.stderr)
        raise SystemExit(2) from None
