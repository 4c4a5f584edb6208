"""`clfunc diff` goes back to the last checkpoint that two runs have in common, and names where they
part from there."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from support.fuzzing import run_command

from clfunc.cli import replay
from clfunc.driver import checkpoint
from clfunc.results import store as archive

RUN = ["run", "--engine", "eager", "--no-progress", "--tasks", "2", "--hidden", "4", "--seeds", "2"]
RUN += ["--checkpoint-every", "1000"]  # when a task ends
STEPS = 23  # of a task


pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs that part: not at all, from the first step, and in the second task."""
    root = tmp_path_factory.mktemp("runs")
    given = {
        "a": ["--set", "lr=0.001"],
        "same": ["--set", "lr=0.001"],
        "faster": ["--set", "lr=0.01"],
        "carrying": ["--set", "lr=0.001", "--carry"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clfunc.results.plots.save", lambda *_: [])
        for name, more in given.items():
            assert run_command([*RUN, *more, "--out", str(root / name)])[0] == 0
    return root


def diff(*folders):
    code, out, err = run_command(["diff", *map(str, folders)])
    assert not err
    return code, out.splitlines()


def told_of_replay(lines):
    (line,) = [line for line in lines if line.startswith(("replayed", "apart", "no replay"))]
    return line


def copied(folder, to, change=lambda tensors: None, name=checkpoint.NEWEST):
    """A copy of a run, with other tensors in a checkpoint."""
    shutil.copytree(folder, to)
    if change is not None:
        about = json.loads((to / f"{name}.json").read_text())
        del about["checksum"]
        tensors = load_file(to / f"{name}.safetensors")
        change(tensors)
        for path in to.glob("checkpoint*"):
            path.unlink()
        checkpoint.save(to, tensors, about)
    return to


def flip(tensors):
    tensors["params.hidden1.weight"].view(torch.int32)[1, 2, 3] ^= 1


def test_runs_alike_have_no_difference_whatever_steps_their_checkpoints_are_of(runs, tmp_path):
    assert diff(runs / "a", runs / "same") == (0, ["no difference in results"])
    assert diff(runs / "a", copied(runs / "a", tmp_path / "b", name=checkpoint.PREVIOUS))[0] == 0


def test_one_bit_in_a_leaf_of_a_checkpoint_is_named_by_step_leaf_and_run(runs, tmp_path):
    code, said = diff(runs / "a", copied(runs / "a", tmp_path / "b", flip, checkpoint.PREVIOUS))
    begins = (
        f"apart at step {STEPS}, the first that both hold a checkpoint of:"
        " params.hidden1.weight of run 1[2, 3] (1 of "
    )
    assert code == 1 and told_of_replay(said).startswith(begins)


def test_a_learning_rate_shows_in_the_first_checkpoint_that_both_hold(runs):
    code, said = diff(runs / "a", runs / "faster")
    assert code == 1 and told_of_replay(said).startswith(f"apart at step {STEPS}, ")


def test_runs_that_part_after_a_checkpoint_are_replayed_to_the_very_step(runs):
    """Adam's memory is carried into the second task by one only: its first step sets them apart."""
    code, said = diff(runs / "a", runs / "carrying")
    assert code == 1
    assert told_of_replay(said).startswith(
        f"replayed from step {STEPS}, the runs part after step {STEPS + 1}: "
    )


def test_a_replay_does_what_the_run_did(runs):
    tensors, about = checkpoint.read(runs / "a", checkpoint.PREVIOUS)
    *_, stage = replay.replay(runs / "a", (tensors, about))
    last = stage.run_state
    found, held = replay._named(last), checkpoint.read(runs / "a", checkpoint.NEWEST)[0]
    assert (
        last.done == 2 * STEPS
        and found
        and all(torch.equal(leaf, held[name]) for name, leaf in found.items())
    )


def test_a_difference_that_no_argument_makes_is_said_to_be_so(runs, tmp_path):
    changed = copied(runs / "a", tmp_path / "b", None)
    data = archive.load(changed)
    data["training_loss"].values[1, 5] += 1
    archive.write(data, changed)
    code, said = diff(runs / "a", changed)
    assert code == 1 and "by step 6: training_loss of run 1" in said[0]
    assert told_of_replay(said).startswith(
        f"replayed from step {2 * STEPS}: alike to step {2 * STEPS}: "
    )


WITHOUT = {
    "the folders hold no checkpoint of one step": lambda out: [
        path.unlink() for path in out.glob("checkpoint*")
    ],
    "was not made by the clfunc command": lambda out: _config(out, lambda c: c.pop("arguments")),
    "from step": lambda out: _config(out, lambda c: c["arguments"].update(seeds="x")),
    "must be one of": lambda out: _config(
        out, lambda c: c["arguments"].update(algorithm="nothing")
    ),
}


def _config(out, change):
    config = json.loads((out / "config.json").read_text())
    change(config)
    (out / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("message", WITHOUT)
def test_where_no_replay_can_be_made_one_line_says_why(message, runs, tmp_path):
    out = copied(runs / "carrying", tmp_path / "b", None)
    WITHOUT[message](out)
    code, said = diff(runs / "a", out)
    line = told_of_replay(said)
    assert code == 1 and line.startswith("no replay") and message in line
    assert any(line.startswith("first difference") for line in said)
