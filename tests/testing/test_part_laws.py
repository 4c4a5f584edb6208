"""The laws of terms, memories, transforms, scenarios and mixed batches, over the library's own; and
that each can fail.
"""

import pytest
import torch

import clfunc as cl
from clfunc import algorithms, memories, terms, transforms, tree
from clfunc.testing import Case, laws, term_laws, toy_stream, transform_laws

pytestmark = pytest.mark.usefixtures("no_figures")

MEMORIES = {
    "reservoir": (memories.reservoir, {"uniform": True}),
    "balanced": (memories.balanced, {"uniform": True}),
    "ring": (lambda capacity: memories.ring(capacity, num_tasks=3), {"ordered": True}),
}
TERMS = {
    "ewc": (terms.ewc, None, lambda s: s.mean),
    "ewc by task": (lambda s: terms.ewc(s, num_tasks=3), None, lambda s: s.mean),
    "ewc of samples": (
        lambda s: terms.ewc(s, fisher="sample", decay=0.9, examples=10, num_tasks=3),
        None,
        lambda s: s.mean,
    ),
    "mas": (terms.mas, None, lambda s: s.mean),
    "rwalk": (lambda s: terms.rwalk(s, period=3), None, lambda s: s.anchor),
    "l2_sp": (terms.l2_sp, None, lambda s: s.anchor),
    "wasserstein": (terms.wasserstein, None, None),
    "parseval": (terms.parseval, None, None),
    "spectral": (terms.spectral, None, None),
    "si": (terms.si, None, lambda s: s.anchor),
    "l2_init": (terms.l2_init, None, lambda s: s.initial),
    "replay": (lambda s: terms.replay(4, s), memories.reservoir(10), None),
    "lwf": (terms.lwf, None, None),
    "lwf_mc": (terms.lwf_mc, None, None),
    "asymmetric": (terms.asymmetric, None, None),
    "mir": (lambda s: terms.mir(3, 6, s), memories.reservoir(10), None),
    "fdr": (lambda s: terms.fdr(4, s), memories.reservoir(10), None),
    "cls_er": (lambda s: terms.cls_er(4, s, s), memories.reservoir(10), None),
    "distil_logits": (lambda s: terms.distil_logits(4, s), memories.balanced(10), None),
}
ALL_HEADS = ("lwf", "lwf_mc")  # terms that need the heads of all tasks
WRAPPERS = {
    "chain": lambda model, inner: cl.chain(cl.clip_by_global_norm(1.0), inner),
    "carry": lambda model, inner: cl.carry(inner),
    "scale_by_adjustment": lambda model, inner: cl.scale_by_adjustment(model, inner),
    "reinit": lambda model, inner: cl.reinit(model, inner),
    "reset_dormant": lambda model, inner: cl.reset_dormant(model, inner),
    "reset_silent": lambda model, inner: cl.reset_silent(model, inner),
}
NETWORKS = {
    "mlp": lambda head: cl.mlp(
        (1, 4, 4), (5,), head, norm="layer", per_task_norm=True, dtype=torch.float64
    ),
    "convnet": lambda head: cl.convnet((1, 4, 4), (5,), head, channels=(3,), dtype=torch.float64),
    "resnet": lambda head: cl.resnet(
        (1, 4, 4),
        (),
        head,
        channels=(3, 4),
        norm="group",
        per_task_norm=True,
        dtype=torch.float64,
    ),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_every_memory_obeys(name):
    make, how = MEMORIES[name]
    laws.memory(make, **how)


@pytest.mark.parametrize("name", TERMS)
def test_every_term_obeys_the_laws_of_its_own(name):
    """The zoo holds finetuning with each to the laws of algorithms."""
    make, memory, anchor = TERMS[name]
    case = Case(
        name,
        lambda model, tx: cl.finetuning(model, tx, terms=(make(0.5),), memory=memory),
        together=memory is not None or name in ALL_HEADS,
        hidden=(6, 6),
    )
    term_laws.review_depends_neither_on_batches_nor_on_padding(case)
    term_laws.rows_of_weight_zero_change_no_bit(case)
    term_laws.order_of_terms_does_not_matter(case, make, memory)
    if anchor is not None:
        term_laws.penalty_pulls_nowhere_at_its_anchor(case, make(0.5), anchor)


def wrapped(make):
    return Case("wrapped", lambda model, tx: cl.finetuning(model, make(model, tx)))


@pytest.mark.parametrize("name", WRAPPERS)
def test_every_wrapper_of_a_transform_hands_every_hook_on(name):
    restarts = name != "carry"
    transform_laws.a_wrapper_hands_every_hook_on(wrapped(WRAPPERS[name]), WRAPPERS[name], restarts)


ALGORITHMS = {
    "fix": algorithms.fix,
    "hat": lambda model, tx: algorithms.hat(model, tx, num_tasks=3),
    "cbp": algorithms.cbp,
    "joint": algorithms.joint,
    "amnesiac": lambda m, tx: algorithms.amnesiac(algorithms.finetuning(m, tx), num_tasks=3),
    "shrink_and_perturb": lambda m, tx: algorithms.shrink_and_perturb(algorithms.ewc(m, tx)),
    "reduce_on_plateau": lambda m, tx: algorithms.reduce_on_plateau(algorithms.si(m, tx), 0.5),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_hands_every_hook_of_its_transform_on(name):
    arrange = cl.scenarios.joint if name == "joint" else lambda scenario: scenario
    case = Case(name, ALGORITHMS[name], arrange=arrange)
    transform_laws.a_wrapper_hands_every_hook_on(case, lambda model, inner: inner)


@pytest.mark.parametrize("name", ["ogd", "gpm"])
def test_what_a_projection_learns_depends_neither_on_batches_nor_on_padding(name):
    def make(model, tx):
        if name == "gpm":
            return cl.gpm(model, tx, examples=10)
        return cl.ogd(model, tx, num_tasks=3, examples=10)

    case = Case(name, make, together=True)
    term_laws.review_depends_neither_on_batches_nor_on_padding(case)
    term_laws.rows_of_weight_zero_change_no_bit(case)


def test_the_projection_of_a_gem_keeps_its_promise():
    def make(model, inner):
        return cl.chain(transforms.agem_projection(4), inner)

    case = Case("a_gem", lambda m, tx: cl.a_gem(m, tx, capacity=12, batch=4), together=True)
    transform_laws.a_projection_keeps_its_promise(case, make)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_obeys_the_laws_of_mixed_batches(name):
    laws.mixed(NETWORKS[name])


@pytest.mark.parametrize("paradigm", ["til", "cil", "dil"])
def test_scenarios_obey(paradigm):
    laws.scenario(toy_stream(paradigm=paradigm))
    laws.scenario(cl.scenarios.joint(toy_stream(paradigm=paradigm)))


# The laws can fail.


def counting_rows(strength):
    """A term whose review counts every row, padding too."""
    term = terms.ewc(strength)

    def review(s, params, context):
        heavy = context.batch._replace(weight=torch.ones_like(context.batch.weight))
        return term.review(s, params, context._replace(batch=heavy))

    return term._replace(review=review)


def of_batches(strength):
    """A term whose review takes the mean of each batch, whatever its size."""
    term = terms.ewc(strength)

    def review(s, params, context):
        after = term.review(s, params, context)
        return after._replace(weight=s.weight + 1)

    return term._replace(review=review)


@pytest.mark.parametrize("fault", [counting_rows, of_batches])
def test_a_review_of_padding_or_of_batch_means_is_found_out(fault):
    case = Case("fault", lambda model, tx: cl.finetuning(model, tx, terms=(fault(1.0),)))
    with pytest.raises(AssertionError, match="review"):
        term_laws.review_depends_neither_on_batches_nor_on_padding(case)


def test_a_term_that_looks_at_rows_of_weight_0_is_found_out():
    def loss(s, params, context):
        return 0.1 * context.forward(params, context.batch).logits.square().mean()

    term = cl.Term("looks", lambda key, params, model: (), loss)
    case = Case("fault", lambda model, tx: cl.finetuning(model, tx, terms=(term,)))
    with pytest.raises(AssertionError, match="a row of weight 0 changes a step"):
        term_laws.rows_of_weight_zero_change_no_bit(case)


def test_a_memory_that_keeps_what_comes_again_is_found_out():
    def without_rows(capacity):
        inner = memories.reservoir(capacity)
        return inner._replace(add=lambda s, batch: inner.add(s, batch._replace(rows=())))

    with pytest.raises(AssertionError):
        laws.memory(without_rows)


def test_a_wrapper_that_drops_a_hook_is_found_out():
    def forgetful(model, inner):
        return inner._replace(end_task=lambda s, params: s)

    with pytest.raises(AssertionError, match="end_task of the transform inside is called 0 times"):
        transform_laws.a_wrapper_hands_every_hook_on(wrapped(forgetful), forgetful)


@pytest.mark.parametrize(
    "share, message", [(0.5, "it opposes the memory"), (-1.0, "it opposes the memory")]
)
def test_a_projection_that_does_not_go_all_the_way_is_found_out(share, message):
    def make(model, inner):
        tx = transforms.agem_projection(4)

        def update(updates, s, params, context):
            projected, s = tx.update(updates, s, params, context)
            return tree.map(lambda u, p: u + share * (p - u), updates, projected), s

        return tx._replace(update=update)

    case = Case("a_gem", lambda m, tx: cl.a_gem(m, tx, capacity=12, batch=4), together=True)
    with pytest.raises(AssertionError, match=message):
        transform_laws.a_projection_keeps_its_promise(case, make)


def test_a_projection_of_what_does_not_oppose_is_found_out():
    def make(model, inner):
        def update(updates, s, params, context):
            reference = context.gradient(context.draw(None, 4))
            factor = tree.vdot(updates, reference) / tree.vdot(reference, reference)
            return tree.map(lambda u, r: u - factor * r, updates, reference), s

        return transforms.agem_projection(4)._replace(update=update)

    case = Case("a_gem", lambda m, tx: cl.a_gem(m, tx, capacity=12, batch=4), together=True)
    with pytest.raises(AssertionError, match="what does not oppose the memory is changed"):
        transform_laws.a_projection_keeps_its_promise(case, make)


def test_a_network_that_takes_one_head_for_all_is_found_out():
    def make(head):
        model = NETWORKS["convnet"](head)
        return model._replace(
            apply=lambda params, x, task, **more: model.apply(params, x, 0 * task, **more)
        )

    with pytest.raises(AssertionError, match="two tasks have one head"):
        laws.mixed(make)
