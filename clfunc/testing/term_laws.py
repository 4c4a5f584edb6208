"""The laws of terms, and of batches that mix tasks.

`term` holds a term to the laws of an algorithm that is finetuning with it, and to its own.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from clfunc import tree
from clfunc.algorithms import finetuning
from clfunc.driver.evaluate import bare
from clfunc.models import heads
from clfunc.random import key, normal
from clfunc.terms import l2_init
from clfunc.testing.algorithm_laws import algorithm_laws, learns_two_real_tasks
from clfunc.testing.case import Case
from clfunc.testing.compare import distance, identical
from clfunc.testing.play import play, toy_stream
from clfunc.transforms import adam, sgd
from clfunc.types import (
    Algorithm,
    Batch,
    Key,
    Memory,
    Model,
    Params,
    State,
    Task,
    Term,
    Transform,
)

MakeTerm = Callable[[float], Term]
ROUNDING = 1e-9  # of a few steps in float64
STRENGTH = 0.5


def term(
    make: MakeTerm,
    *,
    memory: Memory | None = None,
    anchor: Callable[[State], Params] | None = None,
    hidden: tuple[int, ...] = (8, 6),
    together: bool = False,
) -> None:
    """Every law of terms.

    Args:
        make: `(strength) -> Term`; at strength 0 it changes nothing.
        memory: What the term draws from; None if it draws nothing.
        anchor: `(s) -> params`: where its penalty pulls nowhere; None if there is no such place.
        hidden: Widths of the hidden layers of the small network.
        together: Whether it needs the heads of all tasks; a term with a memory does.

    >>> from clfunc import terms
    >>> term(terms.l2_init, anchor=lambda s: s.initial)
    """
    case = Case(
        name=make(STRENGTH).name,
        make=_finetuned(make(STRENGTH), memory),
        neutral=_finetuned(make(0.0), memory),
        vary=_finetuned(make(STRENGTH / 2), memory),
        together=together or memory is not None,
        hidden=hidden,
    )
    for law in algorithm_laws:
        if law is not learns_two_real_tasks:
            law(case)
    review_depends_neither_on_batches_nor_on_padding(case)
    rows_of_weight_zero_change_no_bit(case)
    order_of_terms_does_not_matter(case, make, memory)
    if anchor is not None:
        penalty_pulls_nowhere_at_its_anchor(case, make(STRENGTH), anchor)


def _finetuned(part: Term, memory: Memory | None) -> Callable[..., Algorithm]:
    return lambda model, tx: finetuning(model, tx, terms=(part,), memory=memory)


def review_depends_neither_on_batches_nor_on_padding(case: Case) -> None:
    """A review in batches of 5, 8 or 24 gives the same state, to rounding; and what stands in rows
    of weight 0 changes no bit.
    """
    for paradigm in ("til", "cil", "dil"):
        algorithm = case.build(case.make, sgd(0.1, 0.9), torch.float64, paradigm)
        if algorithm.review is None:
            return
        scenario = case.scenario(paradigm)
        params, state = play(algorithm, scenario, key(1))
        stream = scenario.train(scenario.num_tasks - 1)
        rows = stream.train[:24]
        found = []
        for size in (5, 8, 24):
            for filler in (0, 7):
                after = state
                for part in rows.split(size):
                    shown = torch.cat([part, rows[filler].expand(size - len(part))])
                    weight = (torch.arange(size) < len(part)).to(torch.get_default_dtype())
                    batch = scenario.batch(scenario.data, bare(stream), shown, weight)
                    after = algorithm.review(params, after, batch)
                found.append(after)
        for other in found[1:]:
            assert distance(found[0], other) < ROUNDING, "a review depends on the size of batches"
        for plain, filled in zip(found[::2], found[1::2], strict=True):
            assert identical(plain, filled), "a review sees rows of weight 0"


def rows_of_weight_zero_change_no_bit(case: Case) -> None:
    """Whatever stands in rows of weight 0, a step gives the same bits."""
    for paradigm in ("til", "cil", "dil"):
        algorithm = case.build(case.make, sgd(0.1, 0.9), paradigm=paradigm)
        scenario = case.scenario(paradigm)
        params, state = play(algorithm, scenario, key(1))
        stream = scenario.train(0)
        params, state = algorithm.begin_task(params, state, _first_task(stream.task))
        batch = scenario.batch(scenario.data, bare(stream), stream.train[:8])
        weight = (torch.arange(8) < 5).to(batch.weight.dtype)
        batch = batch._replace(weight=weight)
        noise = normal(key(3), tuple(batch.x.shape), dtype=batch.x.dtype)
        keep = weight > 0
        assert isinstance(batch.rows, Tensor)
        other = batch._replace(
            x=torch.where(tree.expand_last(keep, batch.x.ndim), batch.x, 100 * noise),
            y=torch.where(keep, batch.y, batch.y[0]),
            rows=torch.where(keep, batch.rows, batch.rows[0]),
        )
        one = algorithm.step(params, state, batch)
        two = algorithm.step(params, state, other)
        assert identical(one, two), f"{paradigm}: a row of weight 0 changes a step"


def _first_task(number: Tensor) -> Task:
    one = torch.ones_like(number)
    return Task(id=number, steps_per_epoch=one, epochs=one)


def order_of_terms_does_not_matter(case: Case, make: MakeTerm, memory: Memory | None) -> None:
    """With another term, before it or after it, training gives the same params, to rounding."""
    part, other = make(STRENGTH), l2_init(0.1, name="another")

    def trained(*terms: Term) -> Params:
        def build(model: Model, tx: Transform) -> Algorithm:
            return finetuning(model, tx, terms=terms, memory=memory)

        algorithm = case.build(build, sgd(0.1, 0.9), torch.float64)
        params, _ = play(algorithm, case.scenario(), key(1))
        return params

    far = distance(trained(part, other), trained(other, part))
    assert far < ROUNDING, "the order of terms matters"


def penalty_pulls_nowhere_at_its_anchor(
    case: Case, part: Term, anchor: Callable[[State], Params]
) -> None:
    """At the anchor of a penalty its gradient is exactly 0."""
    assert part.penalty is not None, "only a penalty has an anchor"
    _, state = play(case.build(case.make, sgd(0.1, 0.9)), case.scenario(), key(1))
    own = state.parts.terms[part.name]
    for name, leaf in tree.items(grad(part.penalty, argnums=1)(own, anchor(own))):
        assert not leaf.any(), f"the penalty pulls {name} at its anchor"


def mixed(make: Callable[[Any], Any]) -> None:
    """The laws of batches that mix tasks, for a network: each example has its own task's head, the
    gradient of a mixed batch is the weighted sum of its parts', and a head without an example keeps
    its bits under any optimiser.

    Args:
        make: `(head) -> Model` on images of 4x4 pixels, in float64.

    >>> from clfunc import mlp
    >>> mixed(lambda head: mlp((1, 4, 4), (5,), head, dtype=torch.float64))
    """
    scenario = toy_stream()
    model = make(scenario.head(together=True))
    streams = [scenario.train(task) for task in (0, 2)]
    parts = []
    for stream, count in zip(streams, (5, 3), strict=True):
        part = scenario.batch(scenario.data, bare(stream), stream.train[:count])
        parts.append(part._replace(task=part.task.expand(count), x=part.x.double()))
    both: Batch = tree.map(lambda *leaves: torch.cat(leaves), *parts)

    params = model.init(key(0))
    _each_example_has_its_own_head(model, params, both)

    def gradient(batch: Batch) -> Params:
        def loss(params: Params) -> Tensor:
            logits = model.apply(params, batch.x, batch.task).logits
            return heads.cross_entropy(logits, batch.y, batch.weight)

        return grad(loss)(params)

    first, second = (gradient(part) for part in parts)
    expected = tree.add(tree.scale(first, 5 / 8), tree.scale(second, 3 / 8))
    assert distance(gradient(both), expected) < ROUNDING, (
        "a mixed batch is not the sum of its parts"
    )
    for tx in (sgd(0.1, 0.9, weight_decay=0.1), adam(0.1)):
        _absent_heads_keep_their_bits(finetuning(model, tx), both, key(1))


def _each_example_has_its_own_head(model: Model, params: Params, batch: Batch) -> None:
    """Assert that an example's logits are those of its task, and that tasks differ."""
    logits = model.apply(params, batch.x, batch.task).logits
    for row, task in enumerate(batch.task):
        alone = model.apply(params, batch.x[row, None], task).logits[0]
        assert distance(logits[row], alone) < ROUNDING, "an example has not its own task's head"
    other = model.apply(params, batch.x, 2 - batch.task).logits
    assert distance(logits, other) > ROUNDING, "two tasks have one head"


def _absent_heads_keep_their_bits(algorithm: Algorithm, batch: Batch, start: Key) -> None:
    """Assert it for task 1, which has trained before and so has momentum."""
    params, state = algorithm.init(start)
    params, state = algorithm.begin_task(params, state, _first_task(torch.tensor(1)))
    everyone = batch._replace(task=torch.arange(8) % 3)
    params, state, _ = algorithm.step(params, state, everyone)
    for _ in range(3):
        after, state, _ = algorithm.step(params, state, batch)
        for group, part in params.items():
            if group in ("head", "norm") and tree.leaves(part)[0].shape[0] == 3:
                before, now = tree.index(part, 1), tree.index(after[group], 1)
                assert identical(before, now), f"the {group} of an absent task moved"
        params = after
