"""The laws of transforms: what a wrapper must hand on, and what a projection promises."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.algorithms import finetuning
from clfunc.random import fold_in, key, normal_like
from clfunc.testing.algorithm_laws import (
    algorithm_laws,
    learns_two_real_tasks,
    neutral_is_finetuning,
)
from clfunc.testing.case import Case
from clfunc.testing.compare import distance, identical
from clfunc.testing.play import play
from clfunc.transforms import chain, sgd
from clfunc.types import (
    Batch,
    Context,
    Key,
    Memory,
    Metrics,
    Model,
    Params,
    State,
    Transform,
    Updates,
    follows_nothing,
)

HOOKS = ("update", "begin_task", "review", "end_task")
ROUNDING = 1e-5


class Counts(NamedTuple):
    """How often each hook of `counting` was called."""

    update: Tensor
    begin_task: Tensor
    review: Tensor
    end_task: Tensor


def counting() -> Transform:
    """A transform that passes updates on and counts how often each of its hooks is called."""

    def init(key: Key, params: Params) -> Counts:
        none = torch.zeros((), dtype=torch.int64, device=key.device)
        return Counts(none, none, none, none)

    def counted(hook: str) -> Callable[..., Counts]:
        def count(s: Counts, *_: Any) -> Counts:
            return s._replace(**{hook: getattr(s, hook) + 1})

        return count

    def update(
        updates: Updates, s: Counts, params: Params, context: Context
    ) -> tuple[Updates, Counts]:
        return updates, s._replace(update=s.update + 1)

    def metrics(s: Counts) -> Metrics:
        return {"counted": s.update.to(torch.float32)}

    return Transform(
        init=init,
        update=update,
        begin_task=counted("begin_task"),
        review=counted("review"),
        end_task=counted("end_task"),
        metrics=metrics,
        follows=follows_nothing,
        settings={"name": "counting"},
    )


def transform(
    make: Callable[[Model, Transform], Transform],
    *,
    memory: Memory | None = None,
    projects: bool = False,
    restarts: bool = True,
) -> None:
    """Every law of transforms.

    Args:
        make: `(model, inner) -> Transform`: a wrapper of `inner`, or one that stands before it:
            `lambda model, inner: chain(mine(), inner)`.
        memory: What it draws from; None if it draws nothing.
        projects: Whether it promises that no update opposes the gradient of remembered examples.
        restarts: Whether `inner` begins each task, as it does not under `carry`.

    >>> from clfunc import clip_by_global_norm
    >>> transform(lambda model, inner: chain(clip_by_global_norm(1.0), inner))
    """

    def build(model: Model, tx: Transform) -> Any:
        return finetuning(model, make(model, tx), memory=memory)

    case = Case("transform", build, together=memory is not None)
    for law in algorithm_laws:
        if law not in (learns_two_real_tasks, neutral_is_finetuning):
            law(case)
    a_wrapper_hands_every_hook_on(case, make, restarts)
    if projects:
        a_projection_keeps_its_promise(case, make)


def a_wrapper_hands_every_hook_on(
    case: Case, make: Callable[[Model, Transform], Transform], restarts: bool = True
) -> None:
    """Each hook of the transform inside is called as often as it would be by itself, and its
    metrics are handed on.
    """
    algorithm = case.build(case.make, chain(counting(), sgd(0.1)))
    calls = dict.fromkeys(HOOKS, 0)
    seen: dict[str, Any] = {}

    def call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        result = function(*arguments)
        hook = {"step": "update"}.get(name, name)
        if hook in calls:
            calls[hook] += 1
        if name == "step":
            seen.update(result[2])
        return result

    _, state = play(algorithm, case.scenario(), key(1), call)
    (counts,) = [part for part in _parts(state) if isinstance(part, Counts)]
    assert algorithm.review is not None, "the review of the transform inside is lost"
    if not restarts:
        calls["begin_task"] = 0
    for hook, count in calls.items():
        found = int(getattr(counts, hook))
        assert found == count, (
            f"{hook} of the transform inside is called {found} times, not {count}"
        )
    assert "counted" in seen, "the metrics of the transform inside are lost"


def _parts(state: State) -> list[Any]:
    """Every tuple in a state, however deep."""
    found = []
    if isinstance(state, tuple):
        found.append(state)
        for part in state:
            found += _parts(part)
    return found


def a_projection_keeps_its_promise(
    case: Case, make: Callable[[Model, Transform], Transform]
) -> None:
    """No projected gradient opposes that of remembered examples; one that does not oppose it passes
    as it is; and to project twice is to project once.
    """

    def nothing(key: Key, params: Params) -> State:
        return ()

    def as_it_is(updates: Updates, s: State, params: Params, context: Context) -> Any:
        return updates, s

    last = Transform(init=nothing, update=as_it_is, settings={"name": "nothing"})
    algorithm = case.build(case.make, last)
    params, _ = algorithm.init(key(1))
    scenario = case.scenario()
    batch = scenario.batch(scenario.data, scenario.train(0), scenario.train(0).train[:8])
    tx = make(_model_of(case), last)
    opposed = 0
    for seed in range(20):
        gradient, reference = (normal_like(fold_in(key(seed), number), params) for number in (1, 2))
        context = _remembering(batch, reference)
        s = tx.init(key(seed), params)
        projected, after = tx.update(gradient, s, params, context)
        along = float(tree.vdot(gradient, reference))
        size = float(tree.vdot(reference, reference))
        assert float(tree.vdot(projected, reference)) > -ROUNDING * size, "it opposes the memory"
        if along >= 0:
            assert identical(projected, gradient), "what does not oppose the memory is changed"
        else:
            opposed += 1
        twice, _ = tx.update(projected, after, params, context)
        assert distance(projected, twice) < ROUNDING, "projected twice it moves again"
    assert 0 < opposed < 20


def _remembering(batch: Batch, reference: Params) -> Context:
    """A context in which remembered examples have this gradient."""
    return Context(
        features={},
        task=batch.task,
        used={},
        batch=batch,
        gradient=lambda _: reference,
        draw=lambda *_, **__: batch,
        remembered=lambda: batch,
    )


def _model_of(case: Case) -> Model:
    found: list[Model] = []

    def noted(model: Model, tx: Transform) -> Any:
        found.append(model)
        return case.make(model, tx)

    case.build(noted, sgd(0.1))
    return found[0]
