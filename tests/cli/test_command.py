"""The command line, through `main(argv)` and as a process: what it does, and what it refuses."""

import gzip
import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.commands import QUICK, refused

from clfunc.cli import main


def write_idx(path, array, header=None):
    codes = {np.dtype("u1"): 8, np.dtype("f4"): 13}
    big = array.astype(array.dtype.newbyteorder(">"))
    shape = header or array.shape
    data = (
        bytes([0, 0, codes[array.dtype], len(shape)])
        + struct.pack(f">{len(shape)}I", *shape)
        + big.tobytes()
    )
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def idx_folder(tmp_path):
    """A small sound data set of four classes, to spoil."""
    root = tmp_path / "data"
    root.mkdir()
    for name, n in (("train", 40), ("t10k", 20)):
        images = np.random.default_rng(0).integers(0, 256, (n, 5, 5)).astype("u1")
        write_idx(root / f"{name}-images-idx3-ubyte.gz", images)
        write_idx(root / f"{name}-labels-idx1-ubyte.gz", np.arange(n).astype("u1") % 4)
    return root


def run_in(tmp_path, *arguments):
    return main(["run", *QUICK, "--out", str(tmp_path / "out"), *map(str, arguments)])


BAD = {
    "--algorithm nonsense": (
        "--algorithm must be one of a_gem, adahat, amnesiac_hat, cbp, cbp_arxiv2023, cbp_lop_conv, "
    ),
    "--nonsense 3": "Unrecognized options: --nonsense",
    "--tasks zero": "--tasks",
    "--tasks 0": "--tasks must be at least 1, given 0",
    "--batch-size 0": "--batch-size must be at least 1, given 0",
    "--epochs -1": "--epochs must be at least 1, given -1",
    "--seeds 0": "--seeds must be at least 1, given 0",
    "--seed -1": "seed must be in [0, 2**64), given -1",
    "--dataset nonsense": "dataset must be one of digits, mnist5k, mnist",
    "--dataset mnist --data-root /nowhere": (
        "data root /nowhere is not a folder: give one that holds mnist's files"
    ),
    "--scenario nonsense": "--scenario must be one of permuted, split, rotated, combined, slowly_",
    "--scenario slowly_changing_regression --algorithm joint": (
        "is one stream without validation: leave out --valid"
    ),
    "--scenario slowly_changing_regression --set slow=3": (
        "slow must be in 8..20 for 20 inputs, given 3"
    ),
    "--scenario split --tasks 11": "digits has 10 classes, too few for 11 tasks",
    "--paradigm nonsense": "paradigm must be til, cil or dil, given 'nonsense'",
    "--valid 1.5": "valid must be a share in [0, 1) of the training examples, given 1.5",
    "--optimizer nonsense": "--optimizer must be one of sgd, adam, adamw, upgd, given 'nonsense'",
    "--set lr=-1": "lr must be a number in [0, inf), given -1",
    "--set lr=fast": "lr must be a number, given 'fast'",
    "--set lr": "--set takes name=value, given 'lr'",
    "--set speed=3": (
        "cannot set 'speed' here: one of activation, compute_dtype, dropout_rate,"
        " first_identity, lr, momentum"
    ),
    "--set activation=nonsense": "activation must be one of relu",
    "--set dropout_rate=1": "dropout_rate must be in [0, 1), given 1",
    "--set nesterov=true": "nesterov needs momentum",
    "--hidden 0": "hidden must hold at least one width of at least 1, given [0]",
    "--wrap nonsense": (
        "--wrap must be one of amnesiac, reduce_on_plateau, shrink_and_perturb, given 'nonsense'"
    ),
    "--model nonsense": "--model must be one of convnet, mlp, resnet, given 'nonsense'",
    "--model mlp --set norm=group": "norm must be layer or none, given 'group'",
    "--model resnet --set norm=batch": "norm must be layer, group or none, given 'batch'",
    "--model resnet --set norm=3": "norm must be a word, given 3",
    "--model resnet --set per_task_norm=true": (
        "per_task_norm needs a norm: give norm=layer or group"
    ),
    "--model resnet --set norm=layer --set per_task_norm=true --algorithm single": (
        "only a til, cil, dil or mtl head can keep norm"
    ),
    "--model convnet --set channels=[]": (
        "channels must hold at least one width of at least 1, given []"
    ),
    "--model convnet --set channels=16": "channels must be numbers in brackets, given 16",
    "--model convnet --set channels=4,4,4,4": (
        "channels must hold at most 3 blocks for images of 8x8, given 4"
    ),
    "--model convnet --set kernel=4": "kernel must be an odd number of at least 1, given 4",
    "--engine nonsense": "invalid choice 'nonsense' for argument '--engine'",
    "--device nonsense": (
        "--device must be auto, cpu or a device that torch can use, given 'nonsense'"
    ),
    "--evaluate nonsense": (
        "evaluate must be 'seen', 'current', 'none' or a number of tasks, given 'nonsense'"
    ),
    "--set lr=0.1 --set lr=0.2": "lr is set 2 times: give it once",
    "--set lr=1e999": "lr must be a number in [0, inf), given inf",
    "--optimizer adam --set betas=[0.5]": "betas must be two numbers, given [0.5]",
    "--algorithm single --task 3": "--task must be in 1..2, given 3",
    "--dataset digits,digits": (
        "--dataset names 2, which only --scenario combined takes, given permuted"
    ),
    "--scenario combined --dataset digits,digits,digits": (
        "--tasks is 2, but --dataset names 3 to combine"
    ),
}


@pytest.mark.parametrize("arguments", BAD)
def test_a_wrong_argument_is_refused_in_one_line_and_nothing_is_written(
    arguments, tmp_path, capsys
):
    line = refused(capsys, run_in(tmp_path, *arguments.split()), tmp_path / "out")
    assert BAD[arguments] in line


BAD_GRIDS = {
    "--grid lr": "--grid takes name=value, given 'lr'",
    "--grid lr=0.1,fast": "lr must be a number, given 'fast'",
    "--grid hidden=3,4": "cannot set 'hidden' here",
    "--set lr=1 --grid lr=1,2": "lr is set 2 times",
    "--grid lr=1 --grid lr=2": "lr is set 2 times",
    "--grid lr=0.1,0.1": "--grid lr repeats a value",
    "--grid nesterov=true,false --set momentum=0.9": (
        "members of a sweep must differ in numbers only, given tx.nesterov"
    ),
    "--scenario rotated --grid degrees=10,20": (
        "--grid degrees: a scenario is one for all runs of a sweep"
    ),
}


@pytest.mark.parametrize("arguments", BAD_GRIDS)
def test_a_wrong_grid_is_refused_in_one_line(arguments, tmp_path, capsys):
    code = main(["sweep", *QUICK, "--out", str(tmp_path / "out"), *arguments.split()])
    assert BAD_GRIDS[arguments] in refused(capsys, code, tmp_path / "out")


def test_the_current_folder_is_no_place_for_results(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", *QUICK, "--out", ""]) == 2
    assert "--out must name a folder" in capsys.readouterr().err and not list(tmp_path.iterdir())


def spoil_truncated(root):
    path = root / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-40])


def spoil_header(root):
    write_idx(root / "train-images-idx3-ubyte.gz", np.zeros((40, 5, 5), "u1"), header=(2**31, 5, 5))


def spoil_foreign(root):
    (root / "train-images-idx3-ubyte.gz").write_bytes(b"\x89PNG not at all")


def spoil_labels(root):
    write_idx(root / "t10k-labels-idx1-ubyte.gz", np.full(20, 7, "u1"))


def spoil_nan(root):
    images = np.zeros((40, 5, 5), "f4")
    images[3, 2, 1] = np.nan
    write_idx(root / "train-images-idx3-ubyte.gz", images)


def spoil_missing(root):
    (root / "t10k-images-idx3-ubyte.gz").unlink()


SPOILT = [
    (spoil_truncated, "is corrupt"),
    (spoil_header, "its header promises"),
    (spoil_foreign, "is not an IDX file"),
    (spoil_labels, "test labels must be in 0..3, given 7"),
    (spoil_nan, "training images hold NaN or infinity in 1 places"),
    (spoil_missing, "holds no IDX file of test images"),
]


@pytest.mark.parametrize("spoil, message", SPOILT, ids=lambda x: getattr(x, "__name__", ""))
def test_spoilt_data_is_refused_in_one_line_and_nothing_is_written(
    spoil, message, idx_folder, tmp_path, capsys
):
    spoil(idx_folder)
    code = run_in(tmp_path, "--dataset", "idx", "--data-root", idx_folder)
    assert message in refused(capsys, code, tmp_path / "out")


def test_an_output_folder_that_is_not_writable_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    code = main(["run", *QUICK, "--out", str(tmp_path / "file" / "out")])
    assert "cannot write to" in refused(capsys, code, tmp_path / "out")


def test_a_folder_of_idx_files_is_a_data_set(idx_folder, tmp_path, capsys):
    assert run_in(tmp_path, "--dataset", "idx", "--data-root", idx_folder, "--paradigm", "cil") == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["dataset"] == "idx"


ALGORITHMS = ("finetuning", "joint", "single", "independent", "random", "fix")
PARADIGMS = ("til", "cil", "dil")


def every_pair():
    """Each algorithm with each paradigm; the short tests have each algorithm and each paradigm."""
    for row, algorithm in enumerate(ALGORITHMS):
        for column, paradigm in enumerate(PARADIGMS):
            short = row % len(PARADIGMS) == column
            yield pytest.param(algorithm, paradigm, marks=() if short else pytest.mark.long)


@pytest.mark.parametrize("algorithm, paradigm", every_pair())
def test_every_algorithm_runs_in_every_paradigm(algorithm, paradigm, tmp_path, capsys):
    assert (
        run_in(
            tmp_path, "--algorithm", algorithm, "--paradigm", paradigm, "--seeds", 2, "--valid", 0.1
        )
        == 0
    )
    assert algorithm in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["runs"] == 2


@pytest.mark.parametrize("scenario", ["split", "rotated", "combined"])
def test_every_scenario_runs(scenario, tmp_path, capsys):
    dataset = "digits,digits" if scenario == "combined" else "digits"
    assert run_in(tmp_path, "--scenario", scenario, "--dataset", dataset) == 0


@pytest.mark.parametrize(
    "flags", ["mlp", "convnet --set channels=2,2", "resnet --set channels=2,2"]
)
def test_every_model_runs_with_norms_of_each_task(flags, tmp_path, capsys):
    own = ["--set", "norm=layer", "--set", "per_task_norm=true"]
    assert run_in(tmp_path, "--seeds", 2, "--model", *flags.split(), *own) == 0
    assert '"per_task_norm": true' in (tmp_path / "out" / "config.json").read_text()


def test_run_i_of_many_seeds_is_the_run_with_that_seed(tmp_path, capsys):
    for name, flags in (("many", ["--seeds", "3"]), ("alone", ["--seed", "2"])):
        assert main(["run", *QUICK, "--epochs", "2", "--out", str(tmp_path / name), *flags]) == 0
    many, alone = (
        json.loads((tmp_path / n / "summary.json").read_text()) for n in ("many", "alone")
    )
    assert (
        abs(many["average_accuracy"]["values"][2] - alone["average_accuracy"]["values"][0]) < 0.01
    )


@pytest.mark.draws
def test_sweep_runs_the_grid_with_every_seed_and_report_reads_it(tmp_path, capsys):
    out = tmp_path / "grid"
    grid = ["--grid", "lr=0.1,0.01", "--grid", "momentum=0,0.9", "--seeds", "2"]
    assert (
        main(
            [
                "sweep",
                *QUICK,
                "--out",
                str(out),
                *grid,
                "--wrap",
                "reduce_on_plateau",
                "--set",
                "patience=2",
            ]
        )
        == 0
    )
    rows = (out / "accuracy.csv").read_text().splitlines()
    assert rows[0] == "run,seed,trained,tested,accuracy,lr,momentum" and len(rows) == 1 + 8 * 3
    assert main(["report", str(out)]) == 0
    assert "lr=0.01, momentum=0.9" in capsys.readouterr().out
    assert (tmp_path / "report" / "average_accuracy.png").stat().st_size > 5000


def test_report_keeps_results_of_one_name_apart_and_compares_only_what_is_alike(tmp_path, capsys):
    folders = ("til/finetuning", "til/independent", "dil/finetuning")
    for paradigm, algorithm in (folder.split("/") for folder in folders):
        flags = ["--paradigm", paradigm, "--algorithm", algorithm, "--seeds", "2"]
        assert main(["run", *QUICK, *flags, "--out", str(tmp_path / paradigm / algorithm)]) == 0
    capsys.readouterr()
    assert main(["report", *(str(tmp_path / folder) for folder in folders)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "finetuning" in line]
    assert "til/finetuning" in rows[0] and "dil/finetuning" in rows[1]
    assert [row.rstrip(" │").endswith("-") for row in rows] == [False, True]  # forward transfer


def test_a_diverged_run_is_reported_as_such(tmp_path, capsys):
    assert run_in(tmp_path, "--set", "lr=1e30", "--seeds", 2, "--epochs", 2) == 0
    assert "diverged" in capsys.readouterr().out
    assert (
        json.loads((tmp_path / "out" / "summary.json").read_text())["average_accuracy"]["mean"]
        is None
    )


def test_report_without_results_is_refused(tmp_path, capsys):
    assert "no results.nc in" in refused(
        capsys, main(["report", str(tmp_path)]), tmp_path / "report"
    )


def test_list_names_everything_with_its_settings(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for name in (
        "finetuning",
        "joint",
        "reduce_on_plateau",
        "sgd",
        "mlp",
        "rotated",
        "fashion-mnist",
        "--set lr=0.01",
    ):
        assert name in said


def test_a_failing_run_is_one_line_and_exit_code_1(tmp_path, capsys, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("the machine\nis on fire")

    monkeypatch.setattr("clfunc.cli.many.run_with", fails)
    assert run_in(tmp_path) == 1
    assert "clfunc: the machine is on fire" in capsys.readouterr().err


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "clfunc", "run", "--tasks", "0"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr == "clfunc: --tasks must be at least 1, given 0\n"


@pytest.mark.data
def test_fashion_mnist_runs_at_full_size_by_name(tmp_path, capsys):
    from clfunc.datasets.load import _DEBIAN_FASHION

    if not _DEBIAN_FASHION.is_dir():
        pytest.skip("dataset-fashion-mnist is not installed")
    assert (
        run_in(tmp_path, "--dataset", "fashion-mnist", "--batch-size", 512, "--set", "lr=0.1") == 0
    )
    accuracy = (tmp_path / "out" / "accuracy.csv").read_text().splitlines()
    assert float(accuracy[1].split(",")[4]) > 0.7 and torch.get_num_threads() == 1
