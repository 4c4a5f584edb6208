"""What the tests share that give the command line whatever comes: laws, memory, and a folder where anything left shows."""

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

ROOM = 2 * 2**30  # bytes that a case may take
HANGS = 60  # seconds after which a case is given up


def law(examples, **strategies):
    """A property tried on a quarter of so many examples; a second test, marked long, tries it on ten times as many.

    The second test has the name of the first with `_at_length` behind it.
    """

    def decorate(test):
        def made(count):
            return settings(max_examples=count)(given(**strategies)(test))

        test.__globals__[f"{test.__name__}_at_length"] = pytest.mark.long(made(10 * examples))
        return made(examples // 4)

    return decorate


def _hangs(*_):
    raise SystemError("the case hangs")


@pytest.fixture(scope="module")
def confined():
    """At most `ROOM` more memory than now, and digits read once."""
    gc.collect()
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    patch = pytest.MonkeyPatch()
    loading = importlib.import_module("clfunc.datasets.load")  # the package has a function `load`
    patch.setattr(loading, "_digits", functools.lru_cache(loading._digits))
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, before[1]))
    handler = signal.signal(signal.SIGALRM, _hangs)
    yield
    signal.signal(signal.SIGALRM, handler)
    resource.setrlimit(resource.RLIMIT_AS, before)
    patch.undo()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An empty folder to be in: whatever a command leaves shows."""
    here, before = tmp_path_factory.mktemp("place"), Path.cwd()
    os.chdir(here)
    yield here
    os.chdir(before)


def told(argv):
    """Exit code, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    signal.alarm(HANGS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(argv)
    finally:
        signal.alarm(0)
    return code, out.getvalue(), err.getvalue()


def accepted_or_refused(argv, place):
    """Whether a command was accepted; where it was not, one line says why, and nothing is left behind."""
    there = sorted(place.rglob("*"))
    code, out, err = told(argv)
    assert code in (0, 2), (code, err)
    if code == 2:
        assert out == "" and sorted(place.rglob("*")) == there
        assert len(err.splitlines()) == 1 and err.startswith("clfunc: ") and len(err) < 3000, err
        assert len(err.split()) > 2 and "---" not in err and "Errno" not in err, err
    return code == 0


@st.composite
def spoilt(draw, good):
    """Bytes with some changed, cut off, added or repeated; or quite others."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, min(len(data), draw(st.sampled_from([8, 64, 2**20]))) - 1)))
        how = draw(st.sampled_from(["flip", "flip", "set", "cut", "insert", "zero", "foreign"]))
        if how == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "set":
            data[at : at + 4] = struct.pack(
                ">I", draw(st.sampled_from([0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1]))
            )
        elif how == "cut":
            del data[at:]
        elif how == "insert":
            data[at:at] = draw(st.binary(max_size=9))
        elif how == "zero":
            data[at : at + 16] = bytes(len(data[at : at + 16]))
        elif how == "foreign":
            data = bytearray(
                draw(st.sampled_from([b"", b"\x1f\x8b", b"\x89HDF\r\n\x1a\n", b"{}", b"\0" * 99]))
            )
    return bytes(data)
