"""Scenarios made of a scenario: a mixture of all its tasks, and one of them by itself."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.streams import (
    DRAWN,
    KINDS,
    PARTS,
    SEEDS,
    TASKS,
    VALID,
    batch_of,
    every_kind,
    every_paradigm,
    lists,
    of_run,
)
from torch.func import vmap
from torch.testing import assert_close

from clfunc import random, tree
from clfunc.scenarios import joint, single


def every_entry(scenario):
    """All (task, row) of each part, from the tasks by themselves."""
    streams = [lists(scenario.test(task)) for task in range(TASKS)]
    return {
        part: [(task, row) for task, own in enumerate(streams) for row in own[part]]
        for part in PARTS
    }


@every_kind
@given(seed=SEEDS, paradigm=DRAWN, valid=st.sampled_from(VALID))
def test_every_example_of_a_joint_batch_is_the_one_of_its_own_task(kind, paradigm, seed, valid):
    scenario = KINDS[kind](random.key(seed), paradigm=paradigm, valid=valid)
    mixture, rows = joint(scenario), len(scenario.data.y)
    stream = mixture.train(0)
    assert (mixture.mixed, mixture.phases, mixture.num_tasks) == (True, (TASKS,), TASKS)
    for part, expected in every_entry(scenario).items():
        entries = lists(stream)[part]
        assert sorted(divmod(entry, rows) for entry in entries) == sorted(expected)
    entries = [entry for part in lists(stream).values() for entry in part][::11]
    mixed = batch_of(mixture, stream, entries)
    for i, (task, row) in enumerate(divmod(entry, rows) for entry in entries):
        own = batch_of(scenario, scenario.test(task), [row])
        assert_close(
            (mixed.x[i], mixed.y[i], mixed.task[i]), (own.x[0], own.y[0], own.task), rtol=0, atol=0
        )


@every_kind
def test_a_joint_scenario_is_tested_task_by_task(kind):
    scenario = KINDS[kind](random.key(7), paradigm="cil")
    for task in range(TASKS):
        stream, rows = joint(scenario).test(task), lists(scenario.test(task))["test"]
        assert_close(stream, scenario.test(task), rtol=0, atol=0)
        assert_close(
            batch_of(joint(scenario), stream, rows),
            batch_of(scenario, stream, rows),
            rtol=0,
            atol=0,
        )


@every_kind
@every_paradigm
def test_each_run_of_a_joint_scenario_is_joint_with_its_own_key(kind, paradigm):
    keys = random.split(random.key(8), 3)
    many = joint(KINDS[kind](keys, paradigm=paradigm, valid=0.3))
    stream = many.train(0)
    together = vmap(many.batch, (None, 0, 0))(many.data, stream, stream.train[:, :9])
    for run, key in enumerate(keys):
        alone = joint(KINDS[kind](key, paradigm=paradigm, valid=0.3))
        expected = alone.train(0)
        assert lists(of_run(stream, run)) == lists(expected)
        assert_close(of_run(stream.view, run), expected.view, rtol=0, atol=0)
        own = alone.batch(alone.data, expected, stream.train[run, :9])
        assert_close(tree.index(together, run), own, rtol=0, atol=0)


@every_kind
@every_paradigm
@pytest.mark.parametrize("task", range(TASKS))
def test_single_is_the_task_by_itself_with_labels_from_zero(kind, paradigm, task):
    scenario, local = (KINDS[kind](random.key(9), paradigm=p, valid=0.3) for p in (paradigm, "til"))
    alone, stream = single(scenario, task), local.test(task)
    assert (alone.num_tasks, alone.phases, alone.classes) == (1, (1,), (scenario.classes[task],))
    for found in (alone.train(0), alone.test(0)):
        assert lists(found) == lists(stream)
        assert found.task == 0
        for rows in lists(stream).values():
            own, expected = batch_of(alone, found, rows), batch_of(local, stream, rows)
            assert_close(
                (own.x, own.y, own.weight),
                (expected.x, expected.y, expected.weight),
                rtol=0,
                atol=0,
            )


def test_single_keeps_the_axis_of_runs():
    keys = random.split(random.key(10), 3)
    alone = single(KINDS["shuffled"](keys, paradigm="cil"), 2)
    for run, key in enumerate(keys):
        expected = single(KINDS["shuffled"](key, paradigm="cil"), 2).train(0)
        assert lists(of_run(alone.train(0), run)) == lists(expected)
        assert torch.equal(alone.train(0).view["labels"][run], expected.view["labels"])
