"""Tasks that are skipped and tasks that are unlearned: what `run` does with them, run by run, and
what it refuses.
"""

import csv
import json
from typing import NamedTuple

import numpy as np
import pytest
import torch
import xarray
from support.strict import without_type_checks

from clfunc import ForgetSet, amnesiac, carry, finetuning, mlp, run, scenarios, sgd, sweep, tree
from clfunc.compose import lift
from clfunc.driver.algorithm_record import read_algorithm
from clfunc.driver.timeline import timeline
from clfunc.random import key, split
from clfunc.results import plots
from clfunc.results import result as results
from clfunc.results.events import Event, over_events
from clfunc.testing import toy_stream
from clfunc.testing.laws import identical
from clfunc.testing.play import toy_data
from clfunc.unlearning.forget_sets import mask

FIRST, SECOND, THIRD = (ForgetSet(task=task) for task in range(3))
QUIET = {"engine": "eager", "progress": False, "batch_size": 8}
WHOLE = {
    "keys": split(key(1), 3),
    "requests": [{1: [FIRST], 2: [SECOND, THIRD]}, {}, {1: [SECOND]}],
    "skip": [(), {0}, ()],
}


class ForgettingState(NamedTuple):
    inner: object
    start: object
    asked: torch.Tensor  # how often each task was to be forgotten


def forgetful(scenario, lr=0.1, **more):
    """Finetuning that forgets everything when it is to forget anything, and counts what it was
    asked.
    """
    inner = finetuning(
        mlp(scenario.inputs, (8, 6), scenario.head(), dtype=torch.float64, **more), sgd(lr, 0.9)
    )

    def init(key):
        params, state = inner.init(key)
        return params, ForgettingState(
            state, params, torch.zeros(scenario.num_tasks, dtype=torch.int64)
        )

    def unlearn(params, state, tasks):
        return tree.where(tasks.any(), state.start, params), state._replace(
            asked=state.asked + tasks + 100
        )

    return lift(inner)._replace(init=init, unlearn=unlearn)


def lived(scenario=None, keys=WHOLE["keys"], make=forgetful, **more):
    scenario = scenario or toy_stream()
    return run(make(scenario), scenario, keys, **(QUIET | {"epochs": 2} | more))


def test_an_unlearning_comes_after_its_task_and_only_for_the_runs_that_ask():
    result = lived(requests=WHOLE["requests"], skip=WHOLE["skip"])
    kinds = [(event.kind, event.task) for event in result.events]
    assert kinds == [
        ("trained", 0),
        ("trained", 1),
        ("unlearned", 1),
        ("trained", 2),
        ("unlearned", 2),
    ]
    assert result.events[2].forgets == ((FIRST,), (), (SECOND,))
    assert result.events[4].forgets == ((SECOND, THIRD), (), ())
    asked = torch.tensor(
        [[101 + 100, 201, 201], [0, 0, 0], [100, 101, 100]]
    )  # 100 each time that it was called at all
    assert torch.equal(result.state.asked, asked)
    assert identical(tree.index(result.params, 0), tree.index(result.state.start, 0))
    assert not identical(tree.index(result.params, 1), tree.index(result.state.start, 1))


def test_all_seen_tasks_are_tested_after_an_unlearning_forgotten_ones_too():
    accuracy = lived(requests={1: [FIRST]}, evaluate="current").accuracy
    rows = [torch.nonzero(~row[:, 0].isnan()).flatten().tolist() for row in accuracy]
    assert rows == [[0], [1], [0, 1], [2]] and accuracy.shape == (4, 3, 3)
    assert lived(requests={1: [FIRST]}, evaluate="none").accuracy.isnan().all()


def test_a_run_that_asks_nothing_is_the_run_without_requests():
    with_requests = lived(requests=WHOLE["requests"], skip=WHOLE["skip"])
    plain, skipping = lived(), lived(keys=WHOLE["keys"][1], skip=[{0}])
    torch.testing.assert_close(
        tree.index(with_requests.params, 1), skipping.params, rtol=0, atol=1e-10
    )
    before = with_requests.accuracy[:2, :, [0, 2]]
    assert torch.equal(before.nan_to_num(), plain.accuracy[:2, :, [0, 2]].nan_to_num())


@pytest.mark.parametrize("paradigm", ["til", "cil", "dil"])
def test_a_skipped_task_leaves_no_trace_in_a_sweep_or_alone(paradigm):
    scenario = toy_stream(paradigm=paradigm)
    together = lived(scenario, skip=[{1}, (), {1}])
    alone = lived(scenario, keys=WHOLE["keys"][0], skip={1})
    torch.testing.assert_close(tree.index(together.params, 0), alone.params, rtol=0, atol=1e-10)
    torch.testing.assert_close(tree.index(together.state, 0), alone.state, rtol=0, atol=1e-10)
    assert alone.steps == 2 / 3 * together.steps
    untouched = lived(scenario, keys=WHOLE["keys"][0], skip={0, 1, 2})
    start = forgetful(scenario).init(split(WHOLE["keys"][0])[0])
    assert identical((untouched.params, untouched.state), start) and untouched.steps == 0
    assert untouched.accuracy[2].isfinite().all() and untouched.training.step.tolist() == []


def test_curves_of_a_task_that_a_run_skips_are_nan():
    scenario = scenarios.permuted(toy_data(), 3, key(0), valid=0.25)
    result = lived(scenario, skip=[(), {1}, ()])
    for curve in (result.training, result.validation):
        unknown = curve.values["loss"].isnan()
        assert torch.equal(unknown[:, 1], curve.task == 1) and not unknown[:, [0, 2]].any()
    assert result.online["loss"].isnan().tolist() == [
        [False] * 3,
        [False, True, False],
        [False] * 3,
    ]
    alone = lived(scenario, keys=WHOLE["keys"][1], skip=[{1}])
    assert alone.online["loss"].isnan().tolist() == [False, True, False]


def test_snapshots_are_of_all_runs_right_after_each_unlearning():
    result = lived(requests={1: [FIRST], 2: [THIRD]}, skip=[(), (), ()])
    first, last = result.snapshots
    assert identical(last, (result.params, result.state))
    assert (first[1].asked == torch.tensor([101, 100, 100])).all()
    assert lived().snapshots == ()


def test_metrics_after_an_unlearning_are_those_of_the_table_with_its_row_last():
    events = [
        Event("trained", 0),
        Event("trained", 1),
        Event("unlearned", 1, ((FIRST,),)),
        Event("trained", 2),
    ]
    table = torch.tensor(
        [[0.9, 0, 0], [0.8, 0.7, 0], [0.1, 0.6, 0], [0.5, 0.4, 0.3]], dtype=torch.float64
    )
    from clfunc import metrics

    found = {
        name: over_events(getattr(metrics, name), table, events) for name in results.summary_metrics
    }
    expected = {
        "average_accuracy": [0.9, 0.75, 0.35, 0.4],
        "backward_transfer": [np.nan, 0.8 - 0.9, 0.1 - 0.9, (0.5 - 0.9 + 0.4 - 0.7) / 2],
        "forgetting": [np.nan, 0.1, 0.8, (0.4 + 0.3) / 2],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].numpy(), values, atol=1e-12)


def test_events_are_labelled_in_every_file(tmp_path):
    result = lived(keys=WHOLE["keys"], requests=WHOLE["requests"], skip=WHOLE["skip"], out=tmp_path)
    data = xarray.load_dataset(tmp_path / "results.nc", engine="h5netcdf")
    assert data["kind"].values.tolist() == [
        "trained",
        "trained",
        "unlearned",
        "trained",
        "unlearned",
    ]
    assert data["task"].values.tolist() == [0, 1, 1, 2, 2]
    assert data["event"].values.tolist() == [0, 1, 2, 3, 4]
    assert data["tested"].values.tolist() == [0, 1, 2]
    assert (
        data["unlearned"].values[0, 4].tolist() == [False, True, True]
        and not data["unlearned"].values[1].any()
    )
    assert np.isnan(data["online_loss"].values[0]).tolist() == [False, False, True, False, True]
    rows = list(csv.DictReader((tmp_path / "accuracy.csv").read_text().splitlines()))
    assert list(rows[0]) == ["run", "seed", "event", "trained", "tested", "accuracy"]
    after = [
        row for row in rows if (row["run"], row["event"], row["trained"]) == ("2", "unlearned", "1")
    ]
    assert [float(row["accuracy"]) for row in after] == result.accuracy[2, :2, 2].tolist()
    config = json.loads((tmp_path / "config.json").read_text())
    first, second, third = ({"task": task} for task in range(3))
    assert config["requests"] == [{"1": [first], "2": [second, third]}, {}, {"1": [second]}]
    assert config["skip"] == [[], [0], []]
    assert plots._event_labels(data).tolist() == ["1", "2", "forget 1, 2", "3", "forget 2, 3"]


def test_without_requests_the_files_are_as_ever(tmp_path):
    lived(keys=key(3), out=tmp_path)
    data = xarray.load_dataset(tmp_path / "results.nc", engine="h5netcdf")
    assert "unlearned" not in data and data["kind"].values.tolist() == ["trained"] * 3
    assert (tmp_path / "accuracy.csv").read_text().startswith("run,seed,trained,tested,accuracy\n")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["requests"] == [] and config["skip"] == []


REFUSED = [
    ({"requests": {2: [ForgetSet(3)]}}, "cannot forget task 3 after task 2: tasks are 0..2"),
    ({"requests": {2: [ForgetSet(-1)]}}, "cannot forget task -1 after task 2: tasks are 0..2"),
    ({"requests": {3: [FIRST]}}, "cannot forget after task 3: tasks are 0..2"),
    ({"requests": {-1: [FIRST]}}, "cannot forget after task -1: tasks are 0..2"),
    ({"requests": {0: [SECOND]}}, "cannot forget task 1 after task 0: it is not trained yet"),
    (
        {"requests": {2: [FIRST], 0: [FIRST]}},
        "cannot forget task 0 after task 2: it is forgotten already",
    ),
    (
        {"requests": {1: [FIRST, FIRST]}},
        "cannot forget task 0 after task 1: it is forgotten already",
    ),
    (
        {"requests": {1: [FIRST]}, "skip": [(), (), {0}]},
        "cannot forget task 0 after task 1: it is skipped",
    ),
    (
        {"requests": [{1: [FIRST]}, {}]},
        "requests must be one mapping, or one for each of 3 run(s), given 2",
    ),
    ({"skip": {3}}, "cannot skip task 3: tasks are 0..2"),
    ({"skip": [(), {0}]}, "skip must be one set of tasks, or one for each of 3 run(s), given 2"),
    (
        {"requests": {1: [FIRST]}, "make": lambda s: forgetful(s)._replace(unlearn=None)},
        "wrap it in amnesiac",
    ),
    (
        {"requests": {2: [FIRST]}, "scenario": scenarios.joint(toy_stream())},
        "a joint scenario trains all tasks at once",
    ),
    (
        {"requests": {2: [1]}},
        "requests take forget sets, and count tasks from 0: write {1: [cl.ForgetSet(task=0)]} to"
        " forget the first task after the second, given 1",
    ),
    ({"requests": {1: FIRST}}, "requests list forget sets, such as {1: [cl.ForgetSet(task=0)]}"),
    ({"requests": {1: 0}}, "requests list forget sets, such as {1: [cl.ForgetSet(task=0)]}"),
    (
        {"requests": {1: [ForgetSet(0, classes=(1,))]}},
        "cannot forget task 1 classes 1: declare it by amnesiac(..., forget_sets=[...])",
    ),
]


@pytest.mark.parametrize("change, message", REFUSED, ids=[message for _, message in REFUSED])
def test_a_request_that_cannot_be_met_is_refused_in_one_line(change, message):
    with pytest.raises(ValueError) as error, without_type_checks():
        lived(**change)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_swept_run_may_differ_in_what_it_forgets():
    scenario = toy_stream()
    members = sweep([forgetful(scenario, lr=lr) for lr in (0.1, 0.05)])
    result = run(
        members, scenario, split(key(1), 2), requests=[{2: [FIRST]}, {2: [SECOND]}], **QUIET
    )
    assert torch.equal(result.state.asked - 100, torch.tensor([[1, 0, 0], [0, 1, 0]]))


def test_a_run_stopped_after_an_unlearning_resumes_with_the_same_bits_snapshots_too(tmp_path):
    scenario = toy_stream()
    how = {"requests": WHOLE["requests"], "skip": WHOLE["skip"], "checkpoint_every": 3}
    algorithm, seen = forgetful(scenario), []

    def stopping(*args):
        seen.append(1)
        if len(seen) == 45:
            raise InterruptedError
        return algorithm.step(*args)

    whole = lived(scenario, **how)
    with pytest.raises(InterruptedError):
        lived(scenario, make=lambda _: algorithm._replace(step=stopping), out=tmp_path, **how)
    resumed = lived(scenario, out=tmp_path, resume=True, **how)
    for field in ("params", "state", "accuracy", "training", "probes", "snapshots"):
        assert identical(getattr(resumed, field), getattr(whole, field)), field
    assert len(resumed.snapshots) == 2


ONES, TWOS = ForgetSet(0, classes=(1,)), ForgetSet(0, classes=(2,))
LATE = ForgetSet(1, rows=(0, 3))
DECLARED = (ONES, TWOS, LATE)


def recording(scenario):
    model = mlp(scenario.inputs, (6,), scenario.head(), dtype=torch.float64)
    inner = finetuning(model, carry(sgd(0.1, 0.9)))
    return amnesiac(inner, num_tasks=scenario.num_tasks, forget_sets=DECLARED)


@pytest.mark.parametrize("wanted", [(ONES,), (LATE,), (LATE, ONES), (ONES, SECOND)])
def test_a_declared_set_on_request_is_what_unlearn_does_with_its_mask(wanted):
    """A request after the last task is a call of `unlearn` on what the run without requests left."""
    scenario = toy_stream()
    algorithm = recording(scenario)
    how = {"make": recording, "keys": WHOLE["keys"][0], "batch_size": 2, "epochs": 1}
    plain_run = lived(scenario, **how)
    on_request = lived(scenario, requests={2: list(wanted)}, **how)

    entries = mask(scenario.num_tasks, DECLARED, wanted)
    by_hand = algorithm.unlearn(plain_run.params, plain_run.state, entries)
    assert identical((on_request.params, on_request.state), by_hand)
    assert not identical(on_request.params, plain_run.params)
    assert on_request.state.forgotten[entries].all()
    assert set(on_request.events[-1].forgets[0]) == set(wanted)


def test_a_declared_set_on_request_of_some_runs_leaves_the_others_alone():
    scenario = toy_stream()
    how = {"make": recording, "batch_size": 2, "epochs": 1}
    together = lived(scenario, requests=[{1: [ONES]}, {}, {2: [LATE]}], **how)
    untouched = lived(scenario, **how)
    assert identical(tree.index(together.params, 1), tree.index(untouched.params, 1))
    forgotten = together.state.forgotten.nonzero().tolist()
    assert forgotten == [[0, 3], [2, 5]]  # three tasks come before the declared sets


SHARED = (
    "cannot forget task 1 classes 2: batches that it shares with task 1 classes 1, which is"
    " declared"
    " before it, are recorded for that one; forget both, or declare it first"
)


def test_a_set_whose_batches_may_be_recorded_for_an_earlier_set_is_refused_before_training():
    def untrained(scenario):
        return recording(scenario)._replace(init=None, step=None)

    with pytest.raises(ValueError) as error:
        lived(make=untrained, requests={1: [TWOS]})
    assert str(error.value) == SHARED
    for requests in ({0: [ONES], 1: [TWOS]}, {1: [TWOS, ONES]}, {1: [FIRST]}, {1: [LATE]}):
        scenario = toy_stream()
        timeline(scenario, read_algorithm(recording(scenario)), None, requests, ())


def test_a_set_is_forgotten_already_once_its_task_is():
    with pytest.raises(
        ValueError, match="cannot forget task 0 after task 2: it is forgotten already"
    ):
        lived(make=recording, requests={1: [FIRST], 2: [ONES]})
