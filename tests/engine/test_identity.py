"""Identities are equal where two freshly built steps compute the same, and differ where anything
static differs.
"""

import functools
import math

import pytest
import torch
from support.zoo import cases

import clfunc as cl
from clfunc.driver.loop import make_step
from clfunc.engine.identity import identity
from clfunc.engine.sweep import part
from clfunc.random import key
from clfunc.testing import toy_stream
from clfunc.testing.play import toy_data
from clfunc.transforms import sgd

NUMBER = torch.tensor(0.1, dtype=torch.float64)


@functools.cache
def built(case):
    return step_of(case, case.make)


def step_of(case, make):
    return make_step(case.build(make, sgd(0.1, 0.9)), case.scenario(), None)


@pytest.mark.parametrize("case", cases, ids=lambda case: case.name)
def test_every_algorithm_built_again_has_the_same_step_whatever_its_numbers(case):
    again = step_of(case, case.vary or case.make)
    assert built(case) is not again
    assert built(case) == again and hash(built(case)) == hash(again)


def test_no_two_algorithms_have_one_step():
    found = {}
    for case in cases:
        found.setdefault(built(case), []).append(case.name)
    assert [names for names in found.values() if len(names) > 1] == []


def test_a_sweep_built_again_has_the_same_step_and_its_number_of_runs_counts():
    scenario = toy_stream()

    def step_of_a_sweep(*rates):
        model = cl.mlp(scenario.inputs, (3,), scenario.head())
        members = [cl.finetuning(model, sgd(rate)) for rate in rates]
        return make_step(cl.sweep(members), scenario, len(rates))

    made = step_of_a_sweep(0.1, 0.2)
    assert made == step_of_a_sweep(0.1, 0.3) == step_of_a_sweep(0.4, 0.1)
    assert made != step_of_a_sweep(0.1, 0.2, 0.3)


def test_all_parts_of_one_size_of_a_sweep_have_one_step():
    scenario = toy_stream()
    model = cl.mlp(scenario.inputs, (3,), scenario.head())
    whole = cl.sweep([cl.finetuning(model, sgd(rate)) for rate in (0.1, 0.2, 0.3, 0.4)])
    steps = [make_step(part(whole, runs), scenario, 2) for runs in ([0, 1], [2, 3], [3, 1])]
    assert steps[0] == steps[1] == steps[2]


def simple_loss(logits, batch):
    return logits.square().mean()


def finetuned(tx=None, num_tasks=3, paradigm="til", **more):
    scenario = cl.scenarios.permuted(toy_data(), num_tasks, key(0), paradigm=paradigm)
    settings = {"hidden": (8, 6), "head": scenario.head()} | more
    loss = settings.pop("loss", None)
    model = cl.mlp(scenario.inputs, **settings)
    algorithm = cl.finetuning(model, tx or sgd(0.1), **({"loss": loss} if loss else {}))
    return make_step(algorithm, scenario, None)


def masked(**mask):
    return cl.chain(sgd(0.1), cl.mask_updates(mask))


DIFFERENT = {
    "width": {"hidden": (8, 7)},
    "depth": {"hidden": (8, 6, 6)},
    "activation": {"activation": "tanh"},
    "norm": {"norm": "layer"},
    "dropout": {"dropout_rate": 0.5},
    "dtype": {"dtype": torch.float64},
    "number of tasks": {"num_tasks": 4},
    "paradigm": {"paradigm": "cil"},
    "loss": {"loss": simple_loss},
    "another loss": {"loss": lambda logits, y, weight: logits.square().sum()},
    "momentum": {"tx": sgd(0.1, 0.9)},
    "optimiser": {"tx": cl.adam(0.1)},
    "mask": {"tx": masked(hidden1=False)},
    "another mask": {"tx": masked(hidden2=False)},
    "chain": {"tx": cl.chain(sgd(0.1), cl.clip_by_global_norm(1.0))},
}


def test_algorithms_that_differ_in_anything_static_never_have_one_step():
    steps = {name: finetuned(**more) for name, more in DIFFERENT.items()}
    steps["as it is"] = finetuned()
    assert len(set(steps.values())) == len(steps)


def test_a_function_of_a_user_is_known_by_the_object_that_it_is():
    def make():
        return lambda logits, y, weight: logits.square().mean()

    assert finetuned(loss=simple_loss) == finetuned(loss=simple_loss)
    assert finetuned(loss=make()) != finetuned(loss=make())


def test_an_algorithm_whose_step_or_view_was_replaced_shares_nothing_with_the_one_before():
    scenario = toy_stream()
    algorithm = cl.finetuning(cl.mlp(scenario.inputs, (3,), scenario.head()), sgd(0.1))

    def replaced():
        return algorithm._replace(step=lambda params, state, batch: (params, state, {}))

    def seen_twice():
        return scenario._replace(view=lambda view, x, y: scenario.view(view, 2 * x, y))

    steps = [make_step(algorithm, scenario, None)]
    steps += [make_step(replaced(), scenario, None) for _ in range(2)]
    steps += [make_step(algorithm, seen_twice(), None) for _ in range(2)]
    assert len(set(steps)) == 5


def test_a_part_without_settings_is_known_by_its_functions():
    tx = sgd(0.1)._replace(settings={})

    def lazy(updates, state, params, context):
        return tx.update(updates, state, params, context)

    def other(updates, state, params, context):
        return cl.tree.zeros_like(updates), state

    steps = {
        finetuned(tx),
        finetuned(tx._replace(update=lazy)),
        finetuned(tx._replace(update=other)),
    }
    assert len(steps) == 3


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ("1", 1),
        ((1, 2), [1, 2]),
        ([1, [2]], [1, 2]),
        ([[], []], [[[]]]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),  # leaves are in the order of a dict
        ({"a": None}, {}),
        (torch.float32, torch.float64),
        (torch.tensor([1.0]), torch.tensor([2.0])),
        (torch.tensor([1.0]), torch.tensor([1])),
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (torch.tensor(1), torch.tensor(2)),
        (torch.tensor(True), torch.tensor(False)),
        (NUMBER, 0.1),
        (NUMBER, NUMBER.float()),
        (functools.partial(simple_loss, y=1), functools.partial(simple_loss, y=2)),
        (object(), object()),
    ],
)
def test_values_that_are_not_the_same_have_two_identities(a, b):
    assert identity(a) != identity(b)
    assert identity([a, 1]) != identity([b, 1])


def test_values_that_are_the_same_have_one_identity():
    def build():
        return {
            "number": torch.tensor(math.pi, dtype=torch.float64),
            "mask": {"hidden1": torch.tensor([True, False])},
            "nan": float("nan"),
            "set": frozenset("abc"),
            "function": simple_loss,
            "partial": functools.partial(simple_loss, y=(1, "a")),
        }

    assert identity(build()) == identity(build())
    assert hash(identity(build())) == hash(identity(build()))
    assert identity(NUMBER) == identity(2 * NUMBER)


def test_a_value_that_holds_itself_has_an_identity():
    def build(size):
        circle = list(range(size))
        circle.append(circle)
        return circle

    assert identity(build(2)) == identity(build(2)) != identity(build(3))
