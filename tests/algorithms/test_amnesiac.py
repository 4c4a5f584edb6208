"""Amnesiac unlearning against a list of every update, and the algebra of its records."""

from functools import cache

import pytest
import torch
from support.forgetting import assert_each_run_forgets_as_alone
from support.hats import parts_of

from clfunc import (
    adam,
    amnesiac,
    carry,
    cbp,
    cil,
    dil,
    finetuning,
    fix,
    hat,
    independent,
    joint,
    l2_init,
    mlp,
    mtl,
    reduce_on_plateau,
    scenarios,
    sgd,
    shrink_and_perturb,
    til,
    tree,
)
from clfunc.hard_attention.method import HATState
from clfunc.random import fold_in, key, normal, split
from clfunc.testing.laws import distance, identical
from clfunc.testing.play import toy_data
from clfunc.types import Batch, Task
from clfunc.unlearning.records import every

TASKS, CLASSES, STEPS = 3, 2, 4
HEADS = {"til": til, "cil": cil, "dil": dil}
OPTIMIZERS = {
    "sgd": lambda: sgd(0.1),
    "momentum": lambda: carry(sgd(0.1, 0.9)),
    "adam": lambda: adam(0.01),
}


def _hat(model, tx, **settings):
    shared = {} if model.head.paradigm == "til" else {"freeze_head_after": 2}
    return hat(model, tx, num_tasks=TASKS, s_max=20.0, **shared, **parts_of(settings))


INNER = {
    "finetuning": finetuning,
    "hat": _hat,
    "cbp": lambda m, tx: cbp(m, tx, replacement_rate=0.2, maturity_threshold=2),
}


def _shrinking(inner, hook):
    """`inner`, whose parameters shrink at the end of an epoch or a task too."""

    def shrunk(params, *rest):
        return getattr(inner, hook)(tree.scale(params, 0.9), *rest)

    return inner._replace(**{hook: shrunk})


OTHERS = {
    "shrinking at an epoch's end": lambda m, tx: _shrinking(finetuning(m, tx), "end_epoch"),
    "shrinking at a task's end": lambda m, tx: _shrinking(finetuning(m, tx), "end_task"),
    "hat last": lambda m, tx: _hat(m, tx, task_embedding_init_mode="last"),
    "own norms": lambda m, tx: finetuning(
        mlp(5, (6, 4), m.head, norm="layer", per_task_norm=True, dtype=torch.float64), tx
    ),
    "fix": fix,
    "l2_init": l2_init,
    "independent": lambda m, tx: independent(m, tx, num_tasks=TASKS),
    "shrink_and_perturb each step": lambda m, tx: shrink_and_perturb(
        finetuning(m, tx), 0.1, 0.1, every="step"
    ),
    "shrink_and_perturb": lambda m, tx: shrink_and_perturb(finetuning(m, tx), 0.1, 0.1),
    "reduce_on_plateau": lambda m, tx: reduce_on_plateau(finetuning(m, tx)),
}
every_inner = pytest.mark.parametrize("inner", INNER)
every_other = pytest.mark.parametrize("inner", OTHERS)
every_optimizer = pytest.mark.parametrize("tx", OPTIMIZERS)
every_paradigm = pytest.mark.parametrize("paradigm", HEADS)


def plain(inner="finetuning", tx="momentum", paradigm="til", dtype=torch.float64):
    model = mlp(5, (6, 4), HEADS[paradigm](TASKS, CLASSES), dtype=dtype)
    return (INNER | OTHERS)[inner](model, OPTIMIZERS[tx]())


def make(*args, dtype=torch.float64, **settings):
    return amnesiac(plain(*args, dtype=dtype), num_tasks=TASKS, **settings)


def batch(task, step, paradigm="til", dtype=torch.float64):
    x = normal(fold_in(key(1), task, step), (6, 5), dtype=dtype)
    y = torch.arange(6) % CLASSES + (CLASSES * task if paradigm == "cil" else 0)
    return Batch(x, y, torch.tensor(task), torch.ones(6, dtype=dtype))


def begin(algorithm, carry, task):
    return algorithm.begin_task(*carry, Task(*torch.tensor([task, STEPS, 1])))


def whole(algorithm, carry):
    """All parameters there are: those that tasks share, and each task's own."""
    own = algorithm.bank.rows(*carry)
    return {group: part for group, part in carry[0].items() if group not in own} | own


def train(algorithm, tasks=range(TASKS), paradigm="til", dtype=torch.float64, carry=None):
    carry = carry or algorithm.init(key(0))
    for task in tasks:
        carry = begin(algorithm, carry, task)
        for step in range(STEPS):
            *carry, metrics = algorithm.step(*carry, batch(task, step, paradigm, dtype))
        carry = algorithm.end_task(*algorithm.end_epoch(*carry, metrics))
    return carry


def asked(*tasks):
    return torch.tensor([task in tasks for task in range(TASKS)])


@cache
def trained(inner, tx, paradigm):
    """An algorithm after all tasks, and the parameters at its start."""
    algorithm = make(inner, tx, paradigm)
    return algorithm, train(algorithm, paradigm=paradigm), whole(algorithm, algorithm.init(key(0)))


@cache
def logged(inner, tx, paradigm, tasks):
    """All parameters after training without any record, and a list of what each step changed."""
    inner = plain(inner, tx, paradigm)
    params, state = inner.init(key(0))
    own = set(inner.bank.rows(params, state))
    theta = {
        g: part
        if g not in own
        else [tree.index(inner.bank.rows(params, state)[g], t) for t in range(TASKS)]
        for g, part in params.items()
    }
    deltas = []
    for task in tasks:
        mine = {g: theta[g][task] for g in own}
        before = {**params, **mine}
        params, state = begin(inner, (params, state), task)
        deltas.append((task, tree.sub(params, before)))
        for step in range(STEPS):
            before = params
            params, state, _ = inner.step(params, state, batch(task, step, paradigm))
            deltas.append((task, tree.sub(params, before)))
        for g in params:
            if g in own:
                theta[g][task] = params[g]
            else:
                theta[g] = params[g]
        params, state = inner.end_task(params, state)
    return theta, own, deltas


def naively(inner, tx, paradigm, gone, tasks=tuple(range(TASKS))):
    """Parameters less every single update of the tasks in `gone`."""
    theta, own, deltas = logged(inner, tx, paradigm, tasks)
    theta = {g: list(part) if g in own else part for g, part in theta.items()}
    for task, delta in deltas:
        for g in delta if task in gone else ():
            if g in own:
                theta[g][task] = tree.sub(theta[g][task], delta[g])
            else:
                theta[g] = tree.sub(theta[g], delta[g])
    return {g: tree.stack(part) if g in own else part for g, part in theta.items()}


@every_paradigm
@every_optimizer
@every_inner
def test_unlearning_takes_off_each_update_of_the_asked_tasks(inner, tx, paradigm):
    algorithm, carry, _ = trained(inner, tx, paradigm)
    for gone in ((0,), (1,), (0, 2)):
        found = whole(algorithm, algorithm.unlearn(*carry, asked(*gone)))
        assert distance(found, naively(inner, tx, paradigm, gone)) < 1e-12
        assert distance(found, whole(algorithm, carry)) > 1e-3


@every_paradigm
@every_optimizer
@every_inner
def test_training_is_the_inner_algorithms_bit_for_bit(inner, tx, paradigm):
    _, (params, state), _ = trained(inner, tx, paradigm)
    assert identical(train(plain(inner, tx, paradigm), paradigm=paradigm), (params, state.inner))


def check_algebra(inner, tx="momentum", paradigm="til"):
    algorithm, carry, start = trained(inner, tx, paradigm)
    records = carry[1].records
    total = tree.map(lambda r: r.sum(0), every(records))
    own = algorithm.bank.rows(*carry)
    for group, part in whole(algorithm, carry).items():
        change = every(records)[group] if group in own else total[group]
        assert distance(tree.add(start[group], change), part) < 1e-12
    assert distance(whole(algorithm, algorithm.unlearn(*carry, asked(0, 1, 2))), start) < 1e-12
    assert identical(algorithm.unlearn(*carry, asked()), tuple(carry))

    one = algorithm.unlearn(*algorithm.unlearn(*carry, asked(0)), asked(2))
    other = algorithm.unlearn(*algorithm.unlearn(*carry, asked(2)), asked(0))
    both = algorithm.unlearn(*carry, asked(0, 2))
    assert distance(one, other) < 1e-12 and distance(one, both) < 1e-12
    assert distance(whole(algorithm, both), whole(algorithm, carry)) > 1e-3
    assert identical(both[1].forgotten, asked(0, 2))
    again = algorithm.unlearn(*both, asked(0, 2))
    assert identical(whole(algorithm, again), whole(algorithm, both)) and identical(
        again[1].records, both[1].records
    )


@every_paradigm
@every_optimizer
@every_inner
def test_start_plus_records_is_the_parameters_and_subsets_commute(inner, tx, paradigm):
    check_algebra(inner, tx, paradigm)


@every_other
def test_so_it_is_around_any_other_algorithm(inner):
    check_algebra(inner)


@every_paradigm
@every_inner
def test_a_task_met_again_adds_to_its_record(inner, paradigm):
    algorithm, tasks = make(inner, "momentum", paradigm), (0, 1, 0, 2, 1)
    carry = train(algorithm, tasks, paradigm)
    for gone in ((0,), (1,), (0, 2)):
        found = whole(algorithm, algorithm.unlearn(*carry, asked(*gone)))
        assert distance(found, naively(inner, "momentum", paradigm, gone, tasks)) < 1e-12


@every_inner
def test_a_task_trained_again_after_it_was_forgotten_is_recorded_anew(inner):
    algorithm = make(inner)
    forgotten = algorithm.unlearn(*train(algorithm), asked(0))
    again = train(algorithm, (0,), carry=forgotten)
    assert not again[1].forgotten.any()
    undone = algorithm.unlearn(*again, asked(0))
    assert distance(whole(algorithm, again), whole(algorithm, forgotten)) > 1e-3
    assert distance(whole(algorithm, undone), whole(algorithm, forgotten)) < 1e-12


@every_optimizer
@every_inner
@pytest.mark.parametrize("precision", ["params", "float64"])
def test_in_float32_the_start_comes_back_to_rounding(inner, tx, precision):
    algorithm = make(inner, tx, dtype=torch.float32, precision=precision)
    start = whole(algorithm, algorithm.init(key(0)))
    carry = train(algorithm, dtype=torch.float32)
    back = whole(algorithm, algorithm.unlearn(*carry, asked(0, 1, 2)))
    largest = max(
        float(leaf.abs().max()) for c in (start, whole(algorithm, carry)) for leaf in tree.leaves(c)
    )
    unit = torch.finfo(torch.float32).eps / 2
    bound = TASKS * STEPS * unit * largest if precision == "params" else 0.0
    assert (
        max(
            float((a - b).abs().max())
            for a, b in zip(tree.leaves(back), tree.leaves(start), strict=True)
        )
        <= bound
    )


def test_a_forgotten_tasks_head_is_its_start_and_no_other_head_moves():
    algorithm = make("finetuning", "adam")
    start, carry = algorithm.bank.rows(*algorithm.init(key(0)))["head"], train(algorithm)
    for task in range(TASKS):
        params, state = algorithm.unlearn(*carry, asked(task))
        for other in range(TASKS):
            head, before = (
                tree.index(algorithm.bank.rows(*c)["head"], other) for c in ((params, state), carry)
            )
            assert (
                identical(head, before)
                if other != task
                else distance(head, tree.index(start, task)) < 1e-12
            )
            x = batch(other, 0).x
            seen = algorithm.predict(params, state, x, torch.tensor(other))
            model = mlp(5, (6, 4), til(TASKS, CLASSES), dtype=torch.float64)
            assert (
                distance(seen, model.apply({**params, "head": head}, x, torch.tensor(other)).logits)
                < 1e-12
            )


def test_classes_of_a_forgotten_task_are_unseen_until_it_is_trained_again():
    algorithm = make("finetuning", "sgd", "cil")
    params, state = algorithm.unlearn(*train(algorithm, paradigm="cil"), asked(1))
    assert algorithm.predict(params, state, batch(0, 0).x, torch.tensor(0))[
        0
    ].isfinite().tolist() == [1, 1, 0, 0, 1, 1]
    params, state = train(algorithm, (1,), "cil", carry=(params, state))
    assert algorithm.predict(params, state, batch(0, 0).x, torch.tensor(0)).isfinite().all()


def test_unlearning_in_the_middle_of_a_task_takes_off_what_it_has_added_so_far():
    algorithm = make("finetuning", "adam")
    before = train(algorithm, (0,))
    carry = begin(algorithm, before, 1)
    for step in range(2):
        *carry, _ = algorithm.step(*carry, batch(1, step))
    undone = algorithm.unlearn(*carry, asked(1))
    assert distance(whole(algorithm, undone), whole(algorithm, before)) < 1e-12
    assert distance(undone[0]["head"], tree.index(algorithm.bank.rows(*before)["head"], 1)) < 1e-12


@every_inner
@pytest.mark.parametrize("tx", ["momentum", "adam"])
def test_the_optimisers_memory_is_kept_or_that_of_the_start(inner, tx):
    for choice in ("keep", "reset"):
        algorithm = make(inner, tx, optimizer_state=choice)
        first, carry = algorithm.init(key(0))[1], train(algorithm)
        for gone in (asked(), asked(1)):
            state = algorithm.unlearn(*carry, gone)[1]
            reset = choice == "reset" and gone.any()
            assert identical(state.inner.opt, first.inner.opt if reset else carry[1].inner.opt)
            assert not identical(first.inner.opt, carry[1].inner.opt)


def test_a_reset_leaves_the_rates_as_they_are_in_whatever_wrapper():
    model = mlp(5, (6, 4), til(TASKS, CLASSES), dtype=torch.float64)
    inner = reduce_on_plateau(
        finetuning(model, carry(sgd(0.1, 0.9))), 0.5, patience=0, threshold=0.9
    )
    algorithm = amnesiac(inner, num_tasks=TASKS, optimizer_state="reset")
    carry_ = begin(algorithm, algorithm.init(key(0)), 0)
    for step in range(STEPS):
        *carry_, metrics = algorithm.step(*carry_, batch(0, step))
        carry_ = algorithm.end_epoch(*carry_, metrics)
    opt = algorithm.unlearn(*carry_, asked(0))[1].inner.inner.opt
    assert 0 < float(opt.lr) == float(carry_[1].inner.inner.opt.lr) < 0.1
    assert all((leaf == 0).all() for leaf in tree.leaves(opt.trace))


@every_inner
def test_each_run_of_a_sweep_forgets_its_own_tasks(inner):
    members, gone = (
        [make(inner, "momentum") for _ in range(3)],
        torch.stack([asked(0), asked(), asked(1, 2)]),
    )
    before, after = assert_each_run_forgets_as_alone(
        members, split(key(5), 3), gone, batch, TASKS, STEPS
    )
    assert identical(tree.index(after, 1), tree.index(before, 1))


def test_without_records_it_is_the_inner_algorithm():
    algorithm = make("finetuning", record=False)
    assert algorithm.unlearn is None and identical(train(algorithm), train(plain("finetuning")))
    assert algorithm.settings["records"] is False


def test_what_no_update_can_do_to_hat_it_does_not_undo():
    """Strict HAT: forgetting a task leaves every earlier task's logits their very bits, and frees
    what it alone used.
    """
    for tx in OPTIMIZERS:
        algorithm = make("hat", tx, dtype=torch.float32)
        carry = train(algorithm, dtype=torch.float32)
        x = batch(0, 0, dtype=torch.float32).x
        for task in (1, 2):
            undone = algorithm.unlearn(*carry, asked(task))
            for earlier in range(task):
                t = torch.tensor(earlier)
                assert identical(algorithm.predict(*undone, x, t), algorithm.predict(*carry, x, t))
        state: HATState = undone[1].inner
        for group, used in state.attention.used.items():
            rest = (state.attention.rows[group][:2] > 0).any(0)
            assert torch.equal(used > 0, rest) and not state.attention.met[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_tasks": 0}, "num_tasks must be a whole number of at least 1, given 0"),
        (
            {"num_tasks": TASKS + 1},
            f"num_tasks must be {TASKS}, as many as inner has heads for, given {TASKS + 1}",
        ),
        (
            {"num_tasks": TASKS - 1},
            f"num_tasks must be {TASKS}, as many as inner has heads for, given {TASKS - 1}",
        ),
        ({"optimizer_state": "drop"}, "optimizer_state must be one of keep, reset, given 'drop'"),
        ({"precision": "half"}, "precision must be one of params, float64, given 'half'"),
    ],
)
def test_impossible_arguments_are_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        amnesiac(plain(), **({"num_tasks": TASKS} | change))


def test_an_algorithm_that_mixes_tasks_is_refused():
    model = mlp(5, (6, 4), mtl(TASKS, CLASSES))
    with pytest.raises(ValueError, match=r"^amnesiac records updates by task, and joint mixes"):
        amnesiac(joint(model, sgd(0.1)), num_tasks=TASKS)


def test_one_that_can_unlearn_is_not_wrapped_again():
    with pytest.raises(
        ValueError, match=r"^amnesiac wraps what cannot unlearn yet, given amnesiac, which can$"
    ):
        amnesiac(amnesiac(plain(), num_tasks=TASKS), num_tasks=TASKS)


def test_a_scenarios_batches_say_which_rows_they_are_of():
    scenario = scenarios.permuted(toy_data(), 2, key(0))
    made = scenario.batch(scenario.data, scenario.train(1), torch.tensor([3, 1]))
    assert made.rows.tolist() == [3, 1]
