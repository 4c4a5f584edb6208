"""`clfunc diff` names the first step, run and leaf at which two runs part; the same command gives
the same results.
"""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.fuzzing import run_command

from clfunc.experiments import diff as difference
from clfunc.results import store as archive

SMALL = ["run", "--engine", "eager", "--no-progress", "--tasks", "2", "--seeds", "2"]
RUN = [*SMALL, "--hidden", "8"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One command twice, and once with another learning rate."""
    root = tmp_path_factory.mktemp("runs")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("clfunc.results.plots.save", lambda *_: [])
    for name, lr in (("a", "0.001"), ("b", "0.001"), ("faster", "0.01")):
        assert run_command([*RUN, "--set", f"lr={lr}", "--out", str(root / name)])[0] == 0
    monkeypatch.undo()
    return root


def diff(*folders):
    code, out, err = run_command(["diff", *map(str, folders)])
    assert not err
    return code, out.splitlines()


def changed(runs, tmp_path, change):
    """A copy of a run whose results `change` has changed in place."""
    out = tmp_path / "changed"
    shutil.copytree(runs / "a", out)
    data = archive.load(out)
    change(data)
    archive.write(data, out)
    return out


def test_one_command_twice_has_no_difference(runs):
    assert diff(runs / "a", runs / "b") == (0, ["no difference in results"])


def test_another_learning_rate_is_named_and_the_first_step_it_shows_at(runs):
    code, said = diff(runs / "a", runs / "faster")
    assert code == 1 and any(line.endswith("tx.lr: 0.001 and 0.01") for line in said)
    first = next(line for line in said if line.startswith("first"))
    assert first.startswith("first difference by step 2: training_loss of run 0 at step 2: ")


def test_the_first_changed_step_and_its_run_are_named_whatever_changes_later(runs, tmp_path):
    def change(data):
        data["training_loss"].values[0, 7:] += 1
        data["training_accuracy"].values[1, 4] = np.nan
        data["accuracy"].values[:] = 0

    code, said = diff(runs / "a", changed(runs, tmp_path, change))
    assert code == 1 and said[0].startswith(
        "first difference by step 5: training_accuracy of run 1 at step 5: "
    )
    assert said[0].endswith(" and nan") and said[1].startswith("3 of ")


def test_an_accuracy_is_named_by_its_event_and_task(runs, tmp_path):
    def change(data):
        data["accuracy"].values[1, 1, 0] += 2.0**-50

    last = archive.load(runs / "a")["step"].values[-1]
    code, said = diff(runs / "a", changed(runs, tmp_path, change))
    assert code == 1 and f"by step {last}: accuracy of run 1 at event 2, task 1: " in said[0]


def test_nan_equals_nan_and_one_shape_is_not_another(runs, tmp_path):
    def spoil(data):
        data["training_loss"].values[0, 3] = np.nan

    spoilt = changed(runs, tmp_path, spoil)
    assert diff(spoilt, spoilt)[0] == 0 and diff(runs / "a", spoilt)[0] == 1
    data = archive.load(runs / "a")
    parts = difference.results(data, data.isel(step=slice(0, 5)))
    assert {part.name for part in parts} >= {"training_loss", "step"}
    assert all(" has shape" in str(part) for part in parts)


FLIPPED = [
    (1, "opt.m[2, 1] (1 of 12 entries differ)"),
    (3, "opt.m of run 2[1] (1 of 12 entries differ)"),
]


@pytest.mark.parametrize("count, said", FLIPPED)
def test_one_flipped_bit_names_the_leaf_and_the_run(count, said):
    drawn = torch.arange(12.0).reshape(3, 4) + 0.1
    leaves = {"w": torch.ones(3, 2), "opt.m": drawn, "n": torch.full((3,), torch.nan)}
    flipped = {name: leaf.clone() for name, leaf in leaves.items()}
    flipped["opt.m"].view(torch.int32)[2, 1] ^= 1
    assert not list(difference.leaves(leaves.items(), leaves.items(), count))
    (part,) = difference.leaves(leaves.items(), flipped.items(), count)
    assert str(part).startswith(said) and part.values == (
        drawn[2, 1].item(),
        flipped["opt.m"][2, 1].item(),
    )


def test_tensors_kept_beside_the_results_are_compared_leaf_by_leaf(runs, tmp_path):
    from safetensors.torch import save_file

    for name in ("a", "b"):
        shutil.copytree(runs / "a", tmp_path / name)
        kept = {"params.w": torch.full((2, 3), float(name == "b")), "same": torch.ones(2)}
        save_file(kept, tmp_path / name / "x.safetensors")
    code, said = diff(tmp_path / "a", tmp_path / "b")
    assert code == 1
    assert (
        said[0]
        == "x.safetensors: 1 leaves differ, first params.w of run 0[0] (6 of 6 entries differ): 0.0 and 1.0"
    )
    (tmp_path / "b" / "x.safetensors").write_bytes(b"\xff" * 99)
    code, _, err = run_command(["diff", str(tmp_path / "a"), str(tmp_path / "b")])
    assert (
        code == 2
        and "x.safetensors is not a sound file of tensors" in err
        and len(err.splitlines()) == 1
    )


SPOILS = {
    "config.json is not JSON": lambda folder: (folder / "config.json").write_text("{"),
    "config.json must hold one JSON object, given a list": lambda folder: (
        folder / "config.json"
    ).write_text("[1]"),
    "no config.json in ": lambda folder: (folder / "config.json").unlink(),
    "results.nc is not a sound file of results": lambda folder: (folder / "results.nc").write_bytes(
        b"x"
    ),
    "no results.nc in ": lambda folder: (folder / "results.nc").unlink(),
}


@pytest.mark.parametrize("message", SPOILS)
def test_a_folder_without_a_sound_run_is_refused_in_one_line(message, runs, tmp_path):
    shutil.copytree(runs / "a", tmp_path / "spoilt")
    SPOILS[message](tmp_path / "spoilt")
    code, out, err = run_command(["diff", str(runs / "a"), str(tmp_path / "spoilt")])
    assert code == 2 and out == "" and message in err and len(err.splitlines()) == 1


THREADS = """
import sys, torch
torch.set_num_threads(int(sys.argv[1]))
from clfunc.results import plots
plots.save = lambda *_: []
from clfunc.cli import main
sys.exit(main(sys.argv[2:]))
"""


def test_one_and_two_threads_agree_to_a_thousandth_of_each_loss(tmp_path):
    wide = [*SMALL, "--hidden", "128", "--batch-size", "256"]
    for threads in ("1", "2"):
        argv = [sys.executable, "-c", THREADS, threads, *wide, "--out", str(tmp_path / threads)]
        subprocess.run(argv, check=True, capture_output=True)
    one, two = (archive.load(tmp_path / threads) for threads in ("1", "2"))
    np.testing.assert_allclose(one["training_loss"], two["training_loss"], rtol=1e-3)
    np.testing.assert_allclose(one["accuracy"], two["accuracy"], atol=2.5 / 360)  # two examples
    settings, _ = difference.folders(tmp_path / "1", tmp_path / "2")
    assert settings == ["threads: 1 and 2"]


def test_what_only_one_side_has_is_one_line_however_much_it_is():
    a = {
        "lr": 0.1,
        "members": [{"name": "m", "tx": {"lr": rate}} for rate in (1, 2, 3)],
        "seeds": [0, 1],
        "out": "a",
    }
    b = {
        "lr": 0.1,
        "members": [{"name": "m", "tx": {"lr": 5}}],
        "halving": {"eta": 3, "rungs": [{}]},
        "seeds": [0],
        "out": "a",
    }
    assert difference.settings(a, b) == [
        "members: 3 entries and 1 entries",
        "members.0.tx.lr: 1 and 5",
        "seeds: [0, 1] and [0]",
        "halving: nothing and 2 entries",
    ]
    assert difference.settings(a, a) == [] and difference.settings({"x": None}, {}) == [
        "x: None and nothing"
    ]
