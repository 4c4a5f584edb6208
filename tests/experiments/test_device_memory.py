"""What there is of memory, and that what fits is what is planned."""

import pytest
import torch

from clfunc import finetuning, mlp, scenarios, sgd
from clfunc.driver.options import RunOptions
from clfunc.experiments import device_memory as memory
from clfunc.experiments import sizing
from clfunc.experiments.cutting import plan_chunks
from clfunc.experiments.sizing import Need, measure
from clfunc.random import key, split
from clfunc.testing.play import toy_data

KEYS = split(key(1), 8)


def job():
    scenario = scenarios.permuted(toy_data(), 2, key(2))
    return finetuning(mlp(scenario.inputs, (8, 6), scenario.head()), sgd(0.1)), scenario


@pytest.mark.parametrize(
    "size, left", [("5000", 5000 - 3000 + 700), ("3100", 800), ("100", 0), ("max", 2**63 - 2301)]
)
def test_a_container_leaves_its_limit_less_what_is_used_and_caches_count_as_free(
    monkeypatch, tmp_path, size, left
):
    for name, words in (
        ("max", size),
        ("current", "3000\n"),
        ("stat", "anon 9\ninactive_file 700\nactive_file 50\n"),
    ):
        (tmp_path / f"memory.{name}").write_text(words)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory._container() == left
    monkeypatch.setattr(memory, "_system", lambda: 2500)
    assert memory.available(torch.device("cpu")) == min(2500, left)


def test_devices_in_one_memory_share_what_it_has(monkeypatch):
    algorithm, scenario = job()
    room = (
        2 * max(need.fixed + 6 * need.each for need in measure(algorithm, scenario, KEYS, 8)) + 100
    )
    monkeypatch.setattr(memory, "available", lambda device: room)
    options = RunOptions(batch_size=8)
    plans = [plan_chunks(algorithm, scenario, KEYS, options, sharing=n) for n in (1, 2)]
    sizes = [len(plan.chunks[0]) for plan in plans]
    needs = measure(algorithm, scenario, KEYS, 8)
    assert sizes[0] in (4, 6) and sizes[1] <= min(need.fit(room // 2) for need in needs) < sizes[0]


@pytest.mark.parametrize(
    "fixed, each, room", [(100, 10, 290), (0, 3, 100), (1000, 1, 100), (50, 7, 777)]
)
def test_as_many_runs_as_fit_in_half_of_what_there_is(fixed, each, room):
    count = 0
    while 2 * (fixed + (count + 1) * each) <= room:
        count += 1
    assert Need(fixed, each).fit(room) == max(1, count)


def test_what_does_not_grow_with_runs_is_counted_once_and_what_does_for_each(monkeypatch):
    algorithm, scenario = job()
    peaks = iter([1000, 1300, 64])
    monkeypatch.setattr(memory, "peak", lambda f, device: next(peaks))
    monkeypatch.setattr(sizing, "_held", lambda trial: 200 * trial.runs)
    tested = scenario.test(0).test.shape[-1]
    monkeypatch.setattr(sizing, "AT_ONCE", 3 * tested)
    training, testing = measure(algorithm, scenario, KEYS, 8)
    assert training == Need(1200 - 500, 500)  # one run 200 + 1000, two 400 + 1300
    assert testing == Need(3 * 64, 200)  # three runs' examples go through at a time
