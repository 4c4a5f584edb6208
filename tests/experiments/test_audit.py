"""Audits: each member is the run that it stands for, every measure is what loops over single runs give, files and errors."""

import csv
import math
from functools import cache

import numpy as np
import pytest
import torch
import xarray
from support.naive_distances import naive_distances

from clfunc import amnesiac, audit, finetuning, hat, mlp, run, scenarios, sgd, sweep, tree
from clfunc.experiments.audit import measures, plan, save, spaced, to_xarray
from clfunc.random import key
from clfunc.testing.play import toy_data, toy_stream
from clfunc.unlearning import measures as unlearning

KEYS = torch.stack([key(3), key(4)])
REQUESTS = {2: [1], 3: [3]}
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
        "oracle 1": {"skip": {1}},
        "oracle 2": {"skip": {1, 3}},
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
    """All test examples' features of a task, as a run alone had them after an event, by looking at its events."""
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
    found = audit(algorithm(), toy_stream(KEYS[0]), KEYS[0], {1: [1]}, **HOW)
    both = audit(algorithm(), toy_stream(KEYS[0]), KEYS, {1: [1]}, **HOW)
    assert found.measures["cka_forgotten"].shape == (1, 3) and both.measures[
        "cka_forgotten"
    ].shape == (1, 6)
    assert found.measures["cka_remaining"].isnan().all()  # nothing remains after task 1
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
    assert data["after"].values.tolist() == [2, 3] and data["forgotten"].values.tolist() == [
        "1",
        "1, 3",
    ]
    rows = list(csv.DictReader((tmp_path / "unlearning.csv").read_text().splitlines()))
    for name, values in found.measures.items():
        assert np.array_equal(data[f"unlearning_{name}"].values.T, values.numpy(), equal_nan=True)
        own = [row for row in rows if row["metric"] == name]
        assert len(own) == int((~values.isnan()).sum())
        for row in own:
            stage = {"2": 0, "3": 1}[row["after"]]
            assert row["forgotten"] == ("1", "1 3")[stage] and row["seed"] == str(
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
        ({2: []}, "requests must name a task to forget"),
        ({1: [2]}, "cannot forget task 2 after task 1: it is not trained yet"),
        ({2: [1], 3: [1]}, "cannot forget task 1 after task 3: it is forgotten already"),
        ({2: [4]}, "cannot forget task 4 after task 2: tasks are 1..3"),
        ({4: [1]}, "cannot forget after task 4: tasks are 1..3"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_before_training(requests, said):
    with pytest.raises(ValueError, match=said):
        audit(algorithm(), toy_stream(KEYS), KEYS, requests, **HOW)


def test_a_sweep_is_refused():
    with pytest.raises(ValueError, match="audit takes one algorithm"):
        audit(sweep([algorithm()] * 2), toy_stream(KEYS), KEYS, REQUESTS, **HOW)


def test_under_one_head_chance_is_one_of_all_classes():
    scenario = scenarios.split(toy_data(classes=4), 2, key(0), paradigm="cil")
    plain = finetuning(mlp(scenario.inputs, (6,), scenario.head()), sgd(0.1))
    found = audit(
        plain, scenario, key(1), {2: [1]}, epochs=1, batch_size=8, engine="eager", progress=False
    )
    above, right = found.measures["above_chance"], found.measures["accuracy_forgotten"]
    torch.testing.assert_close(above, right - 1 / 4)
