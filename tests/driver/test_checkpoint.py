"""Checkpoints: a run that is stopped and taken up again is the run that was not; whatever is wrong
with a file is noticed."""

import json
import os
import shutil
import signal

import pytest
import torch

from clfunc import algorithms, mlp, run, scenarios, sgd, sweep, tree
from clfunc.cli import main
from clfunc.driver import checkpoint
from clfunc.driver.checkpoint import Interrupted, Refused
from clfunc.driver.run_state import refuse_unsound
from clfunc.random import key, split
from clfunc.testing import toy_stream
from clfunc.testing.laws import identical
from clfunc.testing.play import toy_data

QUIET = {"engine": "eager", "progress": False, "batch_size": 8, "epochs": 2}


pytestmark = pytest.mark.usefixtures("no_figures")


class Stop(Exception):
    """What a test raises to stop a run."""


def cbp(scenario, lr=0.1):
    model = mlp(scenario.inputs, (8, 6), scenario.head())
    return algorithms.cbp(model, sgd(lr, 0.9), replacement_rate=0.1, maturity_threshold=3)


def stopping(algorithm, name, calls, stop=Stop):
    """The algorithm, one of whose functions fails when it is called for the `calls`-th time."""
    seen, function = [], getattr(algorithm, name)

    def failing(*args):
        seen.append(1)
        if len(seen) == calls:
            raise stop
        return function(*args)

    return algorithm._replace(**{name: failing})


def outcome(result):
    """All of a result that a resumed run must have the same bits of."""
    names = [
        "accuracy",
        "training",
        "validation",
        "probes",
        "pictures",
        "params",
        "state",
        "diverged",
        "snapshots",
    ]
    return {name: getattr(result, name) for name in names}


@pytest.fixture(scope="module", params=["alone", "sweep"])
def case(request):
    """An algorithm, a scenario and a key: of one run, or of a sweep of three."""
    keys = key(1) if request.param == "alone" else split(key(1), 3)
    scenario = scenarios.permuted(
        toy_data(), 2, split(key(2), 3) if request.param == "sweep" else key(2), valid=0.2
    )
    algorithm = cbp(scenario)
    return (
        (
            algorithm
            if request.param == "alone"
            else sweep([cbp(scenario, lr) for lr in (0.1, 0.2, 0.3)])
        ),
        scenario,
        keys,
    )


@pytest.fixture(scope="module")
def whole(case):
    """The result of the case when nothing stops it."""
    algorithm, scenario, keys = case
    return run(algorithm, scenario, keys, **QUIET, probe_every=4)


@pytest.mark.parametrize(
    "name, calls", [("step", n) for n in (1, 5, 13, 24)] + [("end_task", 2), ("predict", 3)]
)
def test_a_run_stopped_anywhere_and_resumed_has_the_same_bits(case, whole, name, calls, tmp_path):
    algorithm, scenario, keys = case
    how = QUIET | {"probe_every": 4, "checkpoint_every": 3}
    with pytest.raises(Stop):
        run(stopping(algorithm, name, calls), scenario, keys, out=tmp_path, **how)
    steps = []
    counting = algorithm._replace(step=lambda *a: (steps.append(1), algorithm.step(*a))[1])
    resumed = run(counting, scenario, keys, out=tmp_path, resume=True, **how)
    assert identical(outcome(resumed), outcome(whole))
    assert resumed.steps == whole.steps and (len(steps) < whole.steps or calls < 4)


def test_a_finished_run_is_not_run_again(tmp_path, case, whole, capsys):
    algorithm, scenario, keys = case
    how = QUIET | {"probe_every": 4}
    first = run(algorithm, scenario, keys, out=tmp_path, **how)
    again = run(
        stopping(algorithm, "step", 1),
        scenario,
        keys,
        out=tmp_path,
        resume=True,
        **(how | {"progress": True}),
    )
    assert identical(outcome(again), outcome(first)) and "finished" in capsys.readouterr().err
    assert identical(outcome(first), outcome(whole))


def test_a_diverged_run_stays_so_when_resumed(tmp_path):
    scenario, keys = toy_stream(), split(key(1), 2)
    algorithm = sweep([cbp(scenario), cbp(scenario, 1e30)])
    how = QUIET | {"checkpoint_every": 3}
    whole = run(algorithm, scenario, keys, **how)
    assert (whole.diverged >= 0).tolist() == [False, True]
    with pytest.raises(Stop):
        run(stopping(algorithm, "step", 30), scenario, keys, out=tmp_path, **how)
    assert identical(
        outcome(run(algorithm, scenario, keys, out=tmp_path, resume=True, **how)), outcome(whole)
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_stops_the_run(case, whole, number, tmp_path):
    algorithm, scenario, keys = case
    before, seen = signal.getsignal(number), []

    def step(*args):
        seen.append(1)
        if len(seen) == 14:
            os.kill(os.getpid(), number)
        return algorithm.step(*args)

    with pytest.raises(Interrupted, match=r"stopped at step 16; a checkpoint is in"):
        run(algorithm._replace(step=step), scenario, keys, out=tmp_path, probe_every=4, **QUIET)
    assert signal.getsignal(number) is before
    resumed = run(algorithm, scenario, keys, out=tmp_path, resume=True, probe_every=4, **QUIET)
    assert identical(outcome(resumed), outcome(whole))


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    """A run stopped with two checkpoints, its arguments, and what it would have come to."""
    out = tmp_path_factory.mktemp("stopped") / "out"
    scenario = toy_stream(num_tasks=2)
    how = {
        "algorithm": cbp(scenario),
        "scenario": scenario,
        "key": key(1),
        "checkpoint_every": 4,
    } | QUIET
    with pytest.raises(Stop):
        run(**(how | {"algorithm": stopping(how["algorithm"], "step", 23), "out": out}))
    return out, how, run(**how)


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """The same, in a folder that a test may spoil."""
    out, how, whole = stopped_once
    return shutil.copytree(out, tmp_path / "out"), how, whole


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def empty(path):
    path.write_bytes(b"")


def foreign(path):
    path.write_text('{"a": [1, 2, {"b": "c"}]}')


def deep(path):
    path.write_text("[" * 100_000)


def promise(path):
    header = json.dumps(
        {"x": {"dtype": "F64", "shape": [2**40], "data_offsets": [0, 2**43]}}
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def vast(path):
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")


def gone(path):
    path.unlink()


@pytest.mark.parametrize(
    "spoil", [cut, flip, empty, foreign, deep, promise, vast, gone], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_the_previous_checkpoint_is_used_where_the_newest_is_spoilt(stopped, spoil, suffix, capsys):
    out, how, whole = stopped
    spoil(out / f"checkpoint{suffix}")
    assert identical(outcome(run(**how, out=out, resume=True)), outcome(whole))
    said = capsys.readouterr().err.strip().splitlines()
    assert (
        len(said) == 1
        and "is not usable" in said[0]
        and "going on from checkpoint.previous" in said[0]
    )


def test_a_checkpoint_that_promises_more_than_there_is_takes_no_memory(stopped):
    out, *_ = stopped
    for spoil in (promise, vast):
        path = out / "checkpoint.safetensors"
        spoil(path)
        about = json.loads((out / "checkpoint.json").read_text())
        about |= {"bytes": path.stat().st_size, "sha256": checkpoint._digest_file(path)}
        del about["checksum"]
        (out / "checkpoint.json").write_text(
            json.dumps(about | {"checksum": checkpoint._digest(about)})
        )
        with pytest.raises(Exception, match="header"):
            checkpoint._tensors(path)
        assert checkpoint.load(out, lambda _: None, lambda _: None)[1]["place"]["done"] == 16


def test_two_spoilt_checkpoints_are_refused_in_one_line(stopped):
    out, how, _ = stopped
    flip(out / "checkpoint.json"), cut(out / "checkpoint.previous.safetensors")
    with pytest.raises(Refused, match="run without resume to start anew") as error:
        run(**how, out=out, resume=True)
    assert "\n" not in str(error.value)


OTHERS = [
    ({"epochs": 3}, "epochs (2 there, 3 here)"),
    ({"batch_size": 4}, "batch_size (8 there, 4 here)"),
    ({"key": key(2)}, "keys.0.0 (1 there, 2 here)"),
    (
        {"algorithm": cbp(toy_stream(num_tasks=2), 0.2)},
        "settings.tx.inner.lr (0.1 there, 0.2 here)",
    ),
    ({"scenario": toy_stream(key(9), num_tasks=2)}, "data_sha256"),
    ({"evaluate": "current"}, "evaluate (seen there, current here)"),
    ({"skip": {1}}, "skip"),
    ({"engine": "auto"}, "engine (eager there, auto here)"),
]


@pytest.mark.parametrize(
    "change, message", OTHERS, ids=[message.split(" ")[0] for _, message in OTHERS]
)
def test_another_runs_checkpoint_is_refused_and_the_difference_named(stopped, change, message):
    out, how, _ = stopped
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(Refused) as error:
        run(**(how | change), out=out, resume=True)
    assert (
        message in str(error.value)
        and "another run's" in str(error.value)
        and "\n" not in str(error.value)
    )
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}


def test_another_torch_is_refused_unless_asked_for(stopped, monkeypatch):
    out, how, whole = stopped
    monkeypatch.setattr("clfunc.results.result.versions", lambda: {"torch": "9.9"})
    with pytest.raises(Refused, match=r"versions.torch"):
        run(**how, out=out, resume=True)
    assert identical(outcome(run(**how, out=out, resume="anyway")), outcome(whole))


def test_the_engine_that_was_chosen_is_used_again(stopped):
    out, *_ = stopped
    about = json.loads((out / "checkpoint.json").read_text())
    assert (
        about["plan"] == ["eager", 1]
        and about["place"]["done"] == 20
        and about["place"]["wall"] > 0
    )
    assert (about["place"]["event"], about["place"]["epoch"], about["place"]["step"]) == (1, 0, 4)


@pytest.mark.parametrize("engine", ["eager", "trace", "compile", "cudagraph"])
def test_a_checkpoint_may_be_of_any_engine_that_a_run_can_have(stopped, engine):
    about = json.loads((stopped[0] / "checkpoint.json").read_text())
    refuse_unsound(about | {"plan": [engine, 8]}, events=2, epochs=2, steps=8)
    for unknown in ("auto", "warp", None, [engine]):
        with pytest.raises(ValueError, match="does not say which engine"):
            refuse_unsound(about | {"plan": [unknown, 8]}, events=2, epochs=2, steps=8)


def test_a_checkpoint_of_an_engine_that_this_device_has_not_is_refused(stopped):
    out, how, _ = stopped
    tensors, about = checkpoint.read(out, "checkpoint")
    checkpoint.clear(out)
    checkpoint.save(
        out,
        tensors,
        {n: v for n, v in about.items() if n != "checksum"} | {"plan": ["cudagraph", 8]},
    )
    with pytest.raises(
        Refused, match=r"cannot resume: .*engine='cudagraph' needs a CUDA device, given cpu"
    ):
        run(**how, out=out, resume="anyway")


def test_a_run_without_resume_starts_anew_and_clears_the_folder(stopped):
    out, how, whole = stopped
    with pytest.raises(Stop):
        run(**(how | {"algorithm": stopping(how["algorithm"], "step", 1)}), out=out)
    assert not list(out.glob("checkpoint*"))
    assert identical(outcome(run(**how, out=out, resume=True)), outcome(whole))


def test_resume_needs_a_folder():
    scenario = toy_stream()
    with pytest.raises(ValueError, match="resume needs out"):
        run(cbp(scenario), scenario, key(1), resume=True, **QUIET)
    with pytest.raises(ValueError, match="checkpoint_every must be at least 1, given 0"):
        run(cbp(scenario), scenario, key(1), checkpoint_every=0, **QUIET)


def test_the_command_refuses_to_resume_another_run_with_exit_code_2(tmp_path, capsys):
    quick = [
        "run",
        "--engine",
        "eager",
        "--no-progress",
        "--tasks",
        "1",
        "--hidden",
        "4",
        "--optimizer",
        "sgd",
    ]
    assert main([*quick, "--resume"]) == 2
    assert (
        capsys.readouterr().err
        == "clfunc: --resume needs --out, the folder of the run to go on with\n"
    )
    out = ["--out", str(tmp_path)]
    assert main([*quick, *out]) == main([*quick, *out, "--resume"]) == 0
    capsys.readouterr()
    assert main([*quick, *out, "--resume", "--epochs", "2", "--set", "lr=0.5"]) == 2
    said = capsys.readouterr().err.strip()
    assert (
        "epochs (1 there, 2 here)" in said
        and "settings.tx.lr (0.01 there, 0.5 here)" in said
        and "\n" not in said
    )
    assert main([*quick, *out, "--checkpoint-every", "0"]) == 2
    assert "checkpoint_every must be at least 1, given 0" in capsys.readouterr().err


def test_at_every_instant_of_saving_one_checkpoint_is_good(tmp_path, monkeypatch):
    """Stop between any two changes of the folder: the newest good one is the last that was saved,
    or the new one."""
    replaced = os.replace
    for stop_at in range(1, 6):
        out = tmp_path / str(stop_at)
        for number in (1, 2):
            checkpoint.save(out, {"x": torch.tensor(number)}, {"number": number})
        calls = []

        def replace(a, b, calls=calls, stop_at=stop_at):
            calls.append(1)
            if len(calls) == stop_at:
                raise Stop
            replaced(a, b)

        monkeypatch.setattr(os, "replace", replace)
        try:
            checkpoint.save(out, {"x": torch.tensor(3)}, {"number": 3})
            assert stop_at == 5
        except Stop:
            pass
        monkeypatch.setattr(os, "replace", replaced)
        tensors, about = checkpoint.load(out, lambda _: None, lambda _: None)
        assert about["number"] == int(tensors["x"]) == (3 if stop_at == 5 else 2)
        assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_no_leaf_is_lost_or_renamed_on_the_way():
    leaves = {
        "a": torch.zeros(0, 3),
        "b": (torch.tensor(2.5, dtype=torch.float64), {"c.d": torch.tensor([True])}),
    }
    assert dict(tree.items(leaves)).keys() == {"a", "b.0", "b.1.c.d"}
