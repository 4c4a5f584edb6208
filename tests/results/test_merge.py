"""Merging and choosing runs where tasks are unlearned: each run keeps what it was asked and what it
then was.
"""

import pytest
import torch

from clfunc import ForgetSet, amnesiac, finetuning, mlp, run, scenarios, sgd, sweep, tree
from clfunc.experiments.chunks import run_chunks
from clfunc.random import key, split
from clfunc.results import merge, packing
from clfunc.testing.play import toy_data
from clfunc.unlearning.forget_sets import plain

QUIET = {"engine": "eager", "progress": False, "batch_size": 8}
KEYS = split(key(1), 4)
FIRST, SECOND, THIRD = (ForgetSet(task=task) for task in range(3))


def job():
    scenario = scenarios.permuted(toy_data(), 3, split(key(2), 4))

    def build(lr):
        model = mlp(scenario.inputs, (6,), scenario.head(), dtype=torch.float64)
        return amnesiac(finetuning(model, sgd(lr)), num_tasks=3)

    return sweep([build(lr) for lr in (0.05, 0.1, 0.15, 0.2)]), scenario


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10, equal_nan=True)


def test_chunks_forget_what_the_sweep_forgets_and_remember_how_they_were():
    algorithm, scenario = job()
    requests = {1: [FIRST], 2: [SECOND]}
    whole = run(algorithm, scenario, KEYS, requests=requests, **QUIET)
    merged = run_chunks(algorithm, scenario, KEYS, requests=requests, runs_at_once=3, **QUIET)
    assert merged.events == whole.events and [len(event.forgets) for event in merged.events] == [
        0,
        0,
        4,
        0,
        4,
    ]
    assert (
        merged.config["requests"] == whole.config["requests"]
        and len(merged.config["requests"]) == 4
    )
    for name in ("accuracy", "snapshots", "params", "state"):
        close(getattr(merged, name), getattr(whole, name))
    back = packing.unpack(packing.pack(whole), algorithm)
    assert back.events == whole.events and tree.structure(back.snapshots) == tree.structure(
        whole.snapshots
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(*map(tree.leaves, (back.snapshots, whole.snapshots)), strict=True)
    )


@pytest.mark.parametrize("kept", [[3, 1], [2]])
def test_runs_that_are_chosen_bring_their_own_requests_and_skipped_tasks(kept):
    algorithm, scenario = job()
    requests = [{1: [FIRST]}, {1: [SECOND]}, {2: [THIRD]}, {1: [FIRST, SECOND]}]
    skip = [{2}, set(), {1}, set()]
    whole = run(algorithm, scenario, KEYS, requests=requests, skip=skip, **QUIET)
    some = merge.select(whole, algorithm, range(4), kept)
    assert some.config["requests"] == [
        {str(after): [plain(one) for one in sets] for after, sets in requests[i].items()}
        for i in kept
    ]
    assert some.config["skip"] == [sorted(skip[i]) for i in kept]
    assert some.config["seeds"] == [whole.config["seeds"][i] for i in kept]
    assert [event.forgets for event in some.events if event.kind == "unlearned"] == [
        tuple(tuple(requests[i].get(after, ())) for i in kept) for after in (1, 2)
    ]
    close(some.snapshots, tree.index(whole.snapshots, torch.tensor(kept)))
    close(some.accuracy, whole.accuracy[..., kept])
