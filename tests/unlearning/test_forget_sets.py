"""Forgetting below the task: every update in one record, whatever is asked, against a list of every update."""

import pytest
import torch

from clfunc import (
    Request,
    amnesiac,
    carry,
    cil,
    dil,
    finetuning,
    mlp,
    run,
    scenarios,
    sgd,
    sweep,
    til,
    tree,
)
from clfunc.models.heads import regression
from clfunc.random import fold_in, key, normal, split
from clfunc.testing.laws import distance, identical
from clfunc.testing.play import toy_data, toy_stream
from clfunc.types import Batch, Task
from clfunc.unlearning import forget_sets as requests
from clfunc.unlearning.records import every

TASKS, STEPS = 2, 6
HEADS = {"til": til, "cil": cil, "dil": dil}
# labels of each step of a task, and rows: so that by step 0 is of class 0, 1 of classes 0 and 1, and so on
LABELS = ((0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 2))
DECLARED = {
    "zero": Request(0, classes=(0,)),
    "one": Request(0, classes=(1,)),
    "late": Request(1, examples=(104, 105, 99)),
    "by hand": Request(1, concerns=lambda batch: batch.rows == 102),
}
TOUCHED = {
    "zero": {(0, 0), (0, 1)},
    "one": {(0, 1), (0, 2), (0, 3)},
    "late": {(1, 4), (1, 5)},
    "by hand": {(1, 2)},
}


def make(paradigm="til", **settings):
    model = mlp(5, (6, 4), HEADS[paradigm](TASKS, 3), dtype=torch.float64)
    inner = finetuning(model, carry(sgd(0.1, 0.9)))
    return inner, amnesiac(
        inner, num_tasks=TASKS, requests=settings.pop("requests", DECLARED), **settings
    )


def batch(task, step, paradigm="til"):
    y = torch.tensor(LABELS[step]) + (3 * task if paradigm == "cil" else 0)
    rows = 100 * task + step + torch.tensor([0, 50])
    x = normal(fold_in(key(1), task, step), (2, 5), dtype=torch.float64)
    return Batch(x, y, torch.tensor(task), torch.ones(2, dtype=torch.float64), rows)


def begin(algorithm, carry, task):
    return algorithm.begin_task(*carry, Task(*torch.tensor([task, STEPS, 1])))


def whole(algorithm, carry):
    own = algorithm.bank.rows(*carry)
    return {group: part for group, part in carry[0].items() if group not in own} | own


def train(algorithm, paradigm="til", tasks=range(TASKS), start=None):
    """After training, and the change of all parameters at each step, by `(task, step)`."""
    carry, changes = start or algorithm.init(key(0)), {}
    for task in tasks:
        carry = begin(algorithm, carry, task)
        for step in range(STEPS):
            before = whole(algorithm, carry)
            *carry, _ = algorithm.step(*carry, batch(task, step, paradigm))
            changes[task, step] = tree.sub(whole(algorithm, carry), before)
        carry = algorithm.end_task(*carry)
    return carry, changes


def without(algorithm, carry, changes, steps):
    theta = whole(algorithm, carry)
    for step in steps:
        theta = tree.sub(theta, changes[step])
    return theta


def of_task(task):
    return {(task, step) for step in range(STEPS)}


@pytest.mark.parametrize("paradigm", HEADS)
@pytest.mark.parametrize(
    ("tasks", "names", "gone"),
    [
        ((), (), set()),
        ((), ("zero",), TOUCHED["zero"]),
        ((), ("zero", "one"), TOUCHED["zero"] | TOUCHED["one"]),
        ((), ("late",), TOUCHED["late"]),
        ((), ("by hand", "zero"), TOUCHED["by hand"] | TOUCHED["zero"]),
        ((0,), (), of_task(0)),
        ((0,), ("zero", "late"), of_task(0) | TOUCHED["late"]),
        ((0, 1), ("one",), of_task(0) | of_task(1)),
    ],
    ids=str,
)
def test_a_request_takes_off_every_batch_that_touched_it_and_a_task_all_of_its_own(
    paradigm, tasks, names, gone
):
    inner, algorithm = make(paradigm)
    carry, _ = train(algorithm, paradigm)
    wanted = requests.asked(TASKS, DECLARED, tasks, names)
    requests.check(DECLARED, carry[1].records.held, wanted)
    found = whole(algorithm, algorithm.unlearn(*carry, wanted))
    expected = without(algorithm, carry, train(inner, paradigm)[1], gone)
    assert distance(found, expected) < 1e-12
    assert gone == set() or distance(found, whole(algorithm, carry)) > 1e-3


@pytest.mark.parametrize("paradigm", HEADS)
def test_a_request_and_then_its_task_take_nothing_off_twice(paradigm):
    _, algorithm = make(paradigm)
    carry, changes = train(algorithm, paradigm)
    start = whole(algorithm, algorithm.init(key(0)))
    for first, then in (("zero", 0), ("late", 1)):
        one = algorithm.unlearn(*carry, requests.asked(TASKS, DECLARED, (), (first,)))
        both = algorithm.unlearn(*one, requests.asked(TASKS, DECLARED, (then,)))
        assert (
            distance(whole(algorithm, both), without(algorithm, carry, changes, of_task(then)))
            < 1e-12
        )
        again = algorithm.unlearn(*both, requests.asked(TASKS, DECLARED, (then,), (first,)))
        assert identical(whole(algorithm, again), whole(algorithm, both))
    all_of_it = algorithm.unlearn(*carry, torch.ones(TASKS, dtype=torch.bool))
    assert distance(whole(algorithm, all_of_it), start) < 1e-12 and all_of_it[1].forgotten.all()


@pytest.mark.parametrize("paradigm", HEADS)
def test_training_is_the_same_and_every_update_is_in_one_record(paradigm):
    inner, algorithm = make(paradigm)
    (params, state), changes = train(algorithm, paradigm)
    assert identical(train(inner, paradigm)[0], (params, state.inner))
    start, records, own = (
        whole(algorithm, algorithm.init(key(0))),
        every(state.records),
        algorithm.bank.rows(params, state),
    )
    rows = [of_task(t) - set().union(*TOUCHED.values()) for t in range(TASKS)]
    rows += [TOUCHED["zero"], TOUCHED["one"] - TOUCHED["zero"], TOUCHED["late"], TOUCHED["by hand"]]
    for row, steps in enumerate(rows):
        total = tree.zeros_like(start)
        for step in steps:
            total = tree.add(total, changes[step])
        total = {
            g: part if g not in own else tree.map(lambda leaf: leaf.sum(0), part)
            for g, part in total.items()
        }
        assert distance(tree.index(records, row), total) < 1e-12
    assert state.records.held.tolist() == [[2, 0, 0, 0], [1, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]


def test_a_request_whose_batches_are_recorded_for_another_is_refused_alone_and_met_with_it_or_after_it():
    _, algorithm = make()
    carry, _ = train(algorithm)
    wanted = requests.asked(TASKS, DECLARED, (), ("one",))
    with pytest.raises(
        ValueError, match=r"^'one' shares 1 batch\(es\) with 'zero': ask for both, or declare one$"
    ):
        requests.check(DECLARED, carry[1].records.held, wanted)
    many = torch.stack([carry[1].records.held] * 2)
    with pytest.raises(ValueError, match=r"^'one' shares 1 batch"):
        requests.check(DECLARED, many, torch.stack([torch.zeros_like(wanted), wanted]))
    carry = algorithm.unlearn(*carry, requests.asked(TASKS, DECLARED, (), ("zero",)))
    requests.check(DECLARED, carry[1].records.held, wanted)
    undone = algorithm.unlearn(*carry, wanted)
    assert undone[1].forgotten.tolist() == [False, False, True, True, False, False]


def test_a_request_touched_again_is_no_longer_forgotten_and_can_be_forgotten_again():
    _, algorithm = make()
    wanted = requests.asked(TASKS, DECLARED, (), ("late",))
    carry = algorithm.unlearn(*train(algorithm)[0], wanted)
    again, changes = train(algorithm, tasks=(1,), start=carry)
    assert not again[1].forgotten.any()
    undone = whole(algorithm, algorithm.unlearn(*again, wanted))
    assert distance(undone, without(algorithm, again, changes, TOUCHED["late"])) < 1e-12


def test_an_example_of_weight_zero_touches_nothing():
    made = batch(0, 1)._replace(weight=torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert requests.touched(DECLARED, made).tolist() == [False, True, False, False]
    assert requests.touched(DECLARED, batch(1, 4)).tolist() == [False, False, True, False]


def test_each_run_of_a_sweep_forgets_its_own_requests():
    _, algorithm = make()
    many, keys = sweep([algorithm] * 2), split(key(0))
    alone = [algorithm.init(k) for k in keys]
    params, state = many.init(keys)
    params, state = many.begin_task(
        params, state, Task(*torch.tensor([0, STEPS, 1])[:, None].expand(3, 2))
    )
    alone = [begin(algorithm, c, 0) for c in alone]
    for step in range(STEPS):
        params, state, _ = many.step(params, state, tree.stack([batch(0, step)] * 2))
        alone = [algorithm.step(*c, batch(0, step))[:2] for c in alone]
    wanted = torch.stack(
        [requests.asked(TASKS, DECLARED, (), names) for names in (("zero",), ("zero", "one"))]
    )
    together = many.unlearn(params, state, wanted)
    for i, c in enumerate(alone):
        assert distance(tree.index(together, i), algorithm.unlearn(*c, wanted[i])) < 1e-11


def test_a_class_is_forgotten_of_a_real_run():
    scenario = toy_stream(num_tasks=1, paradigm="dil")
    three = {"class 2": Request(0, classes=(2,))}
    inner = finetuning(mlp(scenario.inputs, (8,), scenario.head()), sgd(0.1))
    result = run(
        amnesiac(inner, num_tasks=1, requests=three),
        scenario,
        key(0),
        engine="eager",
        batch_size=2,
        epochs=3,
        progress=False,
    )
    params, state = result.params, result.state
    wanted = requests.asked(1, three, (), ("class 2",))
    less, _ = amnesiac(inner, num_tasks=1, requests=three).unlearn(params, state, wanted)
    test = scenario.test(0)
    made = scenario.batch(scenario.data, test, test.test)
    of_class = made.y == 2

    def right(params):
        return (inner.predict(params, state.inner, made.x, made.task).argmax(1) == made.y).to(
            torch.float64
        )

    assert right(params)[of_class].mean() > 0.8 and right(less)[of_class].mean() < 0.2


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"a": Request(2, classes=(1,))}, r"request 'a' must be of a task in 0\.\.1, given 2"),
        (
            {"a": Request(0, classes=(99,))},
            r"request 'a' must name classes of task 0, 0\.\.2, given 99",
        ),
        (
            {"a": Request(1, classes=(2, 3))},
            r"request 'a' must name classes of task 1, 0\.\.2, given 3",
        ),
        (
            {"a": Request(0, classes=(-1,))},
            r"request 'a' must name classes of task 0, 0\.\.2, given -1",
        ),
        ({"a": Request(0, classes=3)}, "request 'a' must list classes or examples, such as .*"),
        (
            {"a": Request(0)},
            "request 'a' must name either classes, examples or a function, given .*",
        ),
        (
            {"a": Request(0, (1,), (2,))},
            "request 'a' must name either classes, examples or a function, given .*",
        ),
        (
            {"a": Request(0, (1, 2)), "b": Request(0, (2, 0))},
            "requests 'a' and 'b' both concern 2 of task 0: declare one",
        ),
        (
            {"a": Request(0, examples=(7,)), "b": Request(0, examples=(7, 8))},
            "requests 'a' and 'b' both concern 7 of task 0: declare one",
        ),
    ],
)
def test_requests_that_cannot_be_met_are_refused_in_one_line(declared, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make(requests=declared)


def test_under_one_head_over_all_classes_a_task_has_its_own():
    make("cil", requests={"a": Request(0, (0, 2)), "b": Request(1, (3, 5))})
    for task, label, own in ((0, 3, "0..2"), (1, 2, "3..5"), (1, 6, "3..5")):
        with pytest.raises(
            ValueError,
            match=f"^request 'a' must name classes of task {task}, {own}, given {label}$",
        ):
            make("cil", requests={"a": Request(task, (label,))})


def test_numbers_have_no_classes_to_forget():
    inner = finetuning(mlp(5, (6, 4), regression(TASKS)), sgd(0.1))
    with pytest.raises(
        ValueError,
        match=r"^request 'a' names classes, and a regression head has none: name examples$",
    ):
        amnesiac(inner, num_tasks=TASKS, requests={"a": Request(0, classes=(0,))})
    amnesiac(inner, num_tasks=TASKS, requests={"a": Request(0, examples=(0,))})


def test_a_mask_may_stop_short_and_not_go_on():
    _, algorithm = make()
    begun = algorithm.init(key(0))
    count = TASKS + len(DECLARED)
    for size in (0, 1, TASKS, count):
        algorithm.unlearn(*begun, torch.zeros(size, dtype=torch.bool))
    with pytest.raises(
        ValueError, match=r"^there are 6 tasks and requests to forget, given a mask of 7$"
    ):
        algorithm.unlearn(*begun, torch.zeros(count + 1, dtype=torch.bool))


def test_the_same_class_of_two_tasks_makes_two_requests():
    make(requests={"a": Request(0, (1,)), "b": Request(1, (1,))})


def test_what_there_is_not_cannot_be_asked_for():
    for tasks, names, given in (((2,), (), "2"), ((), ("zeros",), "'zeros'")):
        with pytest.raises(
            ValueError,
            match=rf"^there is no {given} to forget: one of 0, 1, zero, one, late, by hand$",
        ):
            requests.asked(TASKS, DECLARED, tasks, names)


def test_examples_need_batches_that_say_which_they_are():
    with pytest.raises(
        ValueError, match=r"^request 'late' names examples, given a batch without `rows`"
    ):
        requests.touched(DECLARED, batch(1, 0)._replace(rows=()))


def test_rows_are_those_of_the_data_set_in_every_scenario():
    scenario = scenarios.joint(scenarios.permuted(toy_data(), 2, key(0)))
    stream = scenario.train(0)
    made = scenario.batch(scenario.data, stream, stream.train[:5])
    assert identical(made.rows, stream.train[:5] % len(scenario.data.y))


@pytest.mark.compiled
def test_a_compiled_step_records_requests_as_an_eager_one():
    _, algorithm = make()
    carry = begin(algorithm, algorithm.init(key(0)), 0)
    step = torch.compile(algorithm.step, fullgraph=True)
    for number in range(4):
        expected = algorithm.step(*carry, batch(0, number))
        torch.testing.assert_close(step(*carry, batch(0, number)), expected, rtol=1e-12, atol=1e-12)
        *carry, _ = expected
