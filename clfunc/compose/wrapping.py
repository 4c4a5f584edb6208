"""Wrappers: an algorithm inside another, a transform inside another, and an optimiser whose state
forgets a group of the parameters.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from clfunc import tree
from clfunc.bank import in_fields, shared
from clfunc.types import (
    Algorithm,
    Bank,
    Batch,
    Context,
    Inputs,
    Logits,
    Metrics,
    Params,
    State,
    TaskId,
    Transform,
    follows_nothing,
)


def lift(inner: Algorithm) -> Algorithm:
    """`inner`, acting on the field `inner` of a larger state (a NamedTuple), whatever else that
    state holds.

    A wrapper is `lift(inner)._replace(init=..., step=..., settings=...)`: its `init` makes the
    larger state.
    """

    def step(params: Params, state: State, batch: Batch) -> tuple[Params, State, Metrics]:
        params, new, metrics = inner.step(params, state.inner, batch)
        return params, state._replace(inner=new), metrics

    def predict(params: Params, state: State, x: Inputs, task: TaskId) -> Logits:
        return inner.predict(params, state.inner, x, task)

    return Algorithm(
        init=inner.init,
        step=step,
        predict=predict,
        begin_task=_changing(inner.begin_task),
        end_epoch=_changing(inner.end_epoch),
        review=None if inner.review is None else _reviewing(inner.review),
        end_task=_changing(inner.end_task),
        probe=None if inner.probe is None else _reading(inner.probe),
        unlearn=None if inner.unlearn is None else _changing(inner.unlearn),
        settings=inner.settings,
        features=None if inner.features is None else _reading(inner.features),
        bank=None if inner.bank is None else in_fields({"inner": inner.bank}),
    )


def _changing(hook: Callable[..., tuple[Params, State]]) -> Callable[..., tuple[Params, State]]:
    """A hook that returns params and state, on the field `inner`."""

    def lifted(params: Params, state: State, *more: Any) -> tuple[Params, State]:
        params, new = hook(params, state.inner, *more)
        return params, state._replace(inner=new)

    return lifted


def _reviewing(review: Callable[..., State]) -> Callable[..., State]:
    """A review, on the field `inner`."""

    def lifted(params: Params, state: State, batch: Batch) -> State:
        return state._replace(inner=review(params, state.inner, batch))

    return lifted


def _reading(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that changes no state, on the field `inner`."""

    def lifted(params: Params, state: State, *more: Any) -> Any:
        return hook(params, state.inner, *more)

    return lifted


def passing(inner: Transform) -> dict[str, Any]:
    """The hooks of a transform that wraps `inner`, whose state is the field `inner` of its own.

    A wrapper is `Transform(init=..., update=..., settings=..., **passing(inner))`, and no hook of
    what it wraps is lost. It replaces those to which it adds something.
    """

    def begin_task(state: State, params: Params) -> State:
        return state._replace(inner=inner.begin_task(state.inner, params))

    def review(state: State, params: Params, context: Context) -> State:
        assert inner.review is not None
        return state._replace(inner=inner.review(state.inner, params, context))

    def end_task(state: State, params: Params) -> State:
        return state._replace(inner=inner.end_task(state.inner, params))

    def metrics(state: State) -> Metrics:
        return inner.metrics(state.inner)

    def follows(state: State) -> Any:
        return follows_nothing(state)._replace(inner=inner.follows(state.inner))

    return {
        "begin_task": begin_task,
        "review": None if inner.review is None else review,
        "end_task": end_task,
        "metrics": metrics,
        "follows": follows,
    }


def bank_of(algorithm: Algorithm) -> Bank:
    """What each task has for itself under this algorithm.

    The bank that keeps nothing where tasks share all.
    """
    return shared() if algorithm.bank is None else algorithm.bank


def forget_groups(tx: Transform, state: State, groups: Sequence[str]) -> State:
    """The state of `tx` with zeros in every leaf that follows one of these groups of the
    parameters.

    An algorithm calls it when a task brings its own groups. Without it, under `carry`, the momentum
    of one task's head would move the head of the next task.
    """

    def clear(leaf: Tensor, name: str) -> Tensor:
        return torch.zeros_like(leaf) if name.split(".")[0] in groups else leaf

    return tree.map(clear, state, tx.follows(state))


def optimizer_of(state: State) -> State:
    """The optimiser's state (the field `opt`), however deep in the states of wrappers (their field
    `inner`).
    """
    return state.opt if hasattr(state, "opt") else optimizer_of(state.inner)


def with_optimizer(state: State, opt: State, keep: str) -> State:
    """`state` with `opt` in place of the optimiser's state, but for its leaves whose name ends in
    `keep`.
    """
    if not hasattr(state, "opt"):
        return state._replace(inner=with_optimizer(state.inner, opt, keep))

    def chosen(name: str, given: Tensor, now: Tensor) -> Tensor:
        return now if name.split(".")[-1] == keep else given

    return state._replace(opt=tree.map_items(chosen, opt, state.opt))
