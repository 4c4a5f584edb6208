"""What a run leaves behind: the files of its folder, their labels, and nothing half-written."""

import csv
import json

import numpy as np
import pytest
import torch
import xarray

from clfunc import finetuning, mlp, run, scenarios, sgd, sweep
from clfunc.random import key
from clfunc.results import files, plots
from clfunc.results import result as results
from clfunc.testing.play import toy_data

SEEDS, RATES = (5, 6), (0.1, 0.01)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "deep" / "run"
    keys = torch.stack([key(seed) for _ in RATES for seed in SEEDS])
    scenario = scenarios.permuted(toy_data(), 3, keys, valid=0.2)
    members = [
        finetuning(mlp(scenario.inputs, (8,), scenario.head()), sgd(lr))
        for lr in RATES
        for _ in SEEDS
    ]
    quiet = {"epochs": 2, "batch_size": 8, "engine": "eager", "progress": False}
    return run(
        sweep(members), scenario, keys, out=out, config={"arguments": {"note": "kept"}}, **quiet
    ), out


def test_a_run_leaves_the_files_of_the_design_and_no_others(finished):
    _, out = finished
    assert sorted(p.name for p in out.iterdir()) == [
        "accuracy.csv", "checkpoint.json", "checkpoint.previous.json", "checkpoint.previous.safetensors",
        "checkpoint.safetensors", "config.json", "figures", "metrics.csv", "results.nc", "summary.json",
    ]  # fmt: skip
    assert {p.name for p in (out / "figures").iterdir()} == {
        "accuracy_matrix.png", "average_accuracy.png", "online_accuracy.png", "online_loss.png", "training_loss.png",
        "training_accuracy.png", "validation_loss.png", "validation_accuracy.png", "probe_dead.png", "probe_dormant.png",
        "probe_effective_rank.png", "probe_gradient_norm.png", "probe_srank.png", "probe_stable_rank.png",
        "probe_weight_magnitude.png",
    }  # fmt: skip
    assert all(p.stat().st_size > 5000 for p in (out / "figures").iterdir())


def test_accuracy_csv_has_a_row_for_each_tested_pair_counted_from_zero(finished):
    result, out = finished
    rows = list(csv.DictReader((out / "accuracy.csv").read_text().splitlines()))
    assert list(rows[0]) == ["run", "seed", "trained", "tested", "accuracy", "lr"]
    assert len(rows) == 4 * (1 + 2 + 3)
    for row in rows:
        trained, tested, i = int(row["trained"]), int(row["tested"]), int(row["run"])
        assert float(row["accuracy"]) == result.accuracy[trained, tested, i]
        assert int(row["seed"]) == SEEDS[i % 2] and float(row["lr"]) == RATES[i // 2]


def test_metrics_csv_is_tidy_and_complete(finished):
    result, out = finished
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert list(rows[0]) == ["run", "seed", "step", "task", "metric", "value", "lr"]
    told = {"training_loss", "training_accuracy", "validation_loss", "validation_accuracy"}
    assert {row["metric"] for row in rows if not row["metric"].startswith("probe_")} == told
    losses = [row for row in rows if row["metric"] == "training_loss" and row["run"] == "3"]
    assert [int(row["step"]) for row in losses] == list(range(1, result.steps + 1))
    np.testing.assert_allclose(
        [float(r["value"]) for r in losses], result.training.values["loss"][:, 3], rtol=1e-6
    )
    assert {row["task"] for row in losses} == {"0", "1", "2"}


def test_results_nc_is_labelled_by_run_event_and_task(finished):
    result, out = finished
    data = xarray.load_dataset(out / "results.nc", engine="h5netcdf")
    assert data["accuracy"].dims == ("run", "event", "tested")
    assert data["event"].values.tolist() == data["tested"].values.tolist() == [0, 1, 2]
    assert data["task"].values.tolist() == [0, 1, 2]
    assert np.unique(data["training_task"].values).tolist() == [0, 1, 2]
    assert data["epoch"].values.tolist() == [0, 1, 2, 3, 4, 5]
    assert data["seed"].values.tolist() == [5, 6, 5, 6] and data["lr"].values.tolist() == [
        0.1,
        0.1,
        0.01,
        0.01,
    ]
    np.testing.assert_array_equal(data["accuracy"].values, result.accuracy.movedim(-1, 0).numpy())
    assert float(data["average_accuracy"][2, -1]) == float(result.average_accuracy[2])


def test_figures_count_tasks_from_one(finished):
    data = results.to_xarray(finished[0])
    assert plots._event_labels(data).tolist() == [1, 2, 3]
    drawn = plots.over_tasks({"finetuning": data}, "average_accuracy")
    assert drawn.axes[0].lines[0].get_xdata().tolist() == [1, 2, 3]


def test_summary_holds_the_numbers_of_a_table(finished):
    result, out = finished
    found = json.loads((out / "summary.json").read_text())
    assert list(found) == [
        "algorithm", "scenario", "dataset", "paradigm", "tasks", "runs", "average_accuracy", "backward_transfer",
        "forgetting", "diverged", "wall_seconds", "steps_per_second", "engine",
    ]  # fmt: skip
    values = result.average_accuracy.tolist()
    assert found["average_accuracy"]["values"] == values
    assert found["average_accuracy"]["mean"] == pytest.approx(np.mean(values))
    assert found["average_accuracy"]["std"] == pytest.approx(np.std(values, ddof=1))


def test_config_says_all_that_decides_the_result(finished):
    _, out = finished
    config = json.loads((out / "config.json").read_text())
    assert config["seeds"] == [5, 6, 5, 6] and config["arguments"] == {"note": "kept"}
    assert [member["tx"]["lr"] for member in config["settings"]["members"]] == [
        0.1,
        0.1,
        0.01,
        0.01,
    ]
    assert (
        config["versions"]["torch"] == torch.__version__
        and config["scenario_settings"]["valid"] == 0.2
    )
    assert (config["epochs"], config["batch_size"], config["engine"]) == (2, 8, "eager")


def test_one_run_without_an_axis_is_written_as_a_run_of_one(tmp_path):
    scenario = scenarios.permuted(toy_data(), 1, key(0))
    algorithm = finetuning(mlp(scenario.inputs, (8,), scenario.head()), sgd(0.1))
    run(algorithm, scenario, key(3), engine="eager", progress=False, out=tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["runs"] == 1 and summary["average_accuracy"]["std"] is None
    assert summary["forgetting"] == {"mean": None, "std": None, "values": [None]}


def test_runs_are_grouped_by_their_swept_settings(finished):
    data = results.to_xarray(finished[0])
    assert [(label, runs.tolist()) for label, runs in plots.groups(data)] == [
        ("lr=0.1", [0, 1]),
        ("lr=0.01", [2, 3]),
    ]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "summary.json"
    files.write_text(path, "old")

    def fails(temporary):
        with open(temporary, "w") as file:
            file.write("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write(path, fails)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_unwritable_folder_is_refused_and_nothing_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="is not a folder"):
        files.check_writable(tmp_path / "file" / "out")
    files.check_writable(tmp_path / "a" / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
