"""The review of a finished task: every example once, whatever the batches, the runs and the stops."""

import itertools
import signal

import pytest
import torch
from support.stages import played
from support.streams import toy

import clfunc as cl
from clfunc import tree
from clfunc.driver.checkpoint import Interrupted
from clfunc.driver.loop import play
from clfunc.driver.run_state import from_tensors, to_tensors
from clfunc.experiments.chunks import run_chunks
from clfunc.experiments.halving import halve
from clfunc.testing import toy_stream
from clfunc.testing.laws import distance, identical

QUIET = {"engine": "eager", "progress": False, "batch_size": 16}
UNEQUAL = toy("unequal", (7, 4, 19, 3, 26, 9), (2, 2, 2, 2, 2, 2), (1, 4, 4))
pytestmark = pytest.mark.usefixtures("no_figures")


def witness(rows, at_once=None):
    """A term of strength 0 that counts how often each example of each task is shown to it."""

    def init(key, params, model):
        return torch.zeros(model.head.num_tasks if len(model.head.spec.classes) > 1 else 3, rows)

    def review(s, params, context):
        batch = context.batch
        task = batch.task.expand(batch.weight.shape)
        shown = (task[:, None] == torch.arange(s.shape[0]))[:, :, None]
        shown = shown & (batch.rows[:, None] == torch.arange(rows))[:, None]
        return s + (shown * batch.weight[:, None, None]).sum(0)

    settings = {"at_once": at_once, "rows": rows}
    return cl.Term("witness", init, review=review, settings=settings)


def watched(scenario, rows, at_once=None, lr=0.1):
    model = cl.mlp(scenario.inputs, (6,), scenario.head())
    return cl.finetuning(model, cl.sgd(lr, 0.9), terms=(witness(rows, at_once),))


def counts(result):
    return result.state.parts.terms["witness"]


def expected(scenario, rows):
    """1 for every training example of each task, by run where the scenario has runs."""
    found = torch.zeros(scenario.runs or 1, scenario.num_tasks, rows)
    for task in range(scenario.num_tasks):
        stream = scenario.train(task)
        lists = stream.train if scenario.runs else stream.train[None]
        sizes = stream.sizes if scenario.runs else stream.sizes[None]
        for run, (entries, size) in enumerate(zip(lists, sizes, strict=True)):
            found[run, task, entries[: int(size[0])]] = 1
    return found if scenario.runs else found[0]


@pytest.mark.parametrize("batch_size", [7, 64, 5000])
def test_runs_of_unequal_tasks_see_every_example_once(batch_size):
    """Also where lists are padded, examples are held out and the sweep has an order for each run."""
    keys = cl.random.split(cl.random.key(0), 3)
    scenario = cl.scenarios.split(UNEQUAL, 3, keys, paradigm="cil", shuffle_classes=True, valid=0.2)
    sizes = torch.stack([scenario.train(task).sizes[:, 0] for task in range(3)])
    assert len(sizes.unique()) > 3, "the tasks are to be of unequal sizes"
    rows = len(UNEQUAL.y)
    how = QUIET | {"batch_size": batch_size}
    result = cl.run(watched(scenario, rows), scenario, keys, **how)
    assert identical(counts(result), expected(scenario, rows))


@pytest.mark.parametrize("at_once", [None, 3])
def test_a_joint_stream_is_reviewed_once(at_once):
    scenario = cl.scenarios.joint(cl.scenarios.split(UNEQUAL, 3, cl.random.key(0)))
    rows = len(UNEQUAL.y)
    result = cl.run(watched(scenario, rows, at_once), scenario, cl.random.key(1), **QUIET)
    per_example = counts(result).sum(0)
    train = torch.zeros(rows)
    train[: UNEQUAL.num_train] = 1
    assert identical(per_example, train)


def test_an_algorithm_that_reviews_nothing_has_no_review():
    scenario = toy_stream(num_tasks=2)
    model = cl.mlp(scenario.inputs, (6,), scenario.head())
    algorithm = cl.finetuning(model, cl.sgd(0.1), terms=(cl.terms.si(1.0),))
    assert algorithm.review is None
    _, _, stages = played(algorithm, scenario)
    assert "review" not in [stage.name for stage in stages]


def test_the_review_stands_between_the_last_epoch_and_the_end_of_the_task():
    scenario = toy_stream(num_tasks=2)
    _, _, stages = played(watched(scenario, 90), scenario, epochs=2)
    names = [stage.name for stage in stages]
    task = ["begin_task", "steps", "end_epoch", "steps", "end_epoch", "review", "end_task"]
    assert names == [*task, "end_event", *task, "end_event"]
    for before, after in itertools.pairwise(stages):
        if after.name == "review":
            assert identical(before.run_state.params, after.run_state.params)


def test_a_run_goes_on_from_the_middle_of_a_review(monkeypatch):
    monkeypatch.setattr("clfunc.driver.segments._SEGMENT_STEPS", 2)
    scenario = toy_stream(num_tasks=2)
    algorithm = cl.ewc(cl.mlp(scenario.inputs, (6,), scenario.head()), cl.sgd(0.1, 0.9))
    trainer, order, stages = played(algorithm, scenario, batch_size=8)
    inside = [stage for stage in stages if stage.name == "review"]
    assert len(inside) > 4 and all(stage.can_resume for stage in inside)
    whole = to_tensors(stages[-1].run_state)[0]
    for stage in inside:
        tensors, description = to_tensors(stage.run_state)
        copies = {name: leaf.clone() for name, leaf in tensors.items()}
        run_state = from_tensors(stages[0].run_state, copies, description)
        with torch.no_grad():
            *_, last = play(trainer, run_state, order)
        assert identical(to_tensors(last.run_state)[0], whole)


@pytest.mark.parametrize("call", [1, 3, 7])
def test_a_run_stopped_in_a_review_resumes_to_the_same_bits(tmp_path, monkeypatch, call):
    monkeypatch.setattr("clfunc.driver.segments._SEGMENT_STEPS", 1)
    scenario = toy_stream(num_tasks=2)
    algorithm = watched(scenario, 90, at_once=9)
    seen = []

    def review(*arguments):
        seen.append(1)
        if len(seen) == call:
            signal.raise_signal(signal.SIGTERM)
        return algorithm.review(*arguments)

    whole = cl.run(algorithm, scenario, cl.random.key(0), **QUIET)
    with pytest.raises(Interrupted):
        stopped = algorithm._replace(review=review)
        cl.run(stopped, scenario, cl.random.key(0), out=tmp_path, **QUIET)
    assert len(seen) == call, "it was to stop at once"
    resumed = cl.run(algorithm, scenario, cl.random.key(0), out=tmp_path, resume=True, **QUIET)
    for name in ("params", "state", "accuracy", "training"):
        assert identical(getattr(resumed, name), getattr(whole, name)), name


def test_chunks_of_a_sweep_review_as_the_whole_does(tmp_path):
    keys = cl.random.split(cl.random.key(0), 4)
    scenario = cl.scenarios.split(UNEQUAL, 3, keys, paradigm="cil", shuffle_classes=True)
    model = cl.mlp(scenario.inputs, (6,), scenario.head(), dtype=torch.float64)
    members = [cl.ewc(model, cl.sgd(0.1), strength=s) for s in (0.0, 1.0, 10.0, 100.0)]
    whole = cl.run(cl.sweep(members), scenario, keys, **QUIET)
    cut = run_chunks(cl.sweep(members), scenario, keys, runs_at_once=3, **QUIET)
    assert distance(cut.params, whole.params) < 1e-12
    assert distance(cut.state, whole.state) < 1e-12


def test_halving_reviews_the_tasks_of_each_rung():
    scenario = toy_stream(num_tasks=3, paradigm="dil")
    model = cl.mlp(scenario.inputs, (6,), scenario.head(), dtype=torch.float64)
    members = [cl.ewc(model, cl.sgd(0.1), strength=s) for s in (0.0, 1.0, 1000.0)]
    keys = cl.random.key(0).expand(3, 2)
    halved = halve(cl.sweep(members), scenario, keys, eta=3, **QUIET)
    assert halved.accuracy.shape[-1] == 1
    alone = [cl.run(member, scenario, cl.random.key(0), **QUIET) for member in members]
    assert any(distance(halved.accuracy[..., 0], one.accuracy) < 1e-9 for one in alone)


def test_auto_counts_the_batches_of_reviews(monkeypatch):
    counted = []

    def plan(engine, step, carry, x, steps):
        counted.append(steps)
        return real(engine, step, carry, x, steps)

    from clfunc.engine import scan

    real = scan.plan
    monkeypatch.setattr(scan, "plan", plan)
    scenario = toy_stream(num_tasks=2)
    result = cl.run(watched(scenario, 90, at_once=10), scenario, cl.random.key(0), **QUIET)
    assert counted == [result.steps + 2 * 6]  # 60 examples of each task, 10 at once


def test_diverged_and_skipping_runs_are_left_as_they_were():
    scenario = toy_stream(num_tasks=2)
    keys = cl.random.key(0).expand(3, 2)
    members = [watched(scenario, 90, lr=lr) for lr in (0.1, 1e30, 0.1)]
    skip = [(), (), {1}]
    result = cl.run(cl.sweep(members), scenario, keys, skip=skip, **QUIET)
    shown = counts(result).sum(-1)
    assert result.diverged.tolist()[1] >= 0
    assert shown[0].tolist() == [60, 60]
    assert shown[1].tolist() == [0, 0]
    assert shown[2].tolist() == [60, 0]


@pytest.mark.compiled
def test_a_compiled_review_is_the_eager_one_and_one_program():
    from clfunc.engine.programs import programs

    keys = cl.random.split(cl.random.key(0), 2)
    scenario = cl.scenarios.split(UNEQUAL, 3, keys, paradigm="cil", shuffle_classes=True)
    model = cl.mlp(scenario.inputs, (6,), scenario.head())
    algorithm = cl.sweep([cl.ewc(model, cl.sgd(0.1), strength=s) for s in (1.0, 10.0)])
    how = QUIET | {"batch_size": 2}  # more steps an epoch than a program has
    eager = cl.run(algorithm, scenario, keys, **how)
    programs.clear()
    before = programs.made["compile"]
    compiled = cl.run(algorithm, scenario, keys, **(how | {"engine": "compile"}))
    assert programs.made["compile"] - before == 2, "one program of steps, one of reviews"
    assert distance(compiled.params, eager.params) < 1e-5
    assert distance(tree.leaves(compiled.state), tree.leaves(eager.state)) < 1e-4
