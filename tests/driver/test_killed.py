"""Real processes that are killed, told to stop or run out of disk: resumed, they leave what an
undisturbed one leaves."""

import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
import xarray

COMMON = "--dataset digits --scenario permuted --tasks 2 --epochs 2 --batch-size 48 --hidden 16"
COMMON += " --engine eager --no-progress"
COMMANDS = {
    "run": f"run {COMMON} --algorithm cbp --set replacement_rate=0.01 --checkpoint-every 10",
    "sweep": f"sweep {COMMON} --seeds 2 --grid lr=0.01,0.001 --checkpoint-every 7",
}


def start(command, out, *more, **how):
    """`clfunc` as a process of its own, on one thread."""
    argv = [sys.executable, "-m", "clfunc", *command.split(), "--out", str(out), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        argv,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
        **how,
    )


def finish(*args, **how):
    process = start(*args, **how)
    out, err = process.communicate()
    return process.returncode, out, err


def values(out):
    return xarray.load_dataset(out / "results.nc", engine="h5netcdf")


def of_commands(*names):
    """Runs a test with these commands only. A law that one command shows needs no second one."""
    return pytest.mark.parametrize("undisturbed", names, indirect=True)


@pytest.fixture(scope="module")
def undisturbed(request, tmp_path_factory):
    """A command, what it leaves when nothing happens, and how long it takes."""
    out, began = tmp_path_factory.mktemp("undisturbed") / "out", time.monotonic()
    code, _, err = finish(COMMANDS[request.param], out)
    assert code == 0, err
    return COMMANDS[request.param], values(out), time.monotonic() - began


def kill_and_resume(undisturbed, tmp_path, kills):
    """Kill a command at random moments of its life, `kills` times, each time going on; then let it
    finish."""
    command, whole, seconds = undisturbed
    moments, killed, out = random.Random(seconds), 0, tmp_path / "out"
    while killed < kills:
        process = start(command, out, "--resume")
        time.sleep(moments.uniform(0.3, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            killed += 1
        else:
            assert process.returncode == 0, process.stderr.read()
            assert values(out).identical(whole)
            out = tmp_path / f"out{killed}"  # it came to its end: the next kills are of another
        process.stdout.close(), process.stderr.close()
    code, _, err = finish(command, out, "--resume")
    assert code == 0, err
    assert values(out).identical(whole)
    assert not [path for path in out.rglob(".*") if path.is_file()]


@of_commands(pytest.param("run", marks=pytest.mark.long), "sweep")
def test_a_killed_command_resumes_to_the_same_bits(undisturbed, tmp_path):
    kill_and_resume(undisturbed, tmp_path, 1)


@pytest.mark.long
@of_commands("run", "sweep")
def test_a_command_killed_often_resumes_to_the_same_bits_at_length(undisturbed, tmp_path):
    kill_and_resume(undisturbed, tmp_path, 20)


@pytest.mark.parametrize(
    "undisturbed, number",
    [("run", signal.SIGTERM), pytest.param("sweep", signal.SIGINT, marks=pytest.mark.long)],
    indirect=["undisturbed"],
)
def test_a_command_told_to_stop_leaves_a_checkpoint_and_says_how_to_go_on(
    undisturbed, number, tmp_path
):
    command, whole, _ = undisturbed
    out = tmp_path / "out"
    process = start(command, out)
    while not (out / "checkpoint.json").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 1 and len(err.strip().splitlines()) == 1, err
    assert (
        "stopped at step" in err
        and f"to go on: clfunc {command}" in err
        and err.strip().endswith("--resume")
    )
    again = err.split("to go on: clfunc ")[1].strip().split(" --out ")[0]
    assert finish(again, out, "--resume")[0] == 0
    assert values(out).identical(whole)


def full(limit):
    def apply():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return apply


@of_commands("run")
def test_a_full_disk_is_one_line_and_the_previous_checkpoint_is_good(undisturbed, tmp_path):
    command, whole, _ = undisturbed
    out = tmp_path / "out"
    assert finish(command, out, preexec_fn=full(2000))[0] == 1
    process = start(command, out, "--resume")
    while not (out / "checkpoint.previous.json").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.kill(), process.communicate()
    before = {path.name: path.read_bytes() for path in out.glob("checkpoint*")}
    code, _, err = finish(command, out, "--resume", preexec_fn=full(2000))
    assert code == 1 and len(err.strip().splitlines()) == 1, err
    assert "cannot write a checkpoint to" in err and "File too large" in err
    assert before == {path.name: path.read_bytes() for path in out.glob("checkpoint*")}
    assert finish(command, out, "--resume")[0] == 0
    assert values(out).identical(whole)


@of_commands("sweep")
def test_a_finished_command_resumed_leaves_the_same(undisturbed, tmp_path):
    command, whole, _ = undisturbed
    out = tmp_path / "out"
    assert finish(command, out)[0] == 0
    code, _, err = finish(command.replace("--no-progress", "--progress"), out, "--resume")
    said = [line for line in err.splitlines() if "is finished" in line]
    assert code == 0 and len(said) == 1 and "Error" not in err, err
    assert values(out).identical(whole)
