"""Transforms made of transforms: `chain` one after the other, `carry` across tasks."""

from typing import Any

from clfunc.random import split
from clfunc.types import Context, Key, Params, State, Transform, Updates, keep_state

RESETS = ("reinit", "reset_dormant", "reset_silent")


def chain(*transforms: Transform) -> Transform:
    """Apply each transform to the updates that the one before it made; its state is the tuple of theirs.

    Order matters: what scales gradients stands before the optimiser, a mask that promises freezing after it.

    Raises:
        ValueError: What resets units is not the last of the chain (a later transform would change what it resets).
    """
    names = [tx.settings.get("name") for tx in transforms]
    for name in names[:-1]:
        if name in RESETS:
            raise ValueError(
                f"{name} must come last in a chain, given {names}: wrap the optimiser, {name}(model, chain(...))"
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

    def begin_task(state: State, params: Params) -> State:
        return tuple(tx.begin_task(old, params) for tx, old in zip(transforms, state, strict=True))

    def per_element() -> Transform:
        return chain(*[by_element(tx) for tx in transforms])

    settings: dict[str, Any] = {"name": "chain", "of": [tx.settings for tx in transforms]}
    return Transform(init, update, begin_task, settings, per_element)


def carry(tx: Transform) -> Transform:
    """`tx` with its memory kept across tasks, where an optimiser by itself restarts at each."""
    settings = {"name": "carry", "tx": tx.settings}
    return tx._replace(
        begin_task=keep_state, settings=settings, per_element=lambda: carry(by_element(tx))
    )


def by_element(tx: Transform) -> Transform:
    """`tx` with every count kept element by element; `tx` itself where it counts nothing that matters to one element."""
    return tx if tx.per_element is None else tx.per_element()
