"""Probes: what an algorithm tells of itself, after each task and as often as asked, labelled and
drawn."""

import numpy as np
import pytest
import torch
import xarray

import clfunc as cl
from clfunc import algorithms, tree
from clfunc.random import key, split
from clfunc.testing import toy_stream

STEPS = 8  # of an epoch: 60 examples, 8 a batch


def hat(scenario, **more):
    model = cl.mlp(scenario.inputs, (6, 5), scenario.head())
    return algorithms.hat(model, cl.sgd(0.1), num_tasks=3, s_max=20.0, **more)


def probed_run(keys, algorithm=None, **more):
    scenario = toy_stream()
    settings = {"epochs": 2, "batch_size": 8, "engine": "eager", "progress": False}
    return cl.run(algorithm or hat(scenario), scenario, keys, **settings, **more)


def test_a_probe_follows_each_task():
    result = probed_run(key(0))
    assert result.probes.step.tolist() == [2 * STEPS, 4 * STEPS, 6 * STEPS]
    assert result.probes.task.tolist() == [0, 1, 2]
    assert result.probes.values["used.hidden1"].shape == (3, 6)
    last = result.state.attention.used["hidden1"]
    assert torch.equal(result.probes.values["used.hidden1"][-1], last)
    assert result.pictures["rate.hidden2.weight"].shape == (5, 6)
    assert torch.equal(result.pictures["rate.hidden1.weight"][:, 0], 1 - last)


@pytest.mark.parametrize("every", [1, 3, 16, 1000])
def test_a_probe_comes_as_often_as_asked(every):
    within = [step for step in range(1, 6 * STEPS + 1) if step % every == 0]
    got = probed_run(key(0), probe_every=every).probes.step.tolist()
    assert (
        len(got) == len(within) + 3
        and abs(len(set(got) - {2 * STEPS, 4 * STEPS, 6 * STEPS}) - len(within)) <= 3
    )


def test_a_probe_changes_nothing():
    plain, probed = probed_run(key(0)), probed_run(key(0), probe_every=2)
    assert all(
        torch.equal(a, b)
        for a, b in zip(*(tree.leaves(r.params) for r in (plain, probed)), strict=True)
    )


def test_the_probes_of_a_sweep_are_those_of_its_runs():
    keys = split(key(1), 2)
    together, alone = probed_run(keys, probe_every=5), [probed_run(k, probe_every=5) for k in keys]
    for i, result in enumerate(alone):
        for name, values in result.probes.values.items():
            torch.testing.assert_close(
                together.probes.values[name][:, i], values, rtol=1e-4, atol=1e-5
            )
        for name, image in result.pictures.items():
            torch.testing.assert_close(together.pictures[name][i], image)


@pytest.mark.parametrize("runs", [None, 2])
def test_probes_are_labelled(tmp_path, runs, no_figures):
    probed_run(key(0) if runs is None else split(key(0), runs), out=tmp_path)
    data = xarray.load_dataset(tmp_path / "results.nc", engine="h5netcdf")
    assert data["probe_capacity"].dims == ("run", "probe")
    assert data["probe_task"].values.tolist() == [0, 1, 2]
    assert data["probe_used.hidden1"].shape == (runs or 1, 3, 6)
    assert data["picture_rate.hidden2.weight"].shape == (runs or 1, 5, 6)
    assert (np.diff(data["probe_capacity"].values, axis=1) <= 0).all()
    assert "probe_capacity" in (tmp_path / "metrics.csv").read_text()


def test_probes_are_drawn(tmp_path):
    probed_run(split(key(0), 2), out=tmp_path)
    drawn = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert {"probe_capacity", "mask", "used", "rate"} <= drawn


def test_an_algorithm_without_a_probe_has_none():
    scenario = toy_stream()
    silent = hat(scenario)._replace(probe=None)
    result = probed_run(key(0), silent, probe_every=4)
    assert result.probes.values == {} and result.pictures == {}


def test_a_rate_of_probing_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="probe_every must be at least 1, given 0"):
        probed_run(key(0), probe_every=0)
