"""Scores are exact counts over the examples that count, whatever is padding, and however many are
looked at in one go."""

import math

import pytest
import torch
from support.streams import SQUARE

from clfunc import finetuning, mlp, scenarios, sgd, sweep, tree
from clfunc.driver import evaluate
from clfunc.driver.evaluate import score, with_runs
from clfunc.random import key, split

RUNS = 4


def job(shared=False):
    """Runs whose classes are dealt in orders of their own, so that tasks have sizes of their
    own."""
    keys = split(key(3), RUNS)
    scenario = scenarios.split(
        SQUARE, 2, keys[0] if shared else keys, shuffle_classes=True, valid=0.3
    )
    member = finetuning(mlp(scenario.inputs, (4,), scenario.head(), dtype=torch.float64), sgd(0.1))
    return member, scenario, sweep([member] * RUNS).init(split(key(5), RUNS))


def naive(member, scenario, params, state, stream, part):
    """One example at a time."""
    size = stream.sizes[("train", "valid", "test").index(part)]
    right, loss = 0, 0.0
    for entry in getattr(stream, part)[:size]:
        batch = scenario.batch(scenario.data, stream, entry[None])
        (logits,) = member.predict(params, state, batch.x, batch.task).tolist()
        right += max(range(len(logits)), key=lambda c: logits[c]) == int(batch.y)
        loss += math.log(sum(math.exp(z) for z in logits)) - logits[int(batch.y)]
    return right / int(size), loss / int(size)


@pytest.mark.parametrize("shared", [True, False], ids=["shared tasks", "tasks of its own"])
@pytest.mark.parametrize("at_once", [1, 5 * RUNS, 2**13])
@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_a_score_counts_each_example_of_a_part_once_and_no_padding(
    monkeypatch, part, at_once, shared
):
    monkeypatch.setattr(evaluate, "AT_ONCE", at_once)
    member, scenario, (params, state) = job(shared)
    streams = [scenario.test(task) for task in range(2)]
    if not shared:
        assert any(
            len(set(s.sizes[:, ("train", "valid", "test").index(part)].tolist())) > 1
            for s in streams
        )
    for stream in (with_runs(scenario, s, RUNS) for s in streams):
        found = score(sweep([member] * RUNS), scenario, params, state, stream, part, RUNS)
        for run in range(RUNS):
            mine = [tree.index(each, run) for each in (params, state, stream)]
            accuracy, loss = naive(member, scenario, *mine, part)
            alone = score(member, scenario, *mine, part)
            assert found["accuracy"][run] == alone["accuracy"] == accuracy
            assert float(found["loss"][run]) == pytest.approx(loss, rel=1e-9)
            assert float(alone["loss"]) == pytest.approx(loss, rel=1e-9)


def test_one_logit_that_is_nan_makes_a_runs_scores_nan_and_no_neighbours(monkeypatch):
    monkeypatch.setattr(evaluate, "AT_ONCE", 5 * RUNS)
    member, scenario, (params, state) = job()
    many = sweep([member] * RUNS)

    def predict(params, state, x, task):
        logits, spoilt = many.predict(params, state, x, task), torch.zeros(RUNS, dtype=torch.bool)
        spoilt[1] = seen == []  # in the first go alone, for one example
        seen.append(x.shape[1])
        return torch.where(
            spoilt[:, None, None] & (torch.arange(logits.shape[1]) == 2)[:, None], torch.nan, logits
        )

    seen = []
    stream = with_runs(scenario, scenario.test(0), RUNS)
    found = score(many._replace(predict=predict), scenario, params, state, stream, "train", RUNS)
    assert len(seen) > 1 and found["accuracy"].isnan().tolist() == [False, True, False, False]
    assert found["loss"].isnan().tolist() == [False, True, False, False]
