"""`mask_updates` as its user meets it: whole layers by name, and no layer that there is not."""

import pytest
import torch

from clfunc import adamw, carry, chain, dil, finetuning, mask_updates, mlp
from clfunc.random import key
from clfunc.testing import play, toy_stream
from clfunc.testing.laws import identical


def frozen_first_layer(mask):
    scenario = toy_stream(paradigm="dil")
    tx = carry(chain(adamw(0.1, weight_decay=0.5), mask_updates(mask)))
    return finetuning(mlp(scenario.inputs, (4, 3), dil(3, 3)), tx), scenario


def test_a_named_layer_stays_as_it_was_drawn_under_adamw_with_weight_decay():
    algorithm, scenario = frozen_first_layer({"hidden1": {"weight": False, "bias": torch.zeros(4)}})
    drawn, (trained, _) = algorithm.init(key(0))[0], play(algorithm, scenario, key(0))
    assert identical(trained["hidden1"], drawn["hidden1"])
    assert not identical(trained["hidden2"], drawn["hidden2"])


@pytest.mark.parametrize(
    "mask, named", [({"hiden1": False}, "hiden1"), ({"hidden1": {"weigth": False}}, "weigth")]
)
def test_a_name_that_there_is_not_is_refused(mask, named):
    algorithm, _ = frozen_first_layer(mask)
    with pytest.raises(ValueError, match=f"mask names '{named}', but the parameters.* are"):
        algorithm.init(key(0))
