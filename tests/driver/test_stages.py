"""The loop is a generator of named stages. Where segments end changes no result."""

import pytest
import torch
from support.stages import played

import clfunc as cl
from clfunc.driver.loop import play
from clfunc.driver.run_state import from_tensors, to_tensors
from clfunc.testing import toy_stream
from clfunc.testing.laws import identical

QUIET = {"engine": "eager", "progress": False}


def build(scenario, lr=0.1):
    model = cl.mlp(scenario.inputs, (6, 5), scenario.head())
    return cl.hat(model, cl.sgd(lr), num_tasks=scenario.num_tasks)


def test_the_stages_of_a_run_have_names_in_order():
    scenario = toy_stream(num_tasks=2)
    algorithm = cl.amnesiac(build(scenario), num_tasks=2)
    requests = {1: [cl.ForgetSet(task=0)]}
    _, _, stages = played(algorithm, scenario, epochs=2, requests=requests)
    names = [stage.name for stage in stages]
    task = ["begin_task", "steps", "end_epoch", "steps", "end_epoch", "end_task", "end_event"]
    assert names == [*task, *task, "unlearned", "end_event"]


def test_a_stage_that_can_resume_needs_nothing_but_its_run_state():
    """From each of them on, the run comes to the same end."""
    scenario = toy_stream(num_tasks=2)
    algorithm = build(scenario)
    trainer, order, stages = played(algorithm, scenario, checkpoint_every=3, probe_every=5)
    resumable = [stage for stage in stages if stage.can_resume]
    assert len(resumable) > 4
    whole = outcome(stages[-1].run_state)
    for stage in resumable[:-1]:
        tensors, description = to_tensors(stage.run_state)
        copies = {name: leaf.clone() for name, leaf in tensors.items()}
        run_state = from_tensors(stages[0].run_state, copies, description)
        with torch.no_grad():
            *_, last = play(trainer, run_state, order)
        assert last.run_state.done == stages[-1].run_state.done
        assert identical(outcome(last.run_state), whole)


def outcome(run_state):
    """All tensors of a run state."""
    return to_tensors(run_state)[0]


@pytest.mark.parametrize("every", [1, 3, 7, 1000])
def test_how_often_a_run_is_saved_decides_no_result(every, monkeypatch):
    """Also not where a point of the curve is the mean of several steps."""
    monkeypatch.setattr("clfunc.driver.segments._CURVE_POINTS", 10)
    scenario = toy_stream()
    how = QUIET | {"batch_size": 8, "epochs": 2, "probe_every": 5}
    results = []
    for checkpoint_every in (None, every):
        key = cl.random.key(0)
        results.append(
            cl.run(build(scenario), scenario, key, checkpoint_every=checkpoint_every, **how)
        )
    for name in ("params", "state", "accuracy", "training", "probes", "pictures", "steps"):
        left, right = (getattr(result, name) for result in results)
        assert left == right if name == "steps" else identical(left, right)
    points = results[0].training.step
    assert points[:4].tolist() == [4, 8, 12, 16] and results[0].steps == points[-1]


def test_a_run_goes_on_with_another_checkpoint_every(tmp_path, no_figures):
    scenario, key = toy_stream(num_tasks=2), cl.random.key(0)
    how = QUIET | {"batch_size": 8}
    algorithm, seen = build(scenario), []

    def step(*args):
        seen.append(1)
        if len(seen) == 10:
            raise RuntimeError("stopped")
        return algorithm.step(*args)

    stopped = algorithm._replace(step=step)
    with pytest.raises(RuntimeError, match="stopped"):
        cl.run(stopped, scenario, key, out=tmp_path, checkpoint_every=3, **how)
    resumed = cl.run(algorithm, scenario, key, out=tmp_path, resume=True, **how)
    whole = cl.run(algorithm, scenario, key, **how)
    assert identical(resumed.params, whole.params) and identical(resumed.state, whole.state)


def test_the_probes_of_a_run_that_has_diverged_are_nan_and_its_neighbours_are_not():
    scenario, keys = toy_stream(), cl.random.split(cl.random.key(0), 2)
    algorithm = cl.sweep([build(scenario, 1e30), build(scenario, 0.1)])
    result = cl.run(algorithm, scenario, keys, batch_size=16, **QUIET)
    assert (result.diverged >= 0).tolist() == [True, False]
    for values in result.probes.values.values():
        assert values[:, 0].isnan().all() and values[:, 1].isfinite().all()
    assert torch.equal(result.probes.step, torch.tensor([4, 8, 12]))
