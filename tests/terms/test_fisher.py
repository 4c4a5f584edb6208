"""The Fisher information by its kinds, and `cl.fisher`."""

import pytest
import torch

import clfunc as cl
from clfunc import terms, tree
from clfunc.random import fold_in, key
from clfunc.testing import toy_stream
from clfunc.testing.laws import distance
from clfunc.testing.play import play

KINDS = ("exact", "sample", "predicted", "empirical", "batched")


def trained(paradigm, kind="exact"):
    """Two tasks of EWC, and then a third that has begun."""
    scenario = toy_stream(paradigm=paradigm)
    model = cl.mlp(scenario.inputs, (6,), scenario.head(), dtype=torch.float64)
    algorithm = cl.finetuning(model, cl.sgd(0.2), terms=(terms.ewc(0.1, fisher=kind),))
    params, state = play(algorithm, scenario, key(0))
    stream = scenario.train(scenario.num_tasks - 1)
    return algorithm, params, state, scenario, stream


def batch_of(scenario, stream, rows):
    batch = scenario.batch(scenario.data, stream, rows)
    return batch._replace(x=batch.x.double(), weight=batch.weight.double())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("paradigm", ["til", "cil", "dil"])
def test_it_is_the_mean_of_what_a_review_of_ewc_finds(paradigm, kind):
    algorithm, params, state, scenario, stream = trained(paradigm, kind)
    count = torch.tensor(1)
    params, state = algorithm.begin_task(params, state, cl.Task(stream.task, count, count))
    batch = batch_of(scenario, stream, stream.train[:12])
    own = algorithm.review(params, state, batch).parts.terms["ewc"]

    drawn = own.key if kind == "sample" else None
    whole = cl.fisher(algorithm, params, state, batch, kind, key=drawn)
    found = {name: tree.scale(part, 1 / own.weight) for name, part in own.found.items()}
    assert distance(found, {name: whole[name] for name in found}) < 1e-12
    assert max(float(leaf.max()) for leaf in tree.leaves(found)) > 1e-6


def one_by_one(kind, number=None):
    algorithm, params, state, scenario, stream = trained("dil")
    batch = batch_of(scenario, stream, stream.train[:1])
    drawn = None if number is None else fold_in(key(7), number)
    return cl.fisher(algorithm, params, state, batch, kind, key=drawn)


def test_batched_is_empirical_for_batches_of_one_and_not_for_more():
    assert distance(one_by_one("batched"), one_by_one("empirical")) < 1e-12
    algorithm, params, state, scenario, stream = trained("dil")
    batch = batch_of(scenario, stream, stream.train[:12])
    empirical = cl.fisher(algorithm, params, state, batch, "empirical")
    assert distance(cl.fisher(algorithm, params, state, batch, "batched"), empirical) > 1e-3


def test_the_mean_of_many_samples_is_exact():
    algorithm, params, state, scenario, stream = trained("cil")
    batch = batch_of(scenario, stream, stream.train[:6])
    exact = cl.fisher(algorithm, params, state, batch)["head"]["bias"]
    count = 400
    drawn = []
    for number in range(count):
        one = cl.fisher(algorithm, params, state, batch, "sample", key=fold_in(key(3), number))
        drawn.append(one["head"]["bias"])
    drawn = torch.stack(drawn)
    error = drawn.std(0) / count**0.5
    assert ((drawn.mean(0) - exact).abs() <= 4.5 * error + 1e-12).all()
    assert (error > 0).any()


def test_some_examples_are_the_first_that_a_review_shows():
    algorithm, params, state, scenario, stream = trained("dil")
    limited = cl.finetuning(
        cl.mlp(scenario.inputs, (6,), scenario.head(), dtype=torch.float64),
        cl.sgd(0.2),
        terms=(terms.ewc(0.1, examples=5),),
    )
    both = []
    for which, rows in ((limited, stream.train[:12]), (algorithm, stream.train[:5])):
        params, state = which.init(key(0))
        for part in rows.split(4):
            state = which.review(params, state, batch_of(scenario, stream, part))
        both.append(state.parts.terms["ewc"])
    assert distance(both[0].found, both[1].found) < 1e-12
    assert both[0].reviewed == both[1].reviewed == 5


def test_bad_input_is_one_line_that_lists_what_there_is():
    algorithm, params, state, scenario, stream = trained("dil")
    batch = batch_of(scenario, stream, stream.train[:2])
    with pytest.raises(ValueError, match="kind must be one of exact, sample, predicted, empirical"):
        cl.fisher(algorithm, params, state, batch, "diagonal")
    with pytest.raises(ValueError, match=r"give key=random\.key\(0\)"):
        cl.fisher(algorithm, params, state, batch, "sample")
    with pytest.raises(ValueError, match=r"decay must be a number in \[0, 1\], given 1.5"):
        terms.ewc(decay=1.5)
    with pytest.raises(ValueError, match="examples must be"):
        terms.mas(examples=0)
