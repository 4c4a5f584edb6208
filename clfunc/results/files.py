"""Files that are written whole or not at all: under a temporary name, then renamed."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write(path: Path, writer: Callable[[str], Any]) -> None:
    """Let `writer(temporary_name)` write, then put the file in place; on failure leave nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        writer(str(temporary))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Remove what a killed process left of files that it was writing."""
    for path in folder.glob(".*"):
        if path.suffix[1:].isdigit() and path.is_file():
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """`text` as a file, whole or not at all."""
    write(path, lambda temporary: Path(temporary).write_text(text))


def check_writable(out: Path) -> None:
    """Raise ValueError unless a folder can be made at `out` and written to; make nothing."""
    at = out.absolute()
    while not at.exists() and at != at.parent:
        at = at.parent
    if not at.is_dir():
        raise ValueError(f"cannot write to {out}: {at} is not a folder; give another --out")
    try:
        with tempfile.TemporaryFile(dir=at):
            pass
    except OSError as error:
        raise ValueError(
            f"cannot write to {out}: {error.strerror} in {at}; give another --out"
        ) from error
