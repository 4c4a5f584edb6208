"""Scenarios: no row leaks, no example is left out, and every example is what plain loops make of
the stored one.
"""

import math
import re
import statistics
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.streams import (
    ANGLES,
    DIGITS,
    DRAWN,
    KINDS,
    MIXED,
    PARADIGMS,
    PARTS,
    SEEDS,
    SMALL,
    SQUARE,
    TASKS,
    VALID,
    WIDE,
    batch_of,
    every_kind,
    every_paradigm,
    lists,
    of_run,
    origin,
    toy,
)
from torch.func import vmap
from torch.testing import assert_close

from clfunc import datasets, random, tree
from clfunc.scenarios import combined, epoch_entries, joint, permuted, rotated, single, split


def assert_no_leak(kind, scenario, streams, valid, data=MIXED):
    found = [lists(stream) for stream in streams]
    whole = {part: {row for own in found for row in own[part]} for part in PARTS}
    for one, other in combinations(PARTS, 2):
        assert not whole[one] & whole[other]
    for task, (own, stream) in enumerate(zip(found, streams, strict=True)):
        dataset, first = origin(kind, task, data)
        stored = dataset.y.tolist()
        labels = {stored[row - first] for part in PARTS for row in own[part]}
        of_task = [row for row, label in enumerate(stored) if label in labels]
        assert len(labels) == scenario.classes[task]
        assert sorted(own["test"]) == [first + row for row in of_task if row >= dataset.num_train]
        assert sorted(own["train"] + own["valid"]) == [
            first + row for row in of_task if row < dataset.num_train
        ]
        held = [stored[row - first] for row in own["valid"]]
        for label in labels:
            assert held.count(label) == int(valid * stored[: dataset.num_train].count(label))
        assert stream.task == task


@every_kind
@given(seed=SEEDS, paradigm=DRAWN, valid=st.sampled_from(VALID))
def test_no_row_of_any_task_is_both_trained_on_and_held_out_and_none_is_lost(
    kind, paradigm, seed, valid
):
    scenario = KINDS[kind](random.key(seed), paradigm=paradigm, valid=valid)
    assert_no_leak(kind, scenario, [scenario.train(task) for task in range(TASKS)], valid)
    for task in range(TASKS):
        assert_close(scenario.train(task), scenario.test(task), rtol=0, atol=0)


@every_kind
@given(seeds=st.lists(SEEDS, min_size=3, max_size=3), valid=st.sampled_from(VALID))
def test_no_row_leaks_in_any_run_of_a_scenario_with_runs(kind, seeds, valid):
    scenario = KINDS[kind](torch.stack([random.key(seed) for seed in seeds]), valid=valid)
    streams = [scenario.train(task) for task in range(TASKS)]
    for run in range(3):
        assert_no_leak(kind, scenario, [of_run(stream, run) for stream in streams], valid)


@pytest.mark.parametrize("kind", DIGITS)
def test_no_row_of_the_digits_leaks(kind):
    data = (datasets.load("digits"), WIDE, SMALL)
    scenario = DIGITS[kind](random.key(1), valid=0.2)
    assert_no_leak(kind, scenario, [scenario.train(task) for task in range(TASKS)], 0.2, data)


@every_kind
@given(seeds=st.lists(SEEDS, min_size=3, max_size=3), valid=st.sampled_from(VALID), paradigm=DRAWN)
def test_every_run_is_the_scenario_with_its_own_key_alone(kind, seeds, valid, paradigm):
    keys = torch.stack([random.key(seed) for seed in seeds])
    many, *alone = (KINDS[kind](key, paradigm=paradigm, valid=valid) for key in (keys, *keys))
    assert [scenario.runs for scenario in (many, *alone)] == [3, None, None, None]
    for task in range(TASKS):
        stream = many.train(task)
        assert all(leaf.shape[0] == 3 for leaf in tree.leaves(stream))
        for run, scenario in enumerate(alone):
            own, expected = of_run(stream, run), scenario.train(task)
            assert lists(own) == lists(expected)
            assert_close(
                (own.task, own.view, own.sizes),
                (expected.task, expected.view, expected.sizes),
                rtol=0,
                atol=0,
            )


@every_kind
@every_paradigm
def test_the_batches_of_all_runs_under_vmap_are_each_alone(kind, paradigm):
    keys = random.split(random.key(2), TASKS)
    many = KINDS[kind](keys, paradigm=paradigm)
    for task in range(TASKS):
        stream = many.train(task)
        together = vmap(many.batch, (None, 0, 0))(many.data, stream, stream.train[:, :5])
        for run, key in enumerate(keys):
            alone = KINDS[kind](key, paradigm=paradigm)
            expected = alone.batch(alone.data, alone.train(task), stream.train[run, :5])
            assert_close(tree.index(together, run), expected, rtol=0, atol=0)


@every_kind
@given(seed=SEEDS)
def test_every_scenario_is_a_pure_function_of_its_key(kind, seed):
    first, second = (KINDS[kind](random.key(seed), valid=0.3) for _ in range(2))
    before, streams = tree.clone(first.data), [first.train(task) for task in range(TASKS)]
    batch_of(first, streams[0], [0, 1])
    for task in reversed(range(TASKS)):
        assert_close(second.train(task), streams[task], rtol=0, atol=0)
    assert_close(first.data, before, rtol=0, atol=0)


@every_kind
def test_another_key_holds_out_other_rows(kind):
    held = {
        tuple(lists(KINDS[kind](random.key(seed), valid=0.3).train(0))["valid"])
        for seed in range(8)
    }
    assert len(held) == 8


@every_kind
@given(seed=SEEDS, count=st.integers(1, 90), valid=st.sampled_from(VALID))
def test_every_example_is_in_an_epoch_and_only_its_own_beginning_is_repeated(
    kind, seed, count, valid
):
    key = random.key(seed)
    scenario = KINDS[kind](key, valid=valid)
    for task in range(TASKS):
        stream = scenario.train(task)
        own = lists(stream)["train"]
        epoch = epoch_entries(key, stream, len(own)).tolist()
        assert sorted(epoch) == sorted(own)
        assert epoch_entries(key, stream, count).tolist() == [
            epoch[i % len(own)] for i in range(count)
        ]


def test_epochs_of_different_keys_have_different_orders():
    stream = KINDS["shuffled"](random.key(3)).train(0)
    orders = {
        tuple(epoch_entries(key, stream, int(stream.sizes[0])).tolist())
        for key in random.split(random.key(4), 20)
    }
    assert len(orders) == 20


def test_epochs_of_runs_with_tasks_of_different_sizes_are_each_alone():
    keys, orders = random.split(random.key(5), 4), random.split(random.key(6), 4)
    stream = KINDS["shuffled"](keys).train(1)
    together = vmap(lambda key, stream: epoch_entries(key, stream, 40))(orders, stream)
    assert len(set(stream.sizes[:, 0].tolist())) > 1
    for run in range(4):
        assert torch.equal(together[run], epoch_entries(orders[run], of_run(stream, run), 40))
        assert set(together[run].tolist()) == set(lists(of_run(stream, run))["train"])


@given(SEEDS, SEEDS, st.booleans())
def test_every_permutation_moves_all_pixels_and_is_its_tasks_and_keys_own(
    seed, other, first_identity
):
    found = {}
    for s in {seed, other}:
        scenario = permuted(SQUARE, 4, random.key(s), first_identity=first_identity)
        found |= {(s, task): scenario.train(task).view["pixels"].tolist() for task in range(4)}
    straight = list(range(16))
    assert all(sorted(pixels) == straight for pixels in found.values())
    assert all(
        (pixels == straight) == (first_identity and task == 0)
        for (_, task), pixels in found.items()
    )
    drawn = [tuple(pixels) for pixels in found.values() if pixels != straight]
    assert len(set(drawn)) == len(drawn)


def naive_permuted(image, task, stream):
    channels, height, width = np.shape(image)
    flat = [image[c][i][j] for c in range(channels) for i in range(height) for j in range(width)]
    moved = iter([flat[pixel] for pixel in stream.view["pixels"].tolist()])
    return [[[next(moved) for _ in range(width)] for _ in range(height)] for _ in range(channels)]


def naive_rotated(image, task, stream):
    """Each pixel from the point it came from, between the four pixels around it; black outside."""
    channels, height, width = np.shape(image)
    turn = math.radians(ANGLES[task])

    def at(c, i, j):
        return image[c][i][j] if 0 <= i < height and 0 <= j < width else 0

    def point(c, i, j):
        down, right = i - (height - 1) / 2, j - (width - 1) / 2
        y = down * math.cos(turn) + right * math.sin(turn) + (height - 1) / 2
        x = right * math.cos(turn) - down * math.sin(turn) + (width - 1) / 2
        top, left = math.floor(y), math.floor(x)
        upper = at(c, top, left) * (left + 1 - x) + at(c, top, left + 1) * (x - left)
        lower = at(c, top + 1, left) * (left + 1 - x) + at(c, top + 1, left + 1) * (x - left)
        return upper * (top + 1 - y) + lower * (y - top)

    return [
        [[point(c, i, j) for j in range(width)] for i in range(height)] for c in range(channels)
    ]


def naive_combined(image, task, stream):
    channels, height, width = np.shape(image)
    up, left = (4 - height) // 2, (5 - width) // 2
    fitted = [[[0] * 5 for _ in range(4)] for _ in range(3)]
    for c in range(3):
        for i in range(height):
            for j in range(width):
                fitted[c][up + i][left + j] = image[c if channels == 3 else 0][i][j]
    return fitted


NAIVE = {
    "permuted": naive_permuted,
    "split": lambda image, task, stream: image,
    "shuffled": lambda image, task, stream: image,
    "rotated": naive_rotated,
    "combined": naive_combined,
}


@every_kind
@given(seed=SEEDS, paradigm=DRAWN)
def test_every_input_of_a_batch_is_the_stored_image_moved_pixel_by_pixel_then_normalised(
    kind, paradigm, seed
):
    scenario = KINDS[kind](random.key(seed), paradigm=paradigm)
    for task in range(TASKS):
        stream = scenario.train(task)
        dataset, first = origin(kind, task)
        stored = dataset.x[: dataset.num_train].flatten().tolist()
        mean, deviation = statistics.fmean(stored), statistics.stdev(stored)
        rows = lists(stream)["train"][:2] + lists(stream)["test"][:1]
        batch = batch_of(scenario, stream, rows)
        images = [NAIVE[kind](dataset.x[row - first].tolist(), task, stream) for row in rows]
        assert batch.x.dtype == torch.float32
        assert batch.x.shape[1:] == scenario.inputs
        assert_close(
            batch.x.to(torch.float64),
            (torch.tensor(images) - mean).double() / deviation,
            rtol=1e-6,
            atol=2e-6,
        )


@pytest.mark.parametrize("kind", ["permuted", "split", "combined"])
def test_the_training_images_of_a_data_set_have_zero_mean_and_unit_variance(kind):
    scenario = {
        "permuted": lambda: permuted(WIDE, 1, random.key(0)),
        "split": lambda: split(SQUARE, 1, random.key(0)),
        "combined": lambda: combined([WIDE], random.key(0)),
    }[kind]()
    stream = scenario.train(0)
    x = scenario.batch(scenario.data, stream, stream.train).x.to(torch.float64)
    assert_close(
        torch.stack([x.mean(), x.std()]),
        torch.tensor([0.0, 1.0], dtype=torch.float64),
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 4, -1])
@pytest.mark.parametrize(
    "dataset", [SQUARE, toy("big", (5,), (1,), (3, 7, 7))], ids=["grey", "colour"]
)
def test_a_right_angle_is_rot90_to_the_bit_and_no_angle_changes_nothing(turns, dataset):
    scenario = rotated(dataset, 1, random.key(0), degrees=[90 * turns])
    plain = split(dataset, 1, random.key(0))
    rows = list(range(5))
    found, stored = (batch_of(s, s.train(0), rows).x for s in (scenario, plain))
    assert torch.equal(found, stored.rot90(turns, (2, 3)))


@given(SEEDS, st.integers(1, 6), st.floats(-360, 360))
def test_every_angle_is_an_even_share_of_the_range_whatever_the_key(seed, num_tasks, degrees):
    spread = rotated(SQUARE, num_tasks, random.key(seed), degrees=degrees)
    listed = rotated(
        SQUARE,
        num_tasks,
        random.key(0),
        degrees=[t * degrees / num_tasks for t in range(num_tasks)],
    )
    for task in range(num_tasks):
        assert_close(spread.train(task).view, listed.train(task).view, rtol=0, atol=0)


def labels_of(scenario, stream):
    """Stored class -> the task's label, over all the task's rows."""
    rows = [row for part in lists(stream).values() for row in part]
    batch = batch_of(scenario, stream, rows)
    pairs = set(zip(scenario.data.y[rows].tolist(), batch.y.tolist(), strict=True))
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


@every_kind
@given(seed=SEEDS, paradigm=DRAWN)
def test_every_class_has_a_label_of_its_own_local_to_the_task_or_in_cil_after_those_before(
    kind, paradigm, seed
):
    scenario = KINDS[kind](random.key(seed), paradigm=paradigm)
    assert scenario.classes == {
        "split": (2, 2, 1),
        "shuffled": (2, 2, 1),
        "combined": (5, 2, 3),
    }.get(kind, (5, 5, 5))
    classes = []
    for task in range(TASKS):
        found = labels_of(scenario, scenario.test(task))
        start = sum(scenario.classes[:task]) if paradigm == "cil" else 0
        assert sorted(found.values()) == list(range(start, start + scenario.classes[task]))
        if kind != "shuffled":
            assert [found[label] for label in sorted(found)] == sorted(found.values())
        if kind == "split":
            assert sorted(found) == [[0, 1], [2, 3], [4]][task]
        classes += found
    assert kind != "shuffled" or sorted(classes) == list(range(5))


@given(SEEDS)
def test_every_class_order_is_the_keys_own_and_the_same_in_all_paradigms(seed):
    orders = {}
    for paradigm in PARADIGMS:
        scenario = KINDS["shuffled"](random.key(seed), paradigm=paradigm)
        found = [labels_of(scenario, scenario.test(task)) for task in range(TASKS)]
        starts = (0, 0, 0) if paradigm == "cil" else (0, 2, 4)
        orders[paradigm] = {
            label: start + y
            for own, start in zip(found, starts, strict=True)
            for label, y in own.items()
        }
    assert orders["til"] == orders["cil"] == orders["dil"]
    assert sorted(orders["til"].values()) == list(range(5))


def test_shuffled_classes_come_in_every_order():
    first = [
        labels_of(s, s.test(0)) for s in (KINDS["shuffled"](random.key(seed)) for seed in range(60))
    ]
    assert {tuple(sorted(own)) for own in first} == set(combinations(range(5), 2))


@pytest.mark.parametrize(
    ("num_tasks", "classes"), [(1, (10,)), (3, (4, 3, 3)), (4, (3, 3, 2, 2)), (10, (1,) * 10)]
)
def test_classes_are_shared_out_as_equally_as_they_can_be(num_tasks, classes):
    assert split(datasets.load("digits"), num_tasks, random.key(0)).classes == classes


@pytest.mark.parametrize(
    ("make", "paradigm", "name", "classes"),
    [
        (lambda s: s, "til", "til", [5, 2, 3]),
        (lambda s: s, "cil", "cil", [5, 2, 3]),
        (lambda s: s, "dil", "dil", [5, 2, 3]),
        (joint, "til", "mtl", [5, 2, 3]),
        (joint, "cil", "stl", [10]),
        (joint, "dil", "stl", [5]),
        *((lambda s: single(s, 2), paradigm, "stl", [3]) for paradigm in PARADIGMS),
    ],
)
def test_the_head_fits_the_scenario(make, paradigm, name, classes):
    assert make(combined(MIXED, random.key(0), paradigm=paradigm)).head().settings == {
        "name": name,
        "classes": classes,
    }


@every_kind
def test_a_batch_weighs_every_example_once_unless_told(kind):
    scenario = KINDS[kind](random.key(11))
    stream, weight = scenario.train(1), torch.tensor([0.0, 2.0])
    assert batch_of(scenario, stream, [0, 1, 2]).weight.tolist() == [1, 1, 1]
    assert scenario.batch(scenario.data, stream, torch.tensor([0, 1]), weight).weight is weight
    assert batch_of(scenario, stream, [0]).task == 1


@every_kind
@pytest.mark.parametrize("wrap", [lambda s: s, joint, single], ids=["plain", "joint", "single"])
def test_all_of_a_scenario_moves_to_a_device(kind, wrap):
    moved = wrap(KINDS[kind](random.key(12))).to("meta")
    leaves = tree.leaves((tuple(moved.data), moved.train(0), moved.test(0)))
    assert {leaf.device.type for leaf in leaves} == {"meta"}


REFUSED = {
    "no task": (lambda key: permuted(SQUARE, 0, key), "tasks", 0),
    "no part": (lambda key: split(SQUARE, 0, key), "tasks", 0),
    "no angle": (lambda key: rotated(SQUARE, -1, key), "tasks", -1),
    "no data set": (lambda key: combined([], key), "tasks", 0),
    "more parts than classes": (lambda key: split(SQUARE, 6, key), "5 classes", 6),
    "fewer angles than tasks": (
        lambda key: rotated(SQUARE, 3, key, degrees=[0.0, 9.0]),
        "degrees",
        2,
    ),
    "channels that do not fit": (
        lambda key: combined([WIDE, toy("two", (3,), (1,), (2, 3, 3))], key),
        "two has 2 channels",
        3,
    ),
    "no such task": (lambda key: single(KINDS["split"](key), 3), "task", 3),
    "no such task before": (lambda key: single(KINDS["split"](key), -1), "task", -1),
}
REFUSED |= {
    f"{kind} {setting} {value}": (
        lambda key, make=make, more={setting: value}: make(key, **more),
        setting,
        value,
    )
    for kind, make in KINDS.items()
    for setting, value in (
        ("paradigm", "nil"),
        ("valid", 1.0),
        ("valid", -0.1),
        ("valid", math.nan),
    )
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_scenario_can_be_is_refused_in_one_line_that_gives_it(name):
    make, subject, given = REFUSED[name]
    with pytest.raises(
        ValueError, match=rf"^.*{re.escape(subject)}.*{re.escape(str(given))}.*$"
    ) as error:
        make(random.key(0))
    assert "\n" not in str(error.value)


def test_the_first_images_of_a_data_set_are_its_first_in_order():
    data = datasets.load("digits")
    few, train = data.first(100, 30), data.num_train
    assert few.num_train == 100 and len(few.x) == len(few.y) == 130 and few.num_classes == 10
    assert torch.equal(few.x, torch.cat([data.x[:100], data.x[train : train + 30]]))
    assert torch.equal(data.first(100).y, torch.cat([data.y[:100], data.y[train:]]))
    assert torch.equal(data.first(10**9).y, data.y) and data.first(10**9).num_train == train
