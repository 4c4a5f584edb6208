"""Files that are written whole or not at all: under a temporary name, then renamed."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write(path: Path, writer: Callable[[str], Any]) -> None:
    """Call `writer(temporary_name)`, then rename the file that it writes.

    If it fails, nothing is left.

    Args:
        path: Where the file belongs. A file that is there stays until the new one is whole.
        writer: Writes the file under the name that it is given.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        writer(str(temporary))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def tidy(folder: Path) -> None:
    """Remove the files that a killed process did not finish."""
    for path in folder.glob(".*"):
        if path.suffix[1:].isdigit() and path.is_file():
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` as a file, whole or not at all."""
    write(path, lambda temporary: Path(temporary).write_text(text))


def check_writable(out: Path) -> None:
    """Raise ValueError unless a folder can be made at `out` and written to. Nothing is made."""
    folder = out.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"cannot write to {out}: {folder} is not a folder; give another --out")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror
        message = f"cannot write to {out}: {reason} in {folder}; give another --out"
        raise ValueError(message) from error
