"""The command line reads any file of data or results, or says in one line what is wrong with it."""

import gzip
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import strategies as st
from support import fuzzing
from support.fuzzing import accepted_or_refused, law, run_command, spoilt

from clfunc.datasets.idx import read_idx

confined, place = fuzzing.confined, fuzzing.place
pytestmark = pytest.mark.usefixtures("confined")


def idx(array, *, dims=None):
    """An array as an IDX file, whose header may lie."""
    codes = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
    shape = dims or array.shape
    header = bytes([0, 0, codes[array.dtype.str[1:]], len(shape)]) + struct.pack(
        f">{len(shape)}I", *shape
    )
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


IMAGES = (np.arange(20 * 9) % 251).astype("u1").reshape(20, 3, 3)
LABELS = (np.arange(20) % 2).astype("u1")
SOUND = {
    "train-images-idx3-ubyte.gz": gzip.compress(idx(IMAGES), mtime=0),
    "train-labels-idx1-ubyte": idx(LABELS),
    "t10k-images-idx3-ubyte": idx(IMAGES),
    "t10k-labels-idx1-ubyte.gz": gzip.compress(idx(LABELS), mtime=0),
}
ANY = st.one_of(*[spoilt(data) for data in SOUND.values()])
SIZES = st.sampled_from([0, 1, 2, 3, 20, 2**16, 2**31, 2**32 - 1])
LIES = st.builds(
    lambda array, dims, zipped: (gzip.compress if zipped else bytes)(idx(array, dims=dims)),
    st.sampled_from([IMAGES, LABELS, LABELS.astype("i4"), IMAGES.astype("f8"), LABELS[:0]]),
    st.lists(SIZES, min_size=1, max_size=4).map(tuple),
    st.booleans(),
)


@law(1500, data=st.one_of(ANY, LIES))
def test_a_file_that_is_no_sound_idx_file_is_refused_in_one_line(data, place):
    path = place / "images-idx"
    path.write_bytes(data)
    try:
        array = read_idx(path)
    except ValueError as error:
        assert str(path) in str(error) and len(str(error).splitlines()) == 1
    else:
        plain = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        assert array.nbytes == len(plain) - 4 - 4 * plain[3]
    path.unlink()


NUMBERS = st.sampled_from(
    [np.nan, np.inf, -np.inf, 1e300, 3.5e38, -1.0, 0.5, 2.0, 2**31 - 1, -(2**31), 1e-320]
)
VALUES = st.builds(
    lambda shape, kind, value, rest: idx(_filled(shape, kind, value, rest)),
    st.sampled_from(
        [(20, 3, 3), (20,), (20, 2, 3, 3), (20, 1, 1), (1, 3, 3), (20, 0, 3), (0,), (20, 3), (19,)]
    ),
    st.sampled_from(["u1", "i1", "i2", "i4", "f4", "f8"]),
    NUMBERS,
    st.booleans(),
)


def _filled(shape, kind, value, rest):
    """Labels or zeros, of which one is `value`, or all are."""
    with np.errstate(all="ignore"):
        number = np.array(value).astype(kind)
        array = np.full(shape, number if rest else 0)
    if array.ndim == 1 and not rest:
        array = np.arange(len(array)) % 2
    array = array.astype(kind)
    array.reshape(-1)[:1] = number
    return array


@law(250, name=st.sampled_from(sorted(SOUND)), data=st.one_of(ANY, VALUES, VALUES))
def test_a_data_set_with_any_file_is_taken_or_refused_in_one_line(name, data, place):
    for each, sound in SOUND.items():
        (place / each).write_bytes(data if each == name else sound)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clfunc.cli.command._train", lambda *_: None)
        accepted_or_refused(
            [
                "run",
                "--dataset",
                "idx",
                "--data-root",
                str(place),
                "--tasks",
                "1",
                "--hidden",
                "4",
                "--out",
                "out",
            ],
            place,
        )
    for each in SOUND:
        (place / each).unlink()


RUN = [
    "run",
    "--engine",
    "eager",
    "--no-progress",
    "--tasks",
    "2",
    "--hidden",
    "4",
    "--optimizer",
    "sgd",
]


TRAILER = 73  # bytes of checksum that end results.nc


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run, and its results."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert run_command([*RUN, "--seeds", "2", "--out", str(out)])[0] == 0
    return out, (out / "results.nc").read_bytes()


def _but_for_the_end(data, sound):
    """Without its checksum HDF5 may hang on spoilt bytes: keep it at the end of what is as long."""
    return data[:-TRAILER] + sound[-TRAILER:] if len(data) == len(sound) else data


@law(300, data=st.data())
def test_results_with_anything_in_their_file_are_reported_or_refused_in_one_line(
    data, finished, place
):
    folder, sound = finished
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clfunc.results.plots.compare", lambda named, out: out)
        (folder / "results.nc").write_bytes(_but_for_the_end(data.draw(spoilt(sound)), sound))
        accepted_or_refused(["report", str(folder)], place)


def test_a_sound_file_of_results_is_reported(finished, place):
    (finished[0] / "results.nc").write_bytes(finished[1])
    assert accepted_or_refused(["report", str(finished[0]), "--out", "drawn"], place)


def test_results_that_are_spoilt_though_no_reader_would_see_it_are_refused(finished, place):
    from clfunc.results import store as archive

    sound, flipped = finished[1], bytearray(finished[1])
    flipped[-TRAILER - 20] ^= 1
    (finished[0] / "results.nc").write_bytes(flipped)
    damaged = "is not a sound file of results: its bytes are not those that were written"
    with pytest.raises(ValueError, match=f"results.nc {damaged}"):
        archive.load(finished[0])
    (finished[0] / "results.nc").write_bytes(sound[:-TRAILER])
    assert archive.load(finished[0]).attrs["algorithm"] == "finetuning"


REAL = [
    (["--tasks", "1000000000"], 2),
    (["--hidden", "1000000", "1000000"], 2),
    (["--set", "lr=\u0663"], 2),
    (["--seeds", "2", "--set", "momentum=0.5"], 0),
    (["--scenario", "split", "--paradigm", "cil", "--batch-size", "1000"], 0),
]


@pytest.mark.parametrize(
    "more, code", REAL, ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_a_real_process_runs_or_says_in_one_line_why_not(more, code, place):
    argv = [sys.executable, "-m", "clfunc", *RUN, "--out", "real", *more]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=place)
    assert done.returncode == code and (place / "real" / "results.nc").is_file() == (code == 0)
    assert code == 0 or (len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr), (
        done.stderr
    )
    for path in sorted((place / "real").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
