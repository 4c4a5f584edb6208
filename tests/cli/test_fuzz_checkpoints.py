"""Whatever the checkpoints in a folder, a run goes on from a good one or says in one line why it
cannot; it leaves them be."""

import json
import struct

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import load, save
from support import fuzzing
from support.fuzzing import law, run_command, spoilt

from clfunc import tree
from clfunc.driver import checkpoint, loop
from clfunc.driver.checkpoint import NEWEST, PREVIOUS

confined, place = fuzzing.confined, fuzzing.place
pytestmark = pytest.mark.usefixtures("confined")

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
RUN += ["--seeds", "2", "--valid", "0.2", "--checkpoint-every", "7", "--probe-every", "9"]
NAMES = [name + suffix for name in (NEWEST, PREVIOUS) for suffix in (".safetensors", ".json")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The checkpoints of a run and of one like it with another seed: bytes by name; and the
    parameters of the former's."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clfunc.results.plots.save", lambda *_: [])
        for seed in ("0", "1"):
            out = tmp_path_factory.mktemp("made") / seed
            assert run_command([*RUN, "--seed", seed, "--out", str(out)])[0] == 0
            found.append({name: (out / name).read_bytes() for name in NAMES})
    return (
        *found,
        [params(load(found[0][name])) for name in NAMES if name.endswith("safetensors")],
    )


def params(tensors):
    return {name: leaf for name, leaf in tensors.items() if name.startswith("params.")}


def resumed(files, place):
    """Exit code, what is said, and the run state (None if it was refused) from which a run with
    these files would go on."""
    out, taken = place / "run", []
    out.mkdir(exist_ok=True)
    for name in NAMES:
        (out / name).unlink(missing_ok=True)
    for name, data in files.items():
        (out / name).write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clfunc.cli.command._train", lambda args, work, console: _tried(work))
        patch.setattr(loop, "play", lambda trainer, run_state, order: _stop(taken, run_state))
        code, said, err = run_command([*RUN, "--out", str(out), "--resume"])
    assert {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*")} == files
    assert said == "" and sorted(place.iterdir()) == [out]
    return code, err, (taken or [None])[0]


class Taken(BaseException):
    """A run is about to go on."""


def _stop(taken, at):
    taken.append(at)
    raise Taken


def _tried(work):
    try:
        work()
    except Taken:
        return 0


def lawful(code, err, at):
    """Taken up, or refused in one line; a line more says which checkpoint was passed over."""
    lines = err.splitlines()
    assert (code, at is not None) in ((0, True), (2, False)), (code, err)
    passed = [
        line for line in lines if line.startswith("checkpoint in ") and line.endswith("which is")
    ]
    rest = [line for line in lines if line not in passed]
    assert len(passed) <= 1 and len(rest) == (code == 2), err
    assert all(line.startswith("clfunc: ") and len(line) < 1100 for line in rest), err
    assert (
        "Errno" not in err
        and "Traceback" not in err
        and all(len(line.split()) > 5 for line in lines)
    ), err


def signed(about, tensors):
    """JSON for these bytes of tensors, as if it had been written with them."""
    body = {name: value for name, value in about.items() if name != "checksum"}
    if isinstance(about.get("bytes"), int):
        body |= {"bytes": len(tensors), "sha256": checkpoint.hashlib.sha256(tensors).hexdigest()}
    return json.dumps(body | {"checksum": checkpoint._digest(body)}).encode()


ODD = [
    None,
    True,
    "",
    "x",
    "\ud800",
    -1,
    0,
    1,
    0.5,
    2,
    3,
    10**9,
    10**15,
    2**63,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
]
VALUES = st.sampled_from(
    [*ODD, [], {}, [1], {"x": 1}, ["loss", "loss"], ["x" * 5000], ["eager", 10**9], ["eager", 1]]
)


def _paths(tree, at=()):
    pairs = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for name, value in pairs:
        yield (*at, name)
        yield from _paths(value, (*at, name))


def edited(draw, about):
    """JSON with an entry removed, added or of another value, in a part drawn first so that the long
    ones do not take all."""
    about = json.loads(json.dumps(about))
    part = draw(st.sampled_from(sorted(about)))
    path = draw(st.sampled_from([p for p in _paths(about) if p[0] == part]))
    holder = about
    for name in path[:-1]:
        holder = holder[name]
    how = draw(st.sampled_from(["set", "set", "remove", "add"]))
    if how == "set":
        holder[path[-1]] = draw(VALUES)
    elif how == "remove":
        del holder[path[-1]]
    elif isinstance(holder, dict):
        holder["another"] = draw(VALUES)
    return about


def retold(draw, data):
    """A file of tensors whose header says something else, or with other tensors."""
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    name = draw(st.sampled_from(sorted(header)))
    how = draw(
        st.sampled_from(["length", "shape", "offsets", "dtype", "drop", "resize", "foreign"])
    )
    if how == "length":
        return (
            struct.pack(
                "<Q", draw(st.sampled_from([0, 1, size - 1, size + 1, 2**31, 2**62, 2**64 - 1]))
            )
            + data[8:]
        )
    if how == "foreign":
        return save({"x": torch.ones(3)})
    if how in ("drop", "resize"):
        tensors = load(data)
        old = tensors.pop(name, None)
        likes = [
            torch.zeros(0),
            torch.zeros(3),
            torch.zeros(2, 2),
            torch.tensor(True),
            torch.zeros(2, 9**4),
        ]
        return save(
            tensors
            | ({name: draw(st.sampled_from(likes))} if how == "resize" and old is not None else {})
        )
    odd = {
        "shape": [[2**40], [2**63, 2**63], [-1], [], "x", [1.5], [0]],
        "offsets": [[0, 2**43], [5, 1], [-1, 3], [0], None, [0, 0]],
        "dtype": ["F64", "I64", "BF16", "BOOL", "F8_E4M3", "C64", "F4", "x", 1, None],
    }
    entry = header[name] if isinstance(header[name], dict) else {}
    entry["data_offsets" if how == "offsets" else how] = draw(st.sampled_from(odd[how]))
    header[name] = entry
    lie = json.dumps(header).encode()
    return struct.pack("<Q", len(lie)) + lie + body


def change(draw, files, other):
    """One of the two checkpoints with something wrong, said (`True`) or not to be so."""
    name = draw(st.sampled_from([NEWEST, NEWEST, PREVIOUS]))
    tensors, words = f"{name}.safetensors", f"{name}.json"
    how = draw(
        st.sampled_from(
            [
                "spoil",
                "spoil",
                "swap",
                "lose",
                "edit",
                "edit",
                "edit signed",
                "retell",
                "retell signed",
            ]
        )
    )
    one = draw(st.sampled_from([tensors, words]))
    about = (
        json.loads((other | files)[words]) if _sound(files.get(words)) else json.loads(other[words])
    )
    if how == "spoil" and one in files:
        files[one] = draw(spoilt(files[one]))
    elif how == "swap":
        files[one] = draw(
            st.sampled_from([other[one], other[other_name(one)], files.get(other_name(one), b"")])
        )
    elif how == "lose":
        files.pop(one, None)
    elif how.startswith("edit"):
        about = edited(draw, about)
        files[words] = (
            signed(about, files.get(tensors, b""))
            if "signed" in how
            else json.dumps(about).encode()
        )
    else:
        files[tensors] = retold(draw, other[tensors])
        if "signed" in how:
            files[words] = signed(about, files[tensors])
    return "signed" in how


def other_name(file):
    name, suffix = file.rsplit(".", 1)
    return f"{PREVIOUS if name == NEWEST else NEWEST}.{suffix}"


def _sound(data):
    try:
        return bool(json.loads(data).keys())
    except (AttributeError, TypeError, ValueError, RecursionError):
        return False


@law(60, data=st.data())
def test_a_run_goes_on_from_a_good_checkpoint_or_says_in_one_line_why_not(data, made, place):
    sound, other, good = made
    files = dict(sound)
    forged = [change(data.draw, files, other) for _ in range(data.draw(st.integers(1, 3)))]
    code, err, at = resumed(files, place)
    lawful(code, err, at)
    if at is not None and files and not any(forged):
        assert any(same(at, held) for held in good)


@law(20, data=st.data())
def test_one_bit_or_the_end_of_the_newest_lost_is_noticed_and_the_previous_used(data, made, place):
    sound, _, good = made
    name = data.draw(st.sampled_from(NAMES[:2]))
    whole, near = bytearray(sound[name]), data.draw(st.sampled_from([9, 2**9, 2**20]))
    at = data.draw(st.integers(0, min(near, len(whole)) - 1))
    if data.draw(st.booleans()):
        whole[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del whole[data.draw(st.sampled_from([at, len(whole) - 1 - at])) :]
    code, err, taken = resumed(sound | {name: bytes(whole)}, place)
    unchanged = (
        name.endswith("json") and _sound(whole) and json.loads(whole) == json.loads(sound[name])
    )  # 1e-8 is 1E-8
    assert code == 0 and same(taken, good[0 if unchanged else 1])
    assert len(err.splitlines()) == (not unchanged) and (
        unchanged or f"going on from {PREVIOUS}, which is" in err
    )


def same(at, held):
    found = dict(tree.items({"params": at.params}))
    return found.keys() == held.keys() and all(
        torch.equal(found[name], leaf) for name, leaf in held.items()
    )
