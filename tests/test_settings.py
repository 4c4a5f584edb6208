"""Settings tell two parts apart: by value, functions by identity in a process and by description on
disk.
"""

import functools
import operator

import pytest
import torch
from torch.nn.functional import cross_entropy, relu

import clfunc as cl
from clfunc.settings import (
    declares,
    described,
    digest,
    find,
    first_difference,
    items,
    named,
    numbers,
    of_part,
    plain,
    shown,
)


def square(x):
    return x * x


def closing_over(value):
    return lambda x: x * value


class Caller:
    def __call__(self, x):
        return x

    def method(self, x):
        return x


def test_a_function_is_described_by_its_name_and_its_code():
    assert described(square) == described(square)
    assert described(square).startswith(f"{__name__}.square ")


def test_two_functions_of_one_name_and_other_code_are_told_apart():
    first, second = (lambda x: x + 1), (lambda x: x + 2)
    other_constant = {described(first), described(second)}
    assert len(other_constant) == 2
    third, fourth = (lambda x, n=1: x + n), (lambda x, n=2: x + n)
    other_default = {described(third), described(fourth)}
    assert len(other_default) == 2


def test_functions_within_a_function_count_as_its_code():
    def makes(n):
        return {1: (lambda: [(lambda x: x + 1)]), 2: (lambda: [(lambda x: x + 2)])}[n]

    assert described(makes(1)) != described(makes(2))


def test_a_partial_is_its_function_and_what_it_was_given():
    assert described(functools.partial(square, x=1)) != described(functools.partial(square, x=2))
    assert described(square) in described(functools.partial(square, 1))


@pytest.mark.parametrize("function", [torch.tanh, relu, cross_entropy, operator.add, len])
def test_builtins_and_the_functions_of_torch_have_descriptions(function):
    assert function.__name__ in described(function)


@pytest.mark.parametrize(
    "function",
    [closing_over(2), Caller(), Caller().method, functools.partial(closing_over(1), 2)],
    ids=["closure", "object", "method", "partial of a closure"],
)
def test_what_holds_values_is_refused_with_the_way_to_name_it(function):
    with pytest.raises(ValueError, match=r"holds values of its own.*give cl.named\(") as error:
        described(function)
    assert "\n" not in str(error.value)


def test_a_name_describes_what_has_no_description():
    double = cl.named("times 2", closing_over(2))
    assert double(4) == 8
    assert described(double) == "named: times 2" and shown(double) == "times 2"


def test_a_name_does_not_make_two_functions_equal_within_a_process():
    first, second = named("times", closing_over(2)), named("times", closing_over(3))
    assert first_difference({"f": first}, {"f": second}) == ("f", first, second)


def test_numbers_may_differ_and_nothing_else():
    a = {"lr": torch.tensor(0.1), "inner": {"name": "sgd", "words": ["a", "b"]}, "f": square}
    assert first_difference(a, a | {"lr": torch.tensor(0.2)}) is None
    assert first_difference(a, a | {"f": len}) == ("f", square, len)
    other = a | {"inner": {"name": "sgd", "words": ["a", "c"]}}
    assert first_difference(a, other) == ("inner.words.1", "b", "c")
    assert first_difference(a, a | {"more": 1}) == ("more", None, 1)


def test_one_number_and_true_are_not_the_same_setting():
    assert first_difference({"a": 1}, {"a": True}) == ("a", 1, True)
    assert first_difference({"a": []}, {"a": [1]}) is not None


def test_what_a_part_declares_is_found_however_deep():
    nest = {"name": "outer", "of": [{"name": "a"}, {"tx": {"name": "b", "place": "last"}}]}
    assert declares(nest, "place", "last") == "b"
    assert declares(nest, "place", "first") is None
    assert declares({"records": torch.tensor(0.0)}, "records", False) is None
    assert declares({"name": "a", "records": False}, "records", False) == "a"
    assert declares({"records": 0}, "records", False) is None


def test_a_setting_is_found_however_deep_and_the_outermost_first():
    nest = {"name": "outer", "inner": {"num_tasks": 3, "inner": {"num_tasks": 4}}}
    assert find(nest, "num_tasks") == 3
    assert find({"members": [nest, nest]}, "num_tasks") == 3
    assert find(nest, "head") is None


def test_the_items_of_settings_have_dotted_names():
    nest = {"a": {"b": [1, 2]}, "c": [], "d": torch.tensor(0.5)}
    assert [name for name, _ in items(nest)] == ["a.b.0", "a.b.1", "c", "d"]
    assert numbers(nest) == {"d": 0.5}


def test_a_digest_tells_values_dtypes_and_names_apart():
    mask = {"hidden1": {"weight": torch.tensor([True, False])}}
    same = {"hidden1": {"weight": torch.tensor([True, False])}}
    others = [
        {"hidden1": {"weight": torch.tensor([True, True])}},
        {"hidden1": {"weight": torch.tensor([1, 0])}},
        {"hidden1": {"weight": torch.tensor([[True, False]])}},
        {"hidden2": {"weight": torch.tensor([True, False])}},
    ]
    assert digest(mask) == digest(same)
    assert all(digest(mask) != digest(other) for other in others)


def test_plain_settings_hold_numbers_and_descriptions():
    given = {"lr": torch.tensor(0.5), "f": torch.tanh, "list": [1, None, "a"], "dtype": "x"}
    assert plain(given) == given | {"lr": 0.5, "f": described(torch.tanh)}


def model(**more):
    return cl.mlp(4, (3,), cl.dil(2, 3), **more)


def test_a_part_without_settings_is_known_by_its_function():
    made = model()
    own = cl.Model(made.init, made.apply, made.wires, made.units, made.head)
    assert of_part(own, own.apply) == {"function": own.apply}
    algorithm = cl.finetuning(own, cl.sgd(0.1))
    assert algorithm.settings["model"] == {"function": own.apply}


def mean_of_squares(logits, batch):
    return logits.square().mean()


def other_mean(logits, batch):
    return logits.square().mean() / 2


DIFFERENT = {
    "loss": [
        lambda: cl.finetuning(model(), cl.sgd(0.1), loss=mean_of_squares),
        lambda: cl.finetuning(model(), cl.sgd(0.1), loss=other_mean),
        lambda: cl.finetuning(model(), cl.sgd(0.1)),
    ],
    "loss of the head": [
        lambda: cl.finetuning(
            cl.mlp(4, (3,), cl.dil(2, 3)._replace(loss=mean_of_squares)), cl.sgd(0.1)
        ),
        lambda: cl.finetuning(model(), cl.sgd(0.1)),
    ],
    "mask": [
        lambda: cl.finetuning(model(), cl.mask_updates({"hidden1": False})),
        lambda: cl.finetuning(model(), cl.mask_updates({"head": False})),
        lambda: cl.finetuning(model(), cl.mask_updates({"hidden1": True})),
    ],
    "model of a reset": [
        lambda: cl.finetuning(model(), cl.reset_dormant(model(), cl.sgd(0.1))),
        lambda: cl.finetuning(model(), cl.reset_dormant(model(activation="tanh"), cl.sgd(0.1))),
    ],
    "transforms of a user": [
        lambda: cl.finetuning(model(), cl.sgd(0.1)._replace(settings={})),
        lambda: cl.finetuning(model(), cl.adam(0.1)._replace(settings={})),
    ],
    "algorithms of a user": [
        lambda: cl.finetuning(model(), cl.sgd(0.1))._replace(settings={}),
        lambda: cl.fix(model(), cl.sgd(0.1))._replace(settings={}),
    ],
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_parts_that_differ_are_never_taken_for_equal(name):
    made = [make() for make in DIFFERENT[name]]
    for i, first in enumerate(made):
        for second in made[i + 1 :]:
            with pytest.raises(ValueError, match="members of a sweep must differ in numbers only"):
                cl.sweep([first, second])


def test_one_loss_may_serve_every_member():
    losses = [cl.finetuning(model(), cl.sgd(lr), loss=mean_of_squares) for lr in (0.1, 0.2)]
    assert cl.sweep(losses).settings["name"] == "sweep"
