"""Helpers of the tests that give the command line arbitrary input.

They make laws of properties, limit memory, and keep a folder in which every left-over file shows.
"""

import contextlib
import functools
import gc
import importlib
import io
import os
import resource
import signal
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clfunc.cli import main

MEMORY = 2 * 2**30  # bytes that a case may take
SECONDS = 60  # time after which a case counts as hanging
NUMBERS = st.sampled_from([0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1])
FOREIGN = st.sampled_from([b"", b"\x1f\x8b", b"\x89HDF\r\n\x1a\n", b"{}", b"\0" * 99])


def law(examples, **strategies):
    """A decorator that tries a property on a quarter of so many examples.

    A second test, `NAME_at_length`, which is marked long, tries it on ten times as many.
    """

    def decorate(test):
        def tried(count):
            return settings(max_examples=count)(given(**strategies)(test))

        test.__globals__[f"{test.__name__}_at_length"] = pytest.mark.long(tried(10 * examples))
        return tried(examples // 4)

    return decorate


def _raise_hanging(*_):
    raise SystemError("the case hangs")


@pytest.fixture(scope="module")
def confined():
    """Limits memory to `MEMORY` more than is used now, and reads digits only once."""
    loading = importlib.import_module("clfunc.datasets.load")
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    used = pages * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    patch = pytest.MonkeyPatch()
    patch.setattr(loading, "_digits", functools.lru_cache(loading._digits))
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    handler = signal.signal(signal.SIGALRM, _raise_hanging)
    yield
    signal.signal(signal.SIGALRM, handler)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    patch.undo()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An empty working folder, in which every file that a command leaves shows."""
    folder = tmp_path_factory.mktemp("place")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def run_command(argv):
    """Exit code, standard output and standard error of a command."""
    out = io.StringIO()
    err = io.StringIO()
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(argv)
    finally:
        signal.alarm(0)
    return code, out.getvalue(), err.getvalue()


def accepted_or_refused(argv, place):
    """Whether a command was accepted.

    Asserts that a command that was not is refused in one line and leaves nothing in the folder.
    """
    before = sorted(place.rglob("*"))
    code, out, err = run_command(argv)
    assert code in (0, 2), (code, err)
    if code == 2:
        assert out == ""
        assert sorted(place.rglob("*")) == before
        assert len(err.splitlines()) == 1, err
        assert err.startswith("clfunc: ") and len(err) < 3000, err
        assert len(err.split()) > 2 and "---" not in err and "Errno" not in err, err
    return code == 0


@st.composite
def spoilt(draw, good):
    """Bytes of which some are changed, cut off, added or repeated; or other bytes altogether."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        # Most changes are near the beginning, where a format keeps its header.
        reach = draw(st.sampled_from([8, 64, 2**20]))
        at = draw(st.integers(0, max(0, min(len(data), reach) - 1)))
        change = draw(st.sampled_from(["flip", "flip", "set", "cut", "insert", "zero", "foreign"]))
        if change == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "set":
            data[at : at + 4] = struct.pack(">I", draw(NUMBERS))
        elif change == "cut":
            del data[at:]
        elif change == "insert":
            data[at:at] = draw(st.binary(max_size=9))
        elif change == "zero":
            data[at : at + 16] = bytes(len(data[at : at + 16]))
        elif change == "foreign":
            data = bytearray(draw(FOREIGN))
    return bytes(data)
