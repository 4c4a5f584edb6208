"""Slowly changing regression: its bits, its target by loops, and learning it online by squared
error.
"""

import itertools

import pytest
import torch
from support.strict import without_type_checks

import clfunc as cl
from clfunc.losses import squared_error
from clfunc.models.heads import regression
from clfunc.random import key, split
from clfunc.scenarios import slowly_changing_regression
from clfunc.scenarios.slowly_changing_regression import _target

SMALL = {"inputs": 7, "slow": 4, "period": 60, "features": 9}


def batch_of(scenario, task, part="train"):
    stream = scenario.train(task)
    return scenario.batch(scenario.data, stream, getattr(stream, part))


def test_one_slow_bit_flips_from_task_to_task_and_the_others_are_drawn_anew():
    scenario = slowly_changing_regression(6, key(3), **SMALL)
    seen = []
    for task in range(6):
        x = batch_of(scenario, task).x
        assert x.shape == (60, 7) and set(x.unique().tolist()) == {0.0, 1.0}
        assert (x[:, :4] == x[0, :4]).all()
        assert (x[:, 4:].mean(0) > 0.2).all() and (x[:, 4:].mean(0) < 0.8).all()
        seen.append(x[0, :4])
    assert all((a != b).sum() == 1 for a, b in itertools.pairwise(seen))
    assert torch.equal(batch_of(scenario, 4).x, batch_of(scenario, 4).x)


def test_all_slow_bits_may_be_drawn_anew():
    scenario = slowly_changing_regression(30, key(3), **SMALL, flip="all")
    changes = [
        (batch_of(scenario, t).x[0, :4] != batch_of(scenario, t + 1).x[0, :4]).sum().item()
        for t in range(29)
    ]
    assert max(changes) > 1 and 1 < sum(changes) / 29 < 3


def test_the_target_is_its_equation():
    inputs, features, beta = 7, 9, 0.7
    x = (torch.rand(20, inputs, generator=torch.Generator().manual_seed(0)) > 0.5).to(torch.float32)
    found = _target(key(5), x, features, beta)

    def signs(at, *shape):
        return 2 * cl.random.randint(cl.random.fold_in(key(5), at), shape, 0, 2) - 1

    w, b, v, c = signs(0, features, inputs), signs(1, features), signs(2, features, 1), signs(3, 1)
    for row, y in zip(x.tolist(), found[:, 0].tolist(), strict=True):
        total = c[0].item()
        for i in range(features):
            weights = [*w[i].tolist(), b[i].item()]
            threshold = (
                beta * (inputs + 1) - sum(weight == -1 for weight in weights[:-1]) - weights[-1] / 2
            )
            if (
                sum(weight * value for weight, value in zip(weights, [*row, 1.0], strict=True))
                >= threshold
            ):
                total += v[i, 0].item()
        assert y == total


def test_testing_goes_over_every_input_of_a_task_once():
    scenario = slowly_changing_regression(2, key(3), **SMALL)
    x = batch_of(scenario, 1, "test").x
    assert (
        len(x) == 8
        and len(x.unique(dim=0)) == 8
        and torch.equal(x[0, :4], batch_of(scenario, 1).x[0, :4])
    )


def test_a_run_learns_online_and_each_run_of_a_sweep_is_its_own():
    keys = split(key(1), 3)
    sizes = SMALL | {"period": 150}
    scenario = slowly_changing_regression(3, keys, **sizes)
    model = cl.mlp(7, (6,), scenario.head())
    algorithm = cl.finetuning(model, cl.sgd(0.02))
    settings = {"batch_size": 1, "engine": "eager", "progress": False}
    with without_type_checks():
        result = cl.run(algorithm, scenario, keys, **settings, evaluate="current")
    assert result.online["loss"].shape == (3, 3) and "accuracy" not in result.online
    assert result.accuracy.isnan().all()
    loss = result.training.values["loss"]
    assert loss[-150:].mean() < 0.5 * loss[:40].mean()
    alone = slowly_changing_regression(3, keys[1], **sizes)
    with without_type_checks():
        own = cl.run(algorithm, alone, keys[1], **settings, evaluate="none")
    torch.testing.assert_close(
        own.online["loss"], result.online["loss"][:, 1], rtol=1e-4, atol=1e-5
    )


def test_online_accuracy_is_measured_before_each_step():
    digits = cl.datasets.load("digits").first(720)
    scenario = cl.scenarios.permuted(digits, 2, key(0))
    model = cl.mlp(scenario.inputs, (32,), scenario.head())
    algorithm = cl.finetuning(model, cl.sgd(0.1))
    settings = {"batch_size": 1, "engine": "eager", "progress": False}
    with without_type_checks():
        result = cl.run(algorithm, scenario, key(0), **settings)
    online = result.online["accuracy"]
    assert online.shape == (2,)
    assert (online > 0.3).all()
    assert (online < result.accuracy.diagonal()).all()
    steps = torch.diff(result.training.step, prepend=torch.zeros(1, dtype=torch.int64))
    expected = []
    for task in (0, 1):
        of_task = result.training.task == task
        total = 0.0
        for accuracy, count in zip(
            result.training.values["accuracy"][of_task], steps[of_task], strict=True
        ):
            total += accuracy * count
        expected.append(total / steps[of_task].sum())
    torch.testing.assert_close(
        online, torch.stack(expected).to(torch.float64), rtol=1e-6, atol=1e-7
    )


def test_the_head_of_numbers_is_trained_by_squared_error():
    head = regression(2, 3)
    y, outputs = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([1.0, 0, 1, 1])
    expected = torch.nn.functional.mse_loss(outputs[weight > 0], y[weight > 0])
    torch.testing.assert_close(squared_error(outputs, y, weight), expected)
    assert (
        head.loss is squared_error and head.measure(outputs, y, weight) == {} and head.classes == 3
    )


@pytest.mark.parametrize(
    "change, said",
    [
        ({"num_tasks": 0}, "tasks must be at least 1, given 0"),
        ({"slow": 8}, "slow must be in 0..7 for 7 inputs, given 8"),
        ({"inputs": 30, "slow": 10}, "slow must be in 18..30 for 30 inputs, given 10"),
        ({"beta": 1.5}, "beta must be in [0, 1], given 1.5"),
        ({"flip": "two"}, "flip must be one of one, all, given 'two'"),
        ({"period": 0}, "period must be at least 1, given 0"),
    ],
)
def test_what_no_stream_can_be_is_refused(change, said):
    given = {"num_tasks": 2} | SMALL | change
    with pytest.raises(ValueError) as error:
        slowly_changing_regression(given.pop("num_tasks"), key(0), **given)
    assert str(error.value) == said
