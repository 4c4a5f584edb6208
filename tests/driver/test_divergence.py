"""Runs that diverge: frozen as they last were finite, marked with the step, and unnoticed by their
neighbours."""

import json

import pytest
import torch
import xarray

from clfunc import finetuning, mlp, run, scenarios, sgd, sweep, tree
from clfunc.cli import tables
from clfunc.random import key, split
from clfunc.testing import toy_stream
from clfunc.testing.laws import identical

QUIET = {"progress": False, "batch_size": 8, "epochs": 2}
STEPS = 8  # of an epoch


def build(scenario, blow_up_at=None):
    """Finetuning that counts its steps, and adds infinity to a weight in step `blow_up_at`."""
    inner = finetuning(mlp(scenario.inputs, (5,), scenario.head()), sgd(0.1, 0.9))
    at = torch.tensor(float(blow_up_at or 1e9), dtype=torch.float64)

    def init(key):
        params, state = inner.init(key)
        return params, (state, at, torch.zeros((), dtype=torch.float64))

    def step(params, state, batch):
        params, new, metrics = inner.step(params, state[0], batch)
        done = state[2] + 1
        broken = {"weight": torch.where(done == state[1], torch.inf, params["hidden1"]["weight"])}
        return params | {"hidden1": params["hidden1"] | broken}, (new, state[1], done), metrics

    def begin_task(params, state, task):
        params, new = inner.begin_task(params, state[0], task)
        return params, (new, *state[1:])

    def end_task(params, state):
        params, new = inner.end_task(params, state[0])
        return params, (new, *state[1:])

    return inner._replace(
        init=init,
        step=step,
        begin_task=begin_task,
        end_task=end_task,
        predict=lambda params, state, x, task: inner.predict(params, state[0], x, task),
        probe=None,
        settings=inner.settings | {"blow_up_at": at},
    )


def compare(engine, points, unroll):
    """A sweep in which runs blow up, beside the same sweep in which none does."""
    scenario, keys = toy_stream(), split(key(1), len(points))
    both = [[build(scenario, p) for p in points], [build(scenario) for _ in points]]
    broken, sound = (
        run(sweep(members), scenario, keys, engine=engine, **QUIET) for members in both
    )
    for i, point in enumerate(points):
        if point is None:
            assert identical(tree.index(broken.params, i), tree.index(sound.params, i))
            assert torch.equal(
                broken.accuracy[..., i].nan_to_num(), sound.accuracy[..., i].nan_to_num()
            )
            assert broken.diverged[i] == -1
        else:
            chunk_end = -(-point // unroll) * unroll  # an epoch is a whole number of chunks
            assert broken.diverged[i] == chunk_end
            assert broken.state[2][i] == chunk_end - unroll  # the steps that were kept
            assert all(leaf[i].isfinite().all() for leaf in tree.leaves(broken.params))
            tasks = (point - 1) // (2 * STEPS)
            assert broken.accuracy[tasks:, :, i].isnan().all()
            assert torch.equal(
                broken.accuracy[:tasks, :, i].nan_to_num(),
                sound.accuracy[:tasks, :, i].nan_to_num(),
            )
    return broken, sound


POINTS = (None, 5, None, 21, 32)


def test_a_run_that_diverges_is_frozen_before_that_step_and_its_neighbours_never_notice():
    broken, sound = compare("eager", POINTS, 1)
    losses = broken.training.values["loss"]
    assert torch.equal(losses[:, [0, 2]], sound.training.values["loss"][:, [0, 2]])
    assert (
        torch.equal(losses[:5, 1], sound.training.values["loss"][:5, 1])
        and losses[5:, 1].isnan().all()
    )


@pytest.mark.compiled
def test_a_compiled_run_that_diverges_is_frozen_before_that_chunk():
    compare("compile", POINTS, 8)


def test_the_state_that_is_kept_is_that_of_a_run_stopped_there():
    scenario = toy_stream()
    alone = run(build(scenario, 5), scenario, key(1), engine="eager", **QUIET)
    assert int(alone.diverged) == 5 and int(alone.state[2]) == 4
    assert alone.accuracy.isnan().all() and alone.steps <= STEPS
    algorithm = build(scenario)
    seen = []

    def step(params, state, batch):
        seen.append((params, state))
        return algorithm.step(params, state, batch)

    run(algorithm._replace(step=step), scenario, key(1), engine="eager", **QUIET)
    assert identical(alone.params, seen[4][0])


def test_a_loss_that_is_not_finite_is_a_divergence_too():
    scenario = toy_stream()
    algorithm = build(scenario)

    def step(params, state, batch):
        params, state, metrics = algorithm.step(params, state, batch)
        return (
            params,
            state,
            metrics | {"loss": torch.where(state[2] == 3, torch.nan, metrics["loss"])},
        )

    result = run(algorithm._replace(step=step), scenario, key(1), engine="eager", **QUIET)
    assert int(result.diverged) == 3


def test_a_sweep_goes_on_until_all_have_diverged_and_says_so(tmp_path, capsys):
    scenario, how = toy_stream(), QUIET | {"progress": True}
    members = sweep([build(scenario, p) for p in (5, 21, 3)])
    result = run(members, scenario, split(key(1), 3), engine="eager", out=tmp_path, **how)
    assert result.diverged.tolist() == [5, 21, 3] and result.steps <= 3 * STEPS
    assert (
        "diverged, and frozen before: 3 of 3 run(s): 0 at step 5, 1 at step 21, 2 at step 3"
        in capsys.readouterr().err
    )
    data = xarray.load_dataset(tmp_path / "results.nc", engine="h5netcdf")
    assert data["diverged"].values.tolist() == [5, 21, 3]
    assert json.loads((tmp_path / "summary.json").read_text())["diverged"] == [5, 21, 3]


def test_tables_count_the_runs_that_have_diverged_in_regression_too(tmp_path):
    scenario = scenarios.slowly_changing_regression(2, key(0), period=40)
    members = [
        finetuning(mlp(scenario.inputs, (5,), scenario.head()), sgd(lr))
        for lr in (0.01, 0.01, 1e30)
    ]
    result = run(sweep(members), scenario, split(key(1), 3), engine="eager", out=tmp_path, **QUIET)
    assert (result.diverged >= 0).tolist() == [False, False, True]
    data = xarray.load_dataset(tmp_path / "results.nc", engine="h5netcdf").drop_vars("lr")
    cells = [list(column.cells) for column in tables.results_table({"a": data}).columns]
    assert "(1 diverged)" in cells[-1][0] and "nan" not in cells[-1][0]


def test_a_run_alone_that_diverges_is_probed_with_nan():
    scenario = toy_stream(num_tasks=2)
    model = mlp(scenario.inputs, (6,), scenario.head())
    result = run(finetuning(model, sgd(1e30)), scenario, key(0), engine="eager", progress=False)
    assert int(result.diverged) >= 0
    assert result.probes.values["gradient_norm"].isnan().any()
