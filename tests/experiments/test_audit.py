"""Audits: each member is the run that it stands for, every measure is what loops over single runs
give, files and errors.
"""

import csv
import math
from functools import cache

import numpy as np
import pytest
import torch
import xarray
from support.naive_distances import naive_distances
from support.strict import without_type_checks

from clfunc import (
    ForgetSet,
    amnesiac,
    audit,
    carry,
    finetuning,
    hat,
    mlp,
    run,
    scenarios,
    sgd,
    sweep,
    tree,
)
from clfunc.experiments import audit_plots
from clfunc.experiments.audit import save, to_xarray, unmet_lines
from clfunc.experiments.audit_examples import spaced
from clfunc.experiments.audit_measures import measures
from clfunc.experiments.audit_plan import plan
from clfunc.random import key
from clfunc.testing.play import toy_data, toy_stream
from clfunc.unlearning import measures as unlearning
from clfunc.unlearning.forget_sets import from_compact

KEYS = torch.stack([key(3), key(4)])
FIRST, SECOND, THIRD = (ForgetSet(task=task) for task in range(3))
REQUESTS = {1: [FIRST], 2: [THIRD]}
HOW = {"epochs": 2, "batch_size": 8, "engine": "eager", "progress": False}


def algorithm(kind="finetuning"):
    model = mlp((1, 4, 4), (6, 5), toy_stream(KEYS).head(), dtype=torch.float64)
    tx = sgd(0.1, momentum=0.5)
    return (
        finetuning(model, tx) if kind == "finetuning" else hat(model, tx, num_tasks=3, s_max=50.0)
    )


@cache
def audit_of(kind):
    return audit(algorithm(kind), toy_stream(KEYS), KEYS, REQUESTS, **HOW)


@pytest.fixture(params=["finetuning", "hat"])
def audited(request):
    return request.param, audit_of(request.param)


def alone(kind, seed, **what):
    able = amnesiac(algorithm(kind), num_tasks=3)
    return run(able, toy_stream(KEYS[seed]), KEYS[seed], **what, **HOW)


def stands_for(member):
    """What a run alone is told, to be this member."""
    return {
        "unlearned": {"requests": REQUESTS},
        "original": {},
        "oracle 1": {"skip": {0}},
        "oracle 2": {"skip": {0, 2}},
    }[member]


def test_every_member_is_the_run_that_it_stands_for(audited):
    kind, found = audited
    member = found.result.coordinates["member"]
    assert member == [
        name for name in ("unlearned", "original", "oracle 1", "oracle 2") for _ in range(2)
    ]
    for row, name in enumerate(member):
        single = alone(kind, row % 2, **stands_for(name))
        for many, one in zip(
            tree.leaves(found.result.params), tree.leaves(single.params), strict=True
        ):
            torch.testing.assert_close(many[row], one, rtol=0, atol=1e-9)
        assert found.result.accuracy[-1, :, row].tolist() == pytest.approx(
            single.accuracy[-1].tolist()
        )


def test_members_start_alike_and_part_where_they_are_told_to(audited):
    _, found = audited
    accuracy = found.result.accuracy
    kinds = [event.kind for event in found.result.events]
    assert kinds == ["trained", "trained", "unlearned", "trained", "unlearned"]
    assert torch.equal(
        accuracy[1, :2, :2], accuracy[1, :2, 2:4]
    )  # unlearned and original, until the first unlearning
    first, second = (
        [leaf[rows] for leaf in tree.leaves(found.result.snapshots[0][0])]
        for rows in ([0, 1], [2, 3])
    )
    assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def features_of(kind, single, stage, task):
    """All test examples' features of a task, as a run alone had them after an event, by looking at
    its events.
    """
    params, state = single
    stream = toy_stream(KEYS[stage["seed"]])
    test = stream.test(task)
    batch = stream.batch(stream.data, test, test.test)
    algorithm_ = amnesiac(algorithm(kind), num_tasks=3)
    return algorithm_.features(params, state, batch.x, batch.task)


def losses_of(kind, single, seed, task, part):
    params, state = single
    stream = toy_stream(KEYS[seed])
    test = stream.test(task)
    batch = stream.batch(stream.data, test, getattr(test, part))
    logits = amnesiac(algorithm(kind), num_tasks=3).predict(params, state, batch.x, batch.task)
    return [
        -math.log(math.exp(row[y]) / sum(map(math.exp, row)))
        for row, y in zip(logits.tolist(), batch.y, strict=True)
    ]


STAGES = (
    {"forgotten": [0], "remaining": [1], "event": 2},
    {"forgotten": [0, 2], "remaining": [1], "event": 4},
)


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("seed", [0, 1])
def test_measures_are_what_loops_over_the_snapshots_give(audited, stage, seed):
    kind, found = audited
    what = STAGES[stage] | {"seed": seed}
    rows = {"unlearned": seed, "original": 2 + seed, "oracle": 4 + 2 * stage + seed}
    singles = {name: tree.index(found.result.snapshots[stage], row) for name, row in rows.items()}
    accuracy = {
        name: found.result.accuracy[what["event"], :, row].tolist() for name, row in rows.items()
    }

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    for name, row in rows.items():
        told = {measure: float(values[stage, row]) for measure, values in found.measures.items()}
        for word in ("remaining", "forgotten"):
            pairs = [
                [features_of(kind, singles[which], what, task) for which in (name, "oracle")]
                for task in what[word]
            ]
            apart = [
                naive_distances(*pair) | {"cka": float(unlearning.cka(*pair))} for pair in pairs
            ]
            for distance in unlearning.distances:
                assert told[f"{distance}_{word}"] == pytest.approx(
                    mean(d[distance] for d in apart), abs=1e-9
                )
            assert told[f"accuracy_{word}"] == pytest.approx(
                mean(accuracy[name][t] for t in what[word])
            )
        gain = mean(accuracy[name][t] - accuracy["original"][t] for t in what["remaining"])
        assert told["accuracy_gain"] == pytest.approx(gain, abs=1e-12)
        assert told["above_chance"] == pytest.approx(
            mean(accuracy[name][t] - 1 / 3 for t in what["forgotten"])
        )
        won = []
        for task in what["forgotten"]:
            inside, outside = (
                losses_of(kind, singles[name], seed, task, part) for part in ("train", "test")
            )
            won.append(mean((m < o) + 0.5 * (m == o) for m in inside for o in outside))
        assert told["membership_auc"] == pytest.approx(mean(won))


def test_what_is_not_a_member_of_the_comparison_is_not_measured(audited):
    _, found = audited
    for values in found.measures.values():
        assert values[0, 6:].isnan().all() and values[1, 4:6].isnan().all()
        assert values[0, :6].isfinite().all() and values[1, [0, 1, 2, 3, 6, 7]].isfinite().all()


def test_nothing_is_left_of_the_updates_of_a_forgotten_task_but_rounding(audited):
    _, found = audited
    assert found.measures["residual"][~found.measures["residual"].isnan()].max() < 1e-13


def test_a_weight_that_no_record_explains_is_left(audited):
    kind, found = audited
    (params, state), second = found.result.snapshots
    moved = params | {"hidden1": params["hidden1"] | {"bias": params["hidden1"]["bias"] + 0.5}}
    planned = plan(algorithm(kind), toy_stream(KEYS), KEYS, REQUESTS)
    again = measures(planned, found.result._replace(snapshots=((moved, state), second)))
    assert float(again["residual"][0, 0]) == pytest.approx(0.5 * math.sqrt(6), rel=1e-9)


def test_one_seed_and_a_shared_scenario_will_do():
    found = audit(algorithm(), toy_stream(KEYS[0]), KEYS[0], {0: [FIRST]}, **HOW)
    both = audit(algorithm(), toy_stream(KEYS[0]), KEYS, {0: [FIRST]}, **HOW)
    assert found.measures["cka_forgotten"].shape == (1, 3) and both.measures[
        "cka_forgotten"
    ].shape == (1, 6)
    assert found.measures["cka_remaining"].isnan().all()  # no task remains
    for name, values in found.measures.items():
        torch.testing.assert_close(
            both.measures[name][:, ::2], values, rtol=0, atol=1e-9, equal_nan=True
        )


def test_runs_of_a_scenario_can_be_picked_and_entries_spaced():
    stream = toy_stream(KEYS)
    twice = stream.part([1, 0, 1])
    assert twice.runs == 3 and torch.equal(
        twice.test(1).view["pixels"], stream.test(1).view["pixels"][[1, 0, 1]]
    )
    assert toy_stream().part([0, 0]).runs is None
    listed, size = torch.arange(20).reshape(2, 10), torch.tensor([10, 6])
    assert spaced(listed, size, 3).tolist() == [[0, 3, 6], [10, 12, 14]]
    assert spaced(listed, size).tolist() == [[0, 1, 3, 5, 6, 8], [10, 11, 12, 13, 14, 15]]


def test_the_files_hold_every_measure_of_every_run(tmp_path):
    found = audit_of("finetuning")
    save(found, tmp_path)
    data = xarray.load_dataset(tmp_path / "results.nc", engine="h5netcdf")
    assert data["member"].values.tolist() == found.result.coordinates["member"]
    assert data["after"].values.tolist() == [1, 2]
    assert data["forgotten"].values.tolist() == ["0", "0, 2"]
    rows = list(csv.DictReader((tmp_path / "unlearning.csv").read_text().splitlines()))
    for name, values in found.measures.items():
        assert np.array_equal(data[f"unlearning_{name}"].values.T, values.numpy(), equal_nan=True)
        own = [row for row in rows if row["metric"] == name]
        assert len(own) == int((~values.isnan()).sum())
        for row in own:
            stage = {"1": 0, "2": 1}[row["after"]]
            assert row["forgotten"] == ("0", "0 2")[stage] and row["seed"] == str(
                3 + int(row["run"]) % 2
            )
            assert float(row["value"]) == float(values[stage, int(row["run"])])
            assert row["member"] == data["member"].values[int(row["run"])]
    drawn = {path.stem for path in (tmp_path / "figures").glob("unlearning_*.png")}
    wanted = {
        "accuracy",
        "accuracy_gain",
        "above_chance",
        "membership",
        "residual",
        *unlearning.distances,
    }
    assert drawn == {f"unlearning_{name}" for name in wanted}
    assert to_xarray(found).sizes["unlearning"] == 2


@pytest.mark.parametrize(
    ("requests", "said"),
    [
        ({}, "requests must name a task to forget"),
        ({1: []}, "requests must name a task to forget"),
        ({0: [SECOND]}, "cannot forget task 1 after task 0: it is not trained yet"),
        ({1: [FIRST], 2: [FIRST]}, "cannot forget task 0 after task 2: it is forgotten already"),
        ({1: [ForgetSet(3)]}, "cannot forget task 3 after task 1: tasks are 0..2"),
        ({3: [FIRST]}, "cannot forget after task 3: tasks are 0..2"),
        ({1: [ForgetSet(0, rows=(1,))]}, "cannot forget task 1 rows 1: declare it by amnesiac"),
        ({1: [1]}, "requests take forget sets, and count tasks from 0: write"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_before_training(requests, said):
    with pytest.raises(ValueError, match=said), without_type_checks():
        audit(algorithm(), toy_stream(KEYS), KEYS, requests, **HOW)


def test_a_sweep_is_refused():
    with pytest.raises(ValueError, match="audit takes one algorithm"):
        audit(sweep([algorithm()] * 2), toy_stream(KEYS), KEYS, REQUESTS, **HOW)


def test_under_one_head_chance_is_one_of_all_classes():
    scenario = scenarios.split(toy_data(classes=4), 2, key(0), paradigm="cil")
    plain = finetuning(mlp(scenario.inputs, (6,), scenario.head()), sgd(0.1))
    found = audit(
        plain,
        scenario,
        key(1),
        {1: [FIRST]},
        epochs=1,
        batch_size=8,
        engine="eager",
        progress=False,
    )
    above, right = found.measures["above_chance"], found.measures["accuracy_forgotten"]
    torch.testing.assert_close(above, right - 1 / 4)


# forgets rows of task 0 after it, classes of task 1 after that, and all of task 0 in the end
FEW = ForgetSet(0, rows=(1, 4, 33, 50))
TWOS = ForgetSet(1, classes=(2,))
SETS_REQUESTS = {0: [FEW], 1: [TWOS], 2: [FIRST]}
FORGOTTEN = ([FEW], [FEW, TWOS], [FIRST, TWOS])


def forgetful():
    model = mlp((1, 4, 4), (6, 5), toy_stream(KEYS).head(), dtype=torch.float64)
    inner = finetuning(model, carry(sgd(0.1, momentum=0.5)))
    return amnesiac(inner, num_tasks=3, forget_sets=[FEW, TWOS])


@cache
def audit_of_sets():
    return audit(forgetful(), toy_stream(KEYS), KEYS, SETS_REQUESTS, **HOW)


def listed(seed, forget_set, part):
    """Rows of a part of a set's task that the set holds, by a loop over them."""
    stream = toy_stream(KEYS[seed])
    test = stream.test(forget_set.task)
    rows = []
    for row in getattr(test, part).tolist():
        label = int(stream.batch(stream.data, test, torch.tensor([row])).y)
        if forget_set.is_whole_task or row in forget_set.rows or label in forget_set.classes:
            rows.append(row)
    return rows


def without_rows(seed, forget_sets):
    """The scenario of a seed, whose training lists are padded with rows that a loop leaves out."""
    scenario = toy_stream(KEYS[seed])

    def train(phase):
        stream = scenario.train(phase)
        gone = set()
        for forget_set in forget_sets:
            if forget_set.task == phase:
                gone |= set(listed(seed, forget_set, "train"))
        kept = [row for row in stream.train.tolist() if row not in gone]
        padded = torch.tensor(kept + [-1] * len(gone))
        sizes = torch.tensor([len(kept), *stream.sizes[1:].tolist()])
        return stream._replace(train=padded, sizes=sizes)

    return scenario._replace(train=train)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_oracle_of_a_set_never_trains_on_its_examples(stage, seed):
    found = audit_of_sets()
    sets = [one for one in FORGOTTEN[stage] if not one.is_whole_task]
    skip = {one.task for one in FORGOTTEN[stage] if one.is_whole_task}
    single = run(forgetful(), without_rows(seed, sets), KEYS[seed], skip=skip, **HOW)
    row = 4 + 2 * stage + seed
    for many, one in zip(tree.leaves(found.result.params), tree.leaves(single.params), strict=True):
        torch.testing.assert_close(many[row], one, rtol=0, atol=1e-9)


def test_a_scenario_without_examples_keeps_its_shapes_and_the_other_runs():
    whole, planned = toy_stream(KEYS), plan(forgetful(), toy_stream(KEYS), KEYS, SETS_REQUESTS)
    scenario = planned.scenario_of_runs()
    for task in range(3):
        stream = scenario.train(task)
        assert stream.train.shape == (10, 60)
        for row in range(4):
            assert stream.train[row].tolist() == whole.train(task).train[row % 2].tolist()
    assert scenario.train(0).sizes[:, 0].tolist() == [60] * 4 + [56] * 4 + [60] * 2
    assert scenario.train(1).sizes[:, 0].tolist() == [60] * 6 + [40] * 4


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_measures_of_sets_are_what_loops_over_their_examples_give(stage, seed):
    found, algorithm_ = audit_of_sets(), forgetful()
    scenario = toy_stream(KEYS[seed])
    rows = {"unlearned": seed, "original": 2 + seed, "oracle": 4 + 2 * stage + seed}
    singles = {name: tree.index(found.result.snapshots[stage], row) for name, row in rows.items()}

    def batch(task, entries):
        stream = scenario.test(task)
        return scenario.batch(scenario.data, stream, torch.tensor(entries))

    def losses(name, task, entries):
        made = batch(task, entries)
        logits = algorithm_.predict(*singles[name], made.x, made.task).tolist()
        exponentials = [[math.exp(value) for value in line] for line in logits]
        chances = [line[y] / sum(line) for line, y in zip(exponentials, made.y, strict=True)]
        return [-math.log(chance) for chance in chances]

    def hits(name, task, entries):
        made = batch(task, entries)
        logits = algorithm_.predict(*singles[name], made.x, made.task).tolist()
        return [line.index(max(line)) == y for line, y in zip(logits, made.y.tolist(), strict=True)]

    def features(name, task, entries):
        made = batch(task, entries)
        return algorithm_.features(*singles[name], made.x, made.task)

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    for name, row in rows.items():
        told = {measure: float(values[stage, row]) for measure, values in found.measures.items()}
        right, won, apart = [], [], []
        for forget_set in FORGOTTEN[stage]:
            task = forget_set.task
            inside = listed(seed, forget_set, "train")
            outside = listed(seed, ForgetSet(task) if forget_set.rows else forget_set, "test")
            shown = inside if forget_set.rows else outside
            right.append(mean(hits(name, task, shown)))
            pairs = [
                (m < o) + 0.5 * (m == o)
                for m in losses(name, task, inside)
                for o in losses(name, task, outside)
            ]
            won.append(mean(pairs))
            apart.append(
                naive_distances(features(name, task, shown), features("oracle", task, shown))
            )
        assert told["accuracy_forgotten"] == pytest.approx(mean(right))
        assert told["above_chance"] == pytest.approx(mean(right) - 1 / 3)
        assert told["membership_auc"] == pytest.approx(mean(won))
        for distance in apart[0]:
            expected = mean(one[distance] for one in apart)
            assert told[f"{distance}_forgotten"] == pytest.approx(expected, abs=1e-9)
        remaining = [0, 1, 2][: stage + 1] if stage < 2 else [1, 2]
        event = [1, 3, 5][stage]
        accuracy = found.result.accuracy[event, :, row].tolist()
        assert told["accuracy_remaining"] == pytest.approx(
            mean(accuracy[task] for task in remaining)
        )


def test_nothing_is_left_of_the_updates_of_a_forgotten_set_but_rounding():
    residual = audit_of_sets().measures["residual"]
    assert residual[~residual.isnan()].max() < 1e-13


def test_the_files_of_an_audit_of_sets_count_from_zero_and_its_figures_from_one(tmp_path):
    found = audit_of_sets()
    data = to_xarray(found)
    assert data["forgotten"].values.tolist() == [
        "0:rows=1+4+33+50",
        "0:rows=1+4+33+50, 1:classes=2",
        "0, 0:rows=1+4+33+50, 1:classes=2",
    ]
    words = data["forgotten"].values[1].split(", ")
    assert [from_compact(word) for word in words] == [FEW, TWOS]
    assert [stage.forgotten for stage in found.stages] == [(FEW,), (FEW, TWOS), (FIRST, FEW, TWOS)]
    labels = audit_plots._tick_labels(data)
    assert labels[1] == "after task 2\nforgot task 1 rows 1,4,33,50\ntask 2 classes 2"
    axes = audit_plots.figure(data, "accuracy").axes
    assert [label.get_text() for label in axes[0].get_xticklabels()] == labels
    assert [one.get_title() for one in axes] == ["tasks that remain", "forgotten sets"]


def test_a_set_that_a_function_marks_is_refused():
    marked = ForgetSet(0, concerns=torch.zeros_like)
    able = amnesiac(algorithm(), num_tasks=3, forget_sets=[marked])
    with pytest.raises(
        ValueError, match=r"cannot leave out what a function marks: name classes or rows"
    ):
        audit(able, toy_stream(KEYS), KEYS, {1: [marked]}, **HOW)


def test_sets_that_leave_an_oracle_nothing_to_train_on_are_refused():
    every = ForgetSet(0, classes=(0, 1, 2))
    able = amnesiac(algorithm(), num_tasks=3, forget_sets=[every])
    with pytest.raises(
        ValueError, match="the forget sets of task 1 hold all examples that it trains on"
    ):
        audit(able, toy_stream(KEYS), KEYS, {1: [every]}, **HOW)


def test_one_that_keeps_no_records_is_refused():
    able = amnesiac(algorithm(), num_tasks=3, record=False)
    with pytest.raises(ValueError, match="keeps no records: leave out record=False"):
        audit(able, toy_stream(KEYS), KEYS, REQUESTS, **HOW)


def test_a_run_that_diverged_before_its_request_has_no_measures_and_a_line_says_so():
    scenario = toy_stream(KEYS[0])
    model = mlp(scenario.inputs, (6, 5), scenario.head())
    wild = finetuning(model, sgd(1e30))
    found = audit(wild, scenario, KEYS[0], {1: [FIRST]}, **HOW)
    assert int(found.result.diverged[0]) >= 0 and not found.result.state.forgotten[0].any()
    assert all(values[0, 0].isnan() for values in found.measures.values())
    assert found.unmet == ((0,),)
    assert unmet_lines(found) == [
        "the request after task 2 is not met by run 0, which diverged before it: its measures"
        " are NaN"
    ]
    assert audit_of_sets().unmet == ((), (), ()) and unmet_lines(audit_of_sets()) == []
