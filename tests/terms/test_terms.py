"""What terms promise: nothing at strength 0, no pull at the anchor, a Fisher that factors, lessons
that can be forgotten.
"""

import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from support.nets import IMAGE, NETS, images, noise_like
from torch.func import grad

import clfunc as cl
from clfunc import memories, terms, tree
from clfunc.hard_attention import Gating
from clfunc.losses import cross_entropy
from clfunc.random import key, normal, randint
from clfunc.testing.compare import distance, identical
from clfunc.testing.strategies import seeds

COUNTS = (2, 3, 2)  # classes of each task
HEADS = {"til": cl.til(3, COUNTS), "cil": cl.cil(3, COUNTS), "dil": cl.dil(3, COUNTS)}
INPUTS, STEPS, SIZE, CAPACITY = 4, 2, 6, 10
ROUNDING = 1e-12
# For each term: `(strength) -> Term`, and whether it draws from a memory.
TERMS = {
    "ewc": (terms.ewc, False),
    "ewc empirical": (lambda strength: terms.ewc(strength, fisher="empirical"), False),
    "ewc predicted": (lambda strength: terms.ewc(strength, fisher="predicted"), False),
    "si": (terms.si, False),
    "l2_init": (terms.l2_init, False),
    "replay union": (lambda strength: terms.replay(4, strength), True),
    "replay sum": (lambda strength: terms.replay(4, strength, mean="sum"), True),
    "replay by_task": (lambda strength: terms.replay(4, strength, mean="by_task"), True),
    "distil_logits": (lambda strength: terms.distil_logits(4, strength), True),
}
# The penalties, and where each pulls nowhere.
ANCHORS = {
    "ewc": (terms.ewc(2.0), lambda s: s.mean),
    "si": (terms.si(2.0), lambda s: s.anchor),
    "l2_init": (terms.l2_init(2.0), lambda s: s.initial),
}


def model_of(paradigm, together=True, dropout=0.0, dtype=torch.float64):
    head = HEADS[paradigm]
    if together:
        head = cl.heads.together(head)
    return cl.mlp(INPUTS, (6,), head, dropout_rate=dropout, dtype=dtype)


def with_terms(model, tx, *added, has_memory=False):
    """Finetuning with these terms, and with a memory if they draw from one."""
    memory = memories.reservoir(CAPACITY) if has_memory else None
    return cl.finetuning(model, tx, terms=added, memory=memory)


def batch_at(paradigm, task, step, dtype=torch.float64):
    """The batch of a step; a review of the task shows all of them."""
    first = sum(COUNTS[:task]) if paradigm == "cil" else 0
    at = task * STEPS + step
    return cl.Batch(
        x=normal(key(1), (SIZE, INPUTS), at=at, dtype=dtype),
        y=first + randint(key(2), (SIZE,), 0, COUNTS[task], at=at),
        task=torch.tensor(task),
        weight=torch.ones(SIZE, dtype=dtype),
        rows=step * SIZE + torch.arange(SIZE),
    )


def begun(algorithm, task, params, state):
    count = torch.tensor(STEPS)
    about = cl.Task(torch.tensor(task), steps_per_epoch=count, epochs=torch.tensor(1))
    return algorithm.begin_task(params, state, about)


def lives(algorithm, paradigm, tasks=(0, 1, 2), reviews=True, seed=0):
    """Train on tasks in turn.

    Yields:
        Parameters and state after each task.
    """
    params, state = algorithm.init(key(seed))
    dtype = params["head"]["weight"].dtype
    for task in tasks:
        params, state = begun(algorithm, task, params, state)
        for step in range(STEPS):
            batch = batch_at(paradigm, task, step, dtype)
            params, state, _ = algorithm.step(params, state, batch)
        for step in range(STEPS):
            if reviews and algorithm.review is not None:
                batch = batch_at(paradigm, task, step, dtype)
                state = algorithm.review(params, state, batch)
        params, state = algorithm.end_task(params, state)
        yield params, state


def after(algorithm, paradigm, **more):
    """Parameters and state after the last task."""
    *_, last = lives(algorithm, paradigm, **more)
    return last


def own(state, name):
    """The state of a term."""
    return state.parts.terms[name]


@functools.cache
def finetuned(paradigm, together, dropout):
    model = model_of(paradigm, together, dropout, dtype=torch.float32)
    return after(cl.finetuning(model, cl.sgd(0.1, 0.9)), paradigm)[0]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("paradigm", HEADS)
@pytest.mark.parametrize("name", TERMS)
def test_at_strength_0_a_term_leaves_every_bit_of_finetuning(name, paradigm, dropout):
    make, draws = TERMS[name]
    model = model_of(paradigm, draws, dropout, dtype=torch.float32)

    def trained(strength):
        part = make(strength)
        algorithm = with_terms(model, cl.sgd(0.1, 0.9), part, has_memory=draws)
        return after(algorithm, paradigm)[0]

    assert identical(trained(0.0), finetuned(paradigm, draws, dropout))
    if dropout == 0:
        assert not identical(trained(0.5), finetuned(paradigm, draws, dropout))


@pytest.mark.parametrize("paradigm", HEADS)
@pytest.mark.parametrize("name", ANCHORS)
def test_a_penalty_does_not_pull_at_its_anchor(name, paradigm):
    part, anchor = ANCHORS[name]
    algorithm = with_terms(model_of(paradigm), cl.sgd(0.1, 0.9), part)
    initial, _ = algorithm.init(key(0))
    params, state = next(lives(algorithm, paradigm))
    s = own(state, name)

    pull = grad(part.penalty, argnums=1)
    for leaf in tree.leaves(pull(s, anchor(s))):
        assert not leaf.any()
    elsewhere = pull(s, tree.map(lambda leaf: leaf + 1, anchor(s)))
    assert any(leaf.any() for leaf in tree.leaves(elsewhere))
    expected = initial if name == "l2_init" else params
    # EWC's anchor is a quotient, and so off by a rounding
    assert distance(anchor(s), expected) <= 2**-52


@pytest.mark.parametrize("kind", ["exact", "empirical", "predicted"])
@pytest.mark.parametrize("paradigm", HEADS)
@given(seed=seeds())
@settings(max_examples=5)
def test_every_fisher_information_is_at_least_0(paradigm, kind, seed):
    part = terms.ewc(1.0, fisher=kind)
    algorithm = with_terms(model_of(paradigm), cl.sgd(0.1), part)
    params, state = algorithm.init(key(seed))
    params, state = begun(algorithm, 0, params, state)
    state = algorithm.review(params, state, batch_at(paradigm, 0, 0))
    leaves = tree.leaves(own(state, "ewc").found)
    assert all((leaf >= 0).all() for leaf in leaves)
    assert any((leaf > 0).any() for leaf in leaves)


NETWORKS = NETS | {
    "resnet layer": lambda head, **more: cl.resnet(
        IMAGE, (5, 4), head, channels=(3, 4), norm="layer", **more
    ),
    "mlp crelu": lambda head, **more: cl.mlp(IMAGE, (5, 4), head, activation="crelu", **more),
    "mlp crelu layer": lambda head, **more: cl.mlp(
        IMAGE, (5, 4), head, activation="crelu", norm="layer", **more
    ),
}


def without_linear(model):
    """The model whose wires do not say that a layer is linear: all is differentiated."""
    return model._replace(wires=tuple(wire._replace(linear=False) for wire in model.wires))


def shown(task, paradigm):
    """Four images of a task, of which one counts for nothing and one for half."""
    first = sum(COUNTS[:task]) if paradigm == "cil" else 0
    weight = torch.tensor([1.0, 0.0, 0.5, 1.0], dtype=torch.float64)
    y = first + torch.tensor([0, 1, 1, 0])
    return cl.Batch(x=images(task), y=y, task=torch.tensor(task), weight=weight)


def fisher_of(algorithm, paradigm):
    """The Fisher information that a review of the second task finds, at noisy parameters."""
    params, state = begun(algorithm, 0, *algorithm.init(key(0)))
    params, state = algorithm.end_task(params, state)
    params, state = begun(algorithm, 1, params, state)
    params = tree.map_items(lambda name, p: p + noise_like(p, name, 0.2), params)
    return own(algorithm.review(params, state, shown(1, paradigm)), "ewc").found


@pytest.mark.parametrize("kind", ["exact", "empirical"])
@pytest.mark.parametrize("paradigm", ["til", "mtl", "cil"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_fisher_of_a_linear_layer_factors(name, paradigm, kind):
    head = cl.mtl(3, COUNTS) if paradigm == "mtl" else HEADS[paradigm]
    model = NETWORKS[name](head, dtype=torch.float64)
    assert any(wire.linear for wire in model.wires)

    def found(model):
        part = terms.ewc(1.0, fisher=kind)
        return fisher_of(with_terms(model, cl.sgd(0.1), part), paradigm)

    factored, each = found(model), found(without_linear(model))
    assert distance(factored, each) < ROUNDING
    assert max(float(leaf.max()) for leaf in tree.leaves(factored)) > 1e-3


@pytest.mark.parametrize("position", ["post_act", "pre_act"])
@pytest.mark.parametrize("name", ["mlp", "convnet", "resnet"])
def test_so_it_does_behind_the_masks_of_hat(name, position):
    def found(model):
        algorithm = cl.hat(
            model,
            cl.sgd(0.1),
            num_tasks=3,
            gates=Gating(gate_position=position),
            terms=(terms.ewc(1.0),),
        )
        return fisher_of(algorithm, "til")

    model = NETWORKS[name](HEADS["til"], dtype=torch.float64)
    assert distance(found(model), found(without_linear(model))) < ROUNDING


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_the_fisher_of_a_mixed_batch_is_the_sum_of_its_tasks_fishers(name):
    model = NETWORKS[name](cl.mtl(3, COUNTS), dtype=torch.float64)
    algorithm = with_terms(model, cl.sgd(0.1), terms.ewc(1.0))
    params, start = algorithm.init(key(0))
    parts = [shown(task, "til") for task in (0, 2)]
    state = start
    for part in parts:
        state = algorithm.review(params, state, part)
    each = [part._replace(task=part.task.expand(len(part.y))) for part in parts]
    mixed = tree.map(lambda a, b: torch.cat([a, b]), *each)
    both = algorithm.review(params, start, mixed)
    assert distance(own(both, "ewc"), own(state, "ewc")) < ROUNDING


@pytest.mark.parametrize("paradigm", HEADS)
def test_under_plain_descent_the_path_of_si_is_the_sum_of_squared_gradients(paradigm):
    lr = 0.1
    model = model_of(paradigm)
    algorithm = with_terms(model, cl.sgd(lr), terms.si(0.0))
    params, state = begun(algorithm, 0, *algorithm.init(key(0)))
    expected = tree.zeros_like(params)
    for step in range(STEPS):
        batch = batch_at(paradigm, 0, step)

        def loss(params, batch=batch, head=state.head):
            logits = model.apply(params, batch.x, batch.task).logits
            logits = model.head.mask(head, logits, batch.task)
            return cross_entropy(logits, batch.y, batch.weight)

        gradient = grad(loss)(params)
        expected = tree.map(lambda sum, g: sum + lr * g * g, expected, gradient)
        params, state, _ = algorithm.step(params, state, batch)
    assert distance(own(state, "si").path, expected) < 1e-15
    assert max(float(leaf.max()) for leaf in tree.leaves(expected)) > 1e-3


@pytest.mark.parametrize("paradigm", HEADS)
def test_the_order_of_terms_does_not_matter(paradigm):
    parts = (terms.ewc(5.0), terms.replay(4, 0.7), terms.distil_logits(4, 0.3), terms.si(2.0))
    found = []
    for order in (parts, parts[::-1], parts[2:] + parts[:2]):
        model = model_of(paradigm, dropout=0.2)
        algorithm = with_terms(model, cl.sgd(0.1, 0.9), *order, has_memory=True)
        params, state = after(algorithm, paradigm)
        found.append((params, {name: own(state, name) for name in ("ewc", "si")}))
    for other in found[1:]:
        assert distance(found[0], other) < ROUNDING


FORGETTING = {
    "ewc": (terms.ewc(5.0, num_tasks=3), ("importance", "mean")),
    "si": (terms.si(2.0, num_tasks=3), ("importance", "anchor")),
    "si task": (terms.si(2.0, clip="task", num_tasks=3, name="si task"), ("importance", "anchor")),
}


def held_by(name, state):
    """What the penalty of a term holds."""
    s = own(state, name)
    return {field: getattr(s, field) for field in FORGETTING[name][1]}


def forgetting(name, state, tasks):
    """The state of a term after it forgets tasks."""
    forgotten = torch.tensor([task in tasks for task in range(3)])
    part = FORGETTING[name][0]
    return part.forget(own(state, name), forgotten)


@pytest.mark.parametrize("paradigm", HEADS)
@pytest.mark.parametrize("name", FORGETTING)
def test_to_forget_the_last_task_is_never_to_have_learned_it(name, paradigm):
    algorithm = with_terms(model_of(paradigm), cl.sgd(0.1, 0.9), FORGETTING[name][0])
    before = None
    for task, (_, state) in enumerate(lives(algorithm, paradigm)):
        without = forgetting(name, state, [task])
        if before is None:
            assert not any(leaf.any() for leaf in tree.leaves(without.importance))
        else:
            found = {field: getattr(without, field) for field in before}
            assert identical(found, before)
            assert distance(held_by(name, state), before) > 1e-3
        before = held_by(name, state)


@pytest.mark.parametrize("name", FORGETTING)
@pytest.mark.parametrize("gone", [[], [0], [1], [0, 1], [0, 2], [0, 1, 2]])
def test_to_forget_tasks_leaves_the_importance_of_the_others(name, gone):
    algorithm = with_terms(model_of("dil"), cl.sgd(0.1, 0.9), FORGETTING[name][0])
    shares = []
    last = tree.zeros_like(algorithm.init(key(0))[0])
    for _, state in lives(algorithm, "dil"):
        importance = own(state, name).importance
        shares.append(tree.sub(importance, last))
        last = importance
    left = tree.zeros_like(last)
    for task, share in enumerate(shares):
        if task not in gone:
            left = tree.add(left, share)
    assert distance(forgetting(name, state, gone).importance, left) < ROUNDING


@pytest.mark.parametrize("name", FORGETTING)
def test_what_is_learned_after_forgetting_can_be_forgotten_too(name):
    part = FORGETTING[name][0]
    algorithm = with_terms(model_of("dil"), cl.sgd(0.1, 0.9), part)
    params, state = after(algorithm, "dil")
    s = forgetting(name, state, [0])
    expected = forgetting(name, state, [0, 1]).importance

    again = cl.Task(torch.tensor(0), steps_per_epoch=torch.tensor(1), epochs=torch.tensor(1))
    s = part.begin_task(s, params, again)
    ones = tree.map(torch.ones_like, params)
    taught = {"path": ones}
    if name == "ewc":
        taught = {"found": ones, "weight": torch.tensor(2.0, dtype=torch.float64)}
    s = part.end_task(s._replace(**taught), params)
    share = tree.sub(s.importance, forgetting(name, state, [0]).importance)
    s = part.forget(s, torch.tensor([False, True, False]))
    assert all((leaf >= 0.4).all() for leaf in tree.leaves(share))
    assert distance(s.importance, tree.add(expected, share)) < ROUNDING
    assert s.lessons.order.tolist() == [2, 0, 1]


@pytest.mark.parametrize("kind, num_tasks", itertools.product(["exact", "empirical"], [None, 3]))
def test_without_a_review_ewc_holds_nothing_and_stays_finite(kind, num_tasks):
    part = terms.ewc(100.0, fisher=kind, num_tasks=num_tasks)
    algorithm = with_terms(model_of("dil"), cl.sgd(0.1, 0.9), part)
    params, state = after(algorithm, "dil", reviews=False)
    assert not any(leaf.any() for leaf in tree.leaves(own(state, "ewc").importance))
    for leaf in tree.leaves((params, state)):
        assert leaf.isfinite().all()
    plain, _ = after(cl.finetuning(model_of("dil"), cl.sgd(0.1, 0.9)), "dil")
    assert identical(params, plain)


@pytest.mark.parametrize("make", [terms.ewc, terms.si])
def test_a_task_that_ends_again_replaces_its_lesson(make):
    """So to forget nothing changes nothing, and to forget it leaves the other tasks' lessons."""
    params = {"layer": {"weight": torch.ones(2, dtype=torch.float64)}}
    term = make(1.0, num_tasks=2)
    s = term.init(cl.random.key(0), params, None)
    number = torch.tensor(1)
    for place, task in enumerate((0, 1, 0)):
        about = cl.Task(id=torch.tensor(task), steps_per_epoch=number, epochs=number)
        s = term.begin_task(s, params, about)
        moved = cl.tree.scale(params, 1.0 + place)
        field = "found" if "found" in s._fields else "path"
        s = s._replace(**{field: moved})
        s = term.end_task(s, moved)
        params = moved
    assert identical(term.forget(s, torch.tensor([False, False])), s)
    none = term.forget(s, torch.tensor([True, True]))
    assert not tree.leaves(none.importance)[0].any()
    if make is terms.si:
        assert identical(none.anchor, s.start)
