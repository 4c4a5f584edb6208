"""`run`: what it trains, tests, logs and returns; that a run of a sweep is the run alone; what it
refuses."""

import pytest
import torch

from clfunc import finetuning, independent, mlp, run, scenarios, sgd, sweep, tree
from clfunc.random import key, split
from clfunc.testing import toy_stream
from clfunc.testing.play import toy_data

pytestmark = pytest.mark.typed
QUIET = {"engine": "eager", "progress": False, "batch_size": 8}


def build(scenario, make=finetuning, lr=0.1, **options):
    return make(
        mlp(scenario.inputs, (8, 6), scenario.head(), dtype=torch.float64), sgd(lr, 0.9), **options
    )


def split_stream(keys, **options):
    return scenarios.split(toy_data(5), 2, keys, shuffle_classes=True, **options)


@pytest.mark.parametrize("make", [toy_stream, split_stream], ids=["permuted", "split"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared tasks", "tasks of its own"])
def test_run_i_of_a_sweep_is_the_run_alone_with_key_i(make, shared):
    keys, stream_keys = split(key(1), 4), split(key(2), 4)
    scenario = make(stream_keys[0] if shared else stream_keys)
    together = run(build(scenario), scenario, keys, epochs=2, **QUIET)
    assert together.accuracy.shape[2:] == (4,)
    for i in range(4):
        scenario = make(stream_keys[0] if shared else stream_keys[i])
        alone = run(build(scenario), scenario, keys[i], epochs=2, **QUIET)
        if shared or make is toy_stream:
            torch.testing.assert_close(
                tree.index(together.params, i), alone.params, rtol=0, atol=1e-10
            )
            assert torch.equal(together.accuracy[..., i].nan_to_num(), alone.accuracy.nan_to_num())


def test_runs_with_tasks_of_their_own_sizes_all_take_the_steps_of_the_largest():
    scenario = split_stream(split(key(3), 4))
    result = run(build(scenario), scenario, split(key(1), 4), **QUIET)
    assert result.steps == 2 * -(-60 // 8)  # at most three classes of 20 in a task
    assert result.accuracy[-1].isfinite().all()


def test_accuracy_is_the_exact_count_over_all_test_examples():
    scenario = toy_stream(num_tasks=2)
    algorithm = build(scenario)
    result = run(algorithm, scenario, key(1), **QUIET)
    for task in range(2):
        stream = scenario.test(task)
        batch = scenario.batch(scenario.data, stream, stream.test)
        logits = algorithm.predict(result.params, result.state, batch.x, batch.task)
        right = sum(
            int(row.argmax()) == int(label) for row, label in zip(logits, batch.y, strict=True)
        )
        assert result.accuracy[1, task] == right / len(stream.test)


def test_a_run_whose_logits_are_nan_has_no_accuracy_and_its_neighbours_do():
    scenario = toy_stream(num_tasks=1)
    result = run(
        sweep([build(scenario, lr=lr) for lr in (0.1, 1e300)]), scenario, split(key(1), 2), **QUIET
    )
    assert result.accuracy[0, 0].isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    "evaluate, rows",
    [
        ("seen", [[0], [0, 1], [0, 1, 2]]),
        ("current", [[0], [1], [2]]),
        (2, [[], [0, 1], [0, 1, 2]]),
    ],
)
def test_evaluate_says_which_tasks_are_tested_after_each(evaluate, rows):
    scenario = toy_stream()
    accuracy = run(build(scenario), scenario, key(1), evaluate=evaluate, **QUIET).accuracy
    assert [torch.nonzero(~row.isnan()).flatten().tolist() for row in accuracy] == rows


def test_joint_trains_once_and_counts_as_the_last_task():
    scenario = scenarios.joint(toy_stream())
    from clfunc import joint

    result = run(build(scenario, joint), scenario, key(1), epochs=5, **QUIET)
    assert result.steps == 5 * -(-180 // 8) and result.accuracy[:2].isnan().all()
    assert result.average_accuracy == result.accuracy[2].mean() > 0.8


def test_independent_networks_never_forget():
    scenario = toy_stream()
    result = run(
        build(scenario, independent, num_tasks=3), scenario, split(key(1), 2), epochs=3, **QUIET
    )
    assert (result.backward_transfer == 0).all() and (result.forgetting == 0).all()


def test_end_epoch_is_told_the_validation_metrics_and_they_are_logged():
    scenario = scenarios.permuted(toy_data(), 2, key(0), valid=0.25)
    told = []
    algorithm = build(scenario)

    def end_epoch(params, state, metrics):
        told.append(metrics)
        return params, state

    result = run(algorithm._replace(end_epoch=end_epoch), scenario, key(1), epochs=3, **QUIET)
    assert len(told) == 6 and set(told[0]) == {"loss", "accuracy"}
    for name in ("loss", "accuracy"):
        assert result.validation.values[name].tolist() == [float(metrics[name]) for metrics in told]
    steps = -(-45 // 8)
    assert result.validation.step.tolist() == [steps * n for n in range(1, 7)]
    assert result.validation.task.tolist() == [0, 0, 0, 1, 1, 1]


def test_without_validation_end_epoch_is_told_the_mean_training_loss():
    scenario, told = toy_stream(num_tasks=1), []
    algorithm = build(scenario)
    result = run(
        algorithm._replace(end_epoch=lambda p, s, metrics: (told.append(metrics), (p, s))[1]),
        scenario,
        key(1),
        epochs=2,
        **QUIET,
    )
    losses = result.training.values["loss"].reshape(2, -1).mean(1)
    torch.testing.assert_close(torch.stack([metrics["loss"] for metrics in told]), losses)
    assert not len(result.validation.step)


def test_a_run_resumes_no_global_random_state():
    scenario = toy_stream(num_tasks=1)
    before = torch.get_rng_state()
    first, second = (run(build(scenario), scenario, key(1), **QUIET) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.accuracy, second.accuracy)


def test_swept_settings_are_coordinates_and_the_same_ones_are_not():
    scenario = toy_stream(num_tasks=1)
    members = [build(scenario, lr=lr) for lr in (0.1, 0.01)]
    result = run(sweep(members), scenario, split(key(1), 2), **QUIET)
    assert result.coordinates == {"lr": [0.1, 0.01]}
    assert run(members[0], scenario, split(key(1), 2), **QUIET).coordinates == {}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"epochs": 0}, "epochs must be at least 1, given 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, given 0"),
        (
            {"engine": "jit"},
            "engine must be one of auto, eager, trace, compile, cudagraph, given 'jit'",
        ),
        (
            {"evaluate": "all"},
            "evaluate must be 'seen', 'current', 'none' or a number of tasks, given 'all'",
        ),
        ({"key": torch.zeros(2, 2, 2, dtype=torch.int64)}, "key must be"),
        ({"scenario": toy_stream(split(key(0), 3))}, "the scenario has 3 runs"),
        ({"scenario": scenarios.joint(toy_stream())}, "needs an mtl or stl head, given a til head"),
        (
            {"scenario": toy_stream(paradigm="dil")},
            "a dil scenario needs a dil head, given a til head",
        ),
        (
            {"algorithm": build(toy_stream(), independent, num_tasks=2)},
            "given an algorithm for num_tasks=2",
        ),
        ({"config": {"path": object()}}, "config must hold what JSON can"),
        ({"scenario": toy_stream(num_tasks=4)}, "the scenario has 4 tasks, given a til head for 3"),
        (
            {"scenario": scenarios.permuted(toy_data(9), 3, key(0))},
            "needs 9 classes in a head, given 3",
        ),
    ],
)
def test_what_run_cannot_do_is_refused_in_one_line(change, message):
    arguments = (
        {"algorithm": build(toy_stream()), "scenario": toy_stream(), "key": key(1)} | QUIET | change
    )
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as error:
        run(**arguments)
    assert "\n" not in str(error.value)


def test_members_that_are_not_one_program_are_refused_by_name():
    scenario = toy_stream()
    wide = finetuning(mlp(scenario.inputs, (9, 6), scenario.head()), sgd(0.1, 0.9))
    narrow = finetuning(mlp(scenario.inputs, (8, 6), scenario.head()), sgd(0.1, 0.9))
    with pytest.raises(ValueError, match=r"model\.hidden"):
        sweep([wide, narrow])
    with pytest.raises(ValueError, match=r"momentum"):
        sweep([narrow, finetuning(mlp(scenario.inputs, (8, 6), scenario.head()), sgd(0.1))])
    with pytest.raises(ValueError, match="given none"):
        sweep([])
    with pytest.raises(ValueError, match=r"a sweep of 2 needs a key of shape \[2, 2\]"):
        run(sweep([narrow, narrow]), scenario, split(key(0), 3), **QUIET)


@pytest.mark.compiled
def test_a_compiled_run_is_the_eager_one():
    keys = split(key(1), 3)
    scenario = toy_stream(split(key(2), 3))
    eager, compiled = (
        run(build(scenario), scenario, keys, epochs=2, **(QUIET | {"engine": engine}))
        for engine in ("eager", "compile")
    )
    torch.testing.assert_close(compiled.params, eager.params, rtol=0, atol=1e-9)
    torch.testing.assert_close(compiled.training.values, eager.training.values, rtol=0, atol=1e-9)
    assert torch.equal(compiled.accuracy.nan_to_num(), eager.accuracy.nan_to_num())
