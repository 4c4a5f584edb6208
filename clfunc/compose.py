"""`lift`: an algorithm inside a wrapper's state. What a wrapper does not change, it takes from here."""

from typing import Any

from torch import Tensor

from clfunc.types import Algorithm, Batch, Inputs, Logits, Metrics, Params, State, Task, TaskId


def lift(inner: Algorithm) -> Algorithm:
    """`inner`, acting on the field `inner` of a larger state (a NamedTuple), whatever else that state holds.

    A wrapper is `lift(inner)._replace(init=..., step=..., settings=...)`: its `init` makes the larger state.
    """

    def step(params: Params, state: State, batch: Batch) -> tuple[Params, State, Metrics]:
        params, new, metrics = inner.step(params, state.inner, batch)
        return params, state._replace(inner=new), metrics

    def predict(params: Params, state: State, x: Inputs, task: TaskId) -> Logits:
        return inner.predict(params, state.inner, x, task)

    def begin_task(params: Params, state: State, task: Task) -> tuple[Params, State]:
        params, new = inner.begin_task(params, state.inner, task)
        return params, state._replace(inner=new)

    def end_epoch(params: Params, state: State, metrics: Metrics) -> tuple[Params, State]:
        params, new = inner.end_epoch(params, state.inner, metrics)
        return params, state._replace(inner=new)

    def end_task(params: Params, state: State) -> tuple[Params, State]:
        params, new = inner.end_task(params, state.inner)
        return params, state._replace(inner=new)

    def own(params: Params, state: State) -> Params:
        return inner.own(params, state.inner)

    def restore(params: Params, state: State, own: Params, gone: Tensor) -> tuple[Params, State]:
        params, new = inner.restore(params, state.inner, own, gone)
        return params, state._replace(inner=new)

    probe, unlearn = None, None
    if inner.probe is not None:
        inner_probe = inner.probe

        def probe(params, state, batch):
            return inner_probe(params, state.inner, batch)

    if inner.unlearn is not None:
        inner_unlearn = inner.unlearn

        def unlearn(params, state, tasks):
            params, new = inner_unlearn(params, state.inner, tasks)
            return params, state._replace(inner=new)

    features = None
    if inner.features is not None:
        inner_features = inner.features

        def features(params, state, x, task):
            return inner_features(params, state.inner, x, task)

    hooks = (begin_task, end_epoch, end_task, probe, unlearn)
    more: dict[str, Any] = {"own": own, "restore": restore, "features": features}
    return Algorithm(inner.init, step, predict, *hooks, settings=inner.settings, **more)
