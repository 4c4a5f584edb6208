"""What a sweep says of its members: the labels of what differs, and the setting in which two are
not one program.
"""

import pytest

import clfunc as cl
from clfunc.engine.sweep import configurations, coordinates

MODEL = cl.mlp((1, 2, 2), hidden=(3,), head=cl.til(2, (2, 2)))


def adam(lr=0.1, betas=(0.5, 0.9)):
    return cl.finetuning(MODEL, cl.adam(lr, betas=betas))


def test_a_number_in_a_list_is_labelled_by_the_list_and_its_position():
    many = cl.sweep([adam(betas=(b, 0.9)) for b in (0.5, 0.6)])
    assert coordinates(many) == {"betas.0": [0.5, 0.6]}
    many = cl.sweep([adam(lr, betas=(b, b)) for lr, b in ((0.1, 0.5), (0.2, 0.6))])
    assert list(coordinates(many)) == ["lr", "betas.0", "betas.1"]


def test_a_label_that_two_numbers_would_have_is_the_whole_name_of_each():
    def chained(a, b):
        return cl.finetuning(MODEL, cl.chain(cl.sgd(a), cl.sgd(b)))

    names = list(coordinates(cl.sweep([chained(0.1, 0.2), chained(0.2, 0.3)])))
    assert len(names) == 2 and all(name.endswith(".lr") for name in names)
    assert list(coordinates(cl.sweep([chained(0.1, 0.2), chained(0.2, 0.2)]))) == ["lr"]


def test_runs_that_differ_in_no_number_are_one_configuration():
    many = cl.sweep([adam(lr) for lr in (0.1, 0.2, 0.1)])
    assert configurations(many, 3) == [[0, 2], [1]]
    assert configurations(adam(), 3) == [[0, 1, 2]]
    assert coordinates(adam()) == {} == coordinates(cl.sweep([adam(), adam()]))


def test_members_whose_functions_differ_are_refused_in_one_line_that_names_the_setting():
    def square(logits, y, weight):
        return logits.square().mean()

    a, b = adam(), adam()
    a = a._replace(settings=a.settings | {"loss": cl.losses.cross_entropy})
    same = a._replace(settings=b.settings | {"loss": cl.losses.cross_entropy})
    other = b._replace(settings=b.settings | {"loss": square})
    assert cl.sweep([a, same]).settings["name"] == "sweep"
    with pytest.raises(ValueError, match=r"given loss = cross_entropy and .*square") as error:
        cl.sweep([a, other])
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"given loss = 'head' and .*square"):
        cl.sweep([b, other])
