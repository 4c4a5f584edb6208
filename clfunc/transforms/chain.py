"""Transforms made of transforms: `chain` one after the other, `carry` across tasks."""

from collections.abc import Sequence
from typing import Any

from clfunc.random import split
from clfunc.settings import declared, declares, of_part
from clfunc.types import (
    Context,
    Key,
    Metrics,
    Params,
    Settings,
    State,
    Transform,
    Updates,
    keep_state,
)


def chain(*transforms: Transform) -> Transform:
    """Apply each transform to the updates that the one before it made; its state is the tuple of
    theirs.

    Order matters: a transform that scales gradients stands before the optimiser, a mask that
    promises freezing after it.

    Args:
        transforms: In order. Without any, updates pass unchanged.

    Raises:
        ValueError: A transform that resets units is not the last of the chain (the next one would
            change its resets), or a projection of gradients comes after an optimiser (it would
            project its steps, which point the other way).

    >>> from clfunc import chain, clip_by_global_norm, sgd
    >>> tx = chain(clip_by_global_norm(1.0), sgd(0.1))
    >>> [part["name"] for part in tx.settings["of"]]
    ['clip_by_global_norm', 'sgd']
    """
    for tx in transforms[:-1]:
        name = declares(tx.settings, "place", "last")
        if name is not None:
            names = [part.settings.get("name") for part in transforms]
            raise ValueError(
                f"{name} must come last in a chain, given {names}:"
                f" wrap the optimiser, {name}(model, chain(...))"
            )

    for index, tx in enumerate(transforms):
        name = declares(tx.settings, "place", "gradient")
        before = declared([part.settings for part in transforms[:index]], "lr")
        if name is not None and before:
            optimiser = before[0][0]
            raise ValueError(
                f"{name} projects gradients, and {optimiser} before it makes steps of them: give"
                f" chain({name}(...), {optimiser}(...))"
            )

    def init(key: Key, params: Params) -> State:
        keys = split(key, max(len(transforms), 1))
        return tuple(tx.init(keys[i], params) for i, tx in enumerate(transforms))

    def update(
        updates: Updates, state: State, params: Params, context: Context
    ) -> tuple[Updates, State]:
        states = []
        for tx, old in zip(transforms, state, strict=True):
            updates, new = tx.update(updates, old, params, context)
            states.append(new)
        return updates, tuple(states)

    def per_element() -> Transform:
        return chain(*[by_element(tx) for tx in transforms])

    settings: Settings = {
        "name": "chain",
        "of": [of_part(tx, tx.update) for tx in transforms],
    }
    return Transform(
        init=init,
        update=update,
        settings=settings,
        per_element=per_element,
        **_hooks(transforms),
    )


def _hooks(transforms: Sequence[Transform]) -> dict[str, Any]:
    """The hooks of a chain, which are those of all its transforms."""

    def begin_task(state: State, params: Params) -> State:
        return tuple(tx.begin_task(old, params) for tx, old in zip(transforms, state, strict=True))

    def review(state: State, params: Params, context: Context) -> State:
        pairs = zip(transforms, state, strict=True)
        return tuple(
            old if tx.review is None else tx.review(old, params, context) for tx, old in pairs
        )

    def end_task(state: State, params: Params) -> State:
        return tuple(tx.end_task(old, params) for tx, old in zip(transforms, state, strict=True))

    def metrics(state: State) -> Metrics:
        found: Metrics = {}
        for tx, own in zip(transforms, state, strict=True):
            found |= tx.metrics(own)
        return found

    def follows(state: State) -> State:
        return tuple(tx.follows(part) for tx, part in zip(transforms, state, strict=True))

    return {
        "begin_task": begin_task,
        "review": review if any(tx.review for tx in transforms) else None,
        "end_task": end_task,
        "metrics": metrics,
        "follows": follows,
    }


def carry(tx: Transform) -> Transform:
    """`tx` with its state kept across tasks, where an optimiser by itself restarts at each task.

    Args:
        tx: Any transform.

    >>> from clfunc import adam, carry
    >>> carry(adam()).settings["tx"]["name"]
    'adam'
    """

    def per_element() -> Transform:
        return carry(by_element(tx))

    return tx._replace(
        begin_task=keep_state,
        settings={"name": "carry", "tx": of_part(tx, tx.update)},
        per_element=per_element,
    )


def by_element(tx: Transform) -> Transform:
    """`tx` with every count kept element by element.

    `tx` itself where it counts nothing that matters to one element.
    """
    return tx if tx.per_element is None else tx.per_element()
