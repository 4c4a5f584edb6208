"""What cannot be together is refused when it is built, in one line that says what would do."""

import pytest
import torch

import clfunc as cl
from clfunc import memories, terms, transforms
from clfunc.testing import Case, laws, toy_stream
from clfunc.testing.play import play

DIL = cl.mlp(4, (3,), cl.dil(2, 2))
TIL = cl.mlp(4, (3,), cl.til(2, 2))
MTL = cl.mlp(4, (3,), cl.mtl(2, 2))
NUMBERS = cl.mlp(4, (3,), cl.heads.regression(2))
SGD = cl.sgd(0.1)
STORE = memories.reservoir(10)


def tuned(*parts, memory=None, model=DIL, tx=SGD):
    return cl.finetuning(model, tx, terms=parts, memory=memory)


def projecting(rows):
    """A transform that draws, inside another."""
    return cl.chain(cl.clip_by_global_norm(1.0), transforms.agem_projection(rows), SGD)


def forgotten(inner, **more):
    return cl.amnesiac(inner, num_tasks=2, **more)


REFUSED = {
    "replay needs a memory: give memory=memories.reservoir(500)": lambda: tuned(terms.replay(4)),
    "agem_projection needs a memory: give memory=memories.reservoir(500)": lambda: tuned(
        tx=projecting(4)
    ),
    "replay draws 20 examples, from a memory of 10": lambda: tuned(terms.replay(20), memory=STORE),
    "agem_projection projects gradients, and sgd before it makes steps of them: give"
    " chain(agem_projection(...), sgd(...))": lambda: cl.chain(SGD, transforms.agem_projection(4)),
    "gem_projection projects gradients, and adam before it makes steps of them": lambda: cl.chain(
        cl.chain(cl.adam(0.1)), transforms.gem_projection(2)
    ),
    "gem_projection needs the examples of 2 tasks apart, and reservoir does not keep them so: give"
    " memory=memories.ring(500, num_tasks=2)": lambda: tuned(
        tx=cl.chain(transforms.gem_projection(2), SGD), memory=STORE
    ),
    "gem_projection needs a memory": lambda: tuned(tx=cl.chain(transforms.gem_projection(2), SGD)),
    "lwf looks at the heads of all tasks, and head is one task's at a time under a til head: use"
    " scenario.head(together=True)": lambda: tuned(terms.lwf(), model=TIL),
    "agem_projection draws 11 examples, from a memory of 10": lambda: tuned(
        tx=cl.scale_by_adjustment(DIL, projecting(11)), memory=STORE
    ),
    "the memory reservoir is read by no term and no transform: give terms=(terms.replay(32),),"
    " or leave it out": lambda: tuned(terms.ewc(1.0), memory=STORE),
    "a memory mixes tasks in a step, and head is one task's at a time under a til head: use"
    " scenario.head(together=True)": lambda: tuned(terms.replay(4), memory=STORE, model=TIL),
    "two terms are named replay: give one, or another name": lambda: tuned(
        terms.replay(4), terms.replay(2), memory=STORE
    ),
    "a term cannot be named loss, as a metric is: give another name": lambda: tuned(
        terms.l2_init(0.1, name="loss")
    ),
    "the model does not say what they are: give Model(inputs=InputSpec(shape, dtype))": (
        lambda: tuned(terms.replay(4), memory=STORE, model=DIL._replace(inputs=None))
    ),
    "terms must be terms, given the function ewc: call it, ewc(...)": lambda: tuned(terms.ewc),
    "terms must be terms, such as terms.ewc(1.0), given 3": lambda: tuned(3),
    "terms must be a tuple of terms, given one: write (ewc(...),)": lambda: cl.finetuning(
        DIL, SGD, terms=terms.ewc(1.0)
    ),
    "num_tasks of ewc must be at least the head's 2, given 1": lambda: tuned(
        terms.ewc(1.0, num_tasks=1)
    ),
    "num_tasks of ring must be at least the head's 2, given 1": lambda: tuned(
        terms.replay(4), memory=memories.ring(10, num_tasks=1)
    ),
    "ewc needs classes, and a regression head has none: leave it out": lambda: tuned(
        terms.ewc(1.0), model=NUMBERS
    ),
    "balanced needs classes, and a regression head has none: leave it out": lambda: tuned(
        terms.replay(4), memory=memories.balanced(10), model=NUMBERS
    ),
    "memory must be a memory, such as memories.reservoir(500)": lambda: tuned(
        terms.replay(4), memory=500
    ),
    "amnesiac records updates by task, and er mixes tasks in a step: wrap another": lambda: (
        forgotten(cl.er(MTL, SGD, capacity=10, batch=4))
    ),
    "amnesiac takes updates off, and ewc of ewc would pull them back": lambda: forgotten(
        cl.ewc(TIL, SGD)
    ),
    "forget sets are parts of a task, and si of finetuning forgets whole tasks": lambda: forgotten(
        tuned(terms.si(1.0, num_tasks=2), model=TIL),
        forget_sets=[cl.ForgetSet(task=0, rows=(1,))],
    ),
    "hat needs batches of one task, given an mtl head": lambda: cl.hat(MTL, SGD, num_tasks=2),
    "strength must be a number in [0, inf), given -1": lambda: terms.ewc(-1.0),
    "fisher must be one of exact, sample, predicted, empirical, batched, given 'diagonal'": lambda: (
        terms.ewc(fisher="diagonal")
    ),
    "mean must be one of union, sum, balanced, by_task, given 'average'": lambda: terms.replay(
        4, mean="average"
    ),
    "clip must be one of total, task, none, given 'all'": lambda: terms.si(clip="all"),
    "batch must be a whole number of at least 1, given 0": lambda: terms.distil_logits(0),
    "capacity must be a whole number of at least 1, given 2.5": lambda: memories.balanced(2.5),
    "capacity must be at least 3, one example a task, given 2": lambda: memories.ring(
        2, num_tasks=3
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_together_is_refused_in_one_line(message):
    with pytest.raises(ValueError) as error:
        REFUSED[message]()
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["loss", "penalty"])
def test_a_term_of_more_than_one_number_is_refused_at_the_first_step(kind):
    def many(s, params, *context):
        return params["head"]["bias"]

    term = cl.Term("many", lambda key, params, model: (), **{kind: many})
    params, state = tuned(term).init(cl.random.key(0))
    zero = torch.tensor(0)
    batch = cl.Batch(x=torch.zeros(2, 4), y=zero.expand(2), task=zero, weight=torch.ones(2))
    with pytest.raises(ValueError, match=f"the {kind} of many must be one number, given the shape"):
        tuned(term).step(params, state, batch)


def test_two_terms_of_a_kind_go_together_under_two_names():
    algorithm = tuned(terms.replay(4), terms.replay(2, name="more"), memory=STORE)
    assert set(algorithm.settings["terms"]) == {"replay", "more"}


def test_earlier_examples_of_a_batch_that_mixes_tasks_are_refused_at_the_first_step():
    algorithm = tuned(terms.replay(4, mean="by_task"), memory=STORE, model=MTL)
    params, state = algorithm.init(cl.random.key(0))
    pair = torch.tensor([0, 1])
    batch = cl.Batch(x=torch.zeros(2, 4), y=pair, task=pair, weight=torch.ones(2))
    with pytest.raises(ValueError, match="a batch that mixes tasks has none before it"):
        algorithm.step(params, state, batch)


@pytest.mark.parametrize(
    "head, labels, message",
    [
        (cl.mtl(2, (2, 3)), [1, 3], "labels of task 1 are 0..2 under a mtl head, given 3 in row 1"),
        (cl.cil(2, (2, 3)), [2, 3], "labels of task 0 are 0..1 under a cil head, given 2 in row 0"),
        (cl.dil(1, 2), [0, 1], "tasks are 0..0, given task 1 in row 1"),
    ],
)
def test_labels_and_tasks_out_of_range_in_a_mixed_batch_are_refused(head, labels, message):
    batch = cl.Batch(
        x=torch.zeros(2, 4),
        y=torch.tensor(labels),
        task=torch.tensor([0, 1]),
        weight=torch.ones(2),
    )
    with pytest.raises(ValueError) as error:
        cl.check_batch(head, batch)
    assert str(error.value) == message
    padded = batch._replace(weight=torch.zeros(2))
    assert cl.check_batch(head, padded) is padded


PARTS = {
    "ewc": lambda: {"terms": (terms.ewc(1.0),)},
    "si": lambda: {"terms": (terms.si(1.0),)},
    "l2_init": lambda: {"terms": (terms.l2_init(0.1),)},
    "replay": lambda: {"terms": (terms.replay(4),), "memory": memories.reservoir(12)},
    "mas": lambda: {"terms": (terms.mas(0.1),)},
    "lwf": lambda: {"terms": (terms.lwf(),)},
    "mir": lambda: {"terms": (terms.mir(2, 4),), "memory": memories.ring(12, num_tasks=3)},
    "cls_er": lambda: {"terms": (terms.cls_er(4),), "memory": memories.reservoir(12)},
    "distil": lambda: {"terms": (terms.distil_logits(4),), "memory": memories.balanced(12)},
}
METHODS = {
    "finetuning": cl.finetuning,
    "hat": lambda m, tx, **parts: cl.hat(m, tx, num_tasks=3, **parts),
}
OPTIMISERS = {
    "sgd": lambda model, tx: tx,
    "reinit": lambda model, tx: cl.reinit(model, tx, replacement_rate=0.1, maturity_threshold=3),
    "a_gem": lambda model, tx: cl.chain(transforms.agem_projection(4), tx),
    "gem": lambda model, tx: cl.chain(transforms.gem_projection(3), tx),
    "carry": lambda model, tx: cl.carry(cl.chain(cl.clip_by_global_norm(1.0), tx)),
}
PAIRS = [(p, m, o, True) for p in PARTS for m in METHODS for o in OPTIMISERS]
PAIRS += [(p, m, "sgd", False) for p in PARTS for m in METHODS]


@pytest.mark.parametrize("part, method, optimiser, together", PAIRS)
def test_a_composition_is_refused_in_one_line_or_obeys(part, method, optimiser, together):
    def make(model, tx):
        return METHODS[method](model, OPTIMISERS[optimiser](model, tx), **PARTS[part]())

    case = Case("pair", make, together=together)
    try:
        algorithm = case.build(make, cl.sgd(0.1, 0.9))
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 250
        return
    before, _ = algorithm.init(cl.random.key(1))
    finite = []

    def call(name, function, *arguments):
        result = function(*arguments)
        if name == "step":
            finite.extend(bool(metric.isfinite()) for metric in result[2].values())
        return result

    after, _ = play(algorithm, toy_stream(), cl.random.key(1), call, epochs=1)
    assert all(finite) and not laws.identical(before, after)
