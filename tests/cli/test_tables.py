"""Tables of results: a reference counts only on the same tasks, and diverged runs are left out."""

import json

import numpy as np
import pytest
import torch
import xarray

from clfunc import metrics
from clfunc.cli import tables
from clfunc.results import store

NAMES = ("average_accuracy", "backward_transfer", "forgetting")


def results(algorithm, accuracy):
    """The results of runs with this accuracy, `[run, trained, tested]`."""
    values = torch.tensor(accuracy, dtype=torch.float64)
    variables = {"accuracy": (("run", "event", "tested"), values.numpy())}
    for name in NAMES:
        metric = getattr(metrics, name)(values.movedim(0, -1))
        variables[name] = (("run", "event"), metric.movedim(-1, 0).numpy())
    runs, events, tested = values.shape
    coordinates = {
        "run": np.arange(runs),
        "seed": ("run", np.arange(runs).astype("u8")),
        "event": np.arange(events),
        "kind": ("event", ["trained"] * events),
        "task": ("event", np.arange(events)),
        "tested": np.arange(tested),
    }
    described = {
        "algorithm": algorithm,
        "scenario": "rotated",
        "dataset": "digits",
        "paradigm": "til",
    }
    return xarray.Dataset(variables, coordinates, described)


def column(table, title):
    for one in table.columns:
        if one.header == title:
            return list(one.cells)
    return None


NAN = float("nan")
FINETUNING = results("finetuning", [[[0.9, NAN], [0.5, 0.8]], [[0.9, NAN], [0.5, 0.6]]])
INDEPENDENT = results("independent", [[[0.9, NAN], [0.9, 0.6]], [[0.9, NAN], [0.9, 0.4]]])


def left(folder, data, **config):
    """What a run leaves in its folder, as far as a report reads it."""
    folder.mkdir(parents=True)
    store.write(data, folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


DIFFERENT = {
    "settings": ({"degrees": [0, 180]}, None),
    "scenario seed": ({"degrees": [0, 0]}, 7),
}


@pytest.mark.parametrize("settings, seed", DIFFERENT.values(), ids=DIFFERENT)
def test_a_reference_on_other_tasks_is_no_reference(settings, seed, tmp_path):
    here = {"scenario_settings": {"degrees": [0, 0]}, "arguments": {"scenario_seed": None}}
    there = {"scenario_settings": settings, "arguments": {"scenario_seed": seed}}
    still = left(tmp_path / "still", FINETUNING, **here)
    same = left(tmp_path / "same", INDEPENDENT, **here)
    other = left(tmp_path / "other", INDEPENDENT, **there)
    table = tables.results_table(tables.load_results((still, other)))
    assert column(table, "forward transfer") is None
    table = tables.results_table(tables.load_results((still, other, same)))
    assert column(table, "forward transfer") == ["20.00 ± 14.14", "-", "-"]


def test_results_without_a_config_are_reported(tmp_path):
    folder = left(tmp_path / "one", FINETUNING)
    (folder / "config.json").unlink()
    table = tables.results_table(tables.load_results((folder,)))
    assert column(table, "average accuracy") == ["60.00 ± 7.07"]


def test_a_diverged_run_of_a_reference_is_left_out_and_said_to_be():
    diverged = results("independent", [[[0.9, NAN], [0.9, 0.5]], [[0.9, NAN], [NAN, NAN]]])
    table = tables.results_table({"a": FINETUNING, "b": diverged})
    cells = column(table, "forward transfer")
    assert cells == ["20.00 ± 14.14 (reference: 1 diverged)", "-"]
    assert column(table, "average accuracy")[1] == "70.00 (1 diverged)"


def test_a_reference_whose_every_run_diverged_gives_no_number():
    diverged = results("independent", [[[0.9, NAN], [NAN, NAN]]])
    table = tables.results_table({"a": FINETUNING, "b": diverged})
    assert column(table, "forward transfer")[0] == "- (reference: 1 diverged)"
