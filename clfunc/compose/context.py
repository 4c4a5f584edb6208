"""What a step tells its terms and its transform: the batch, the network as the algorithm runs it,
and what the memory remembers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad

from clfunc import tree
from clfunc.random import bits
from clfunc.types import (
    Batch,
    Context,
    Key,
    Logits,
    Memory,
    Metrics,
    Model,
    Output,
    Params,
    State,
    TaskId,
    Wire,
)

_NEVER = 2**32  # the rank of a slot that may not be drawn, above every random word


def same(gradient: Params) -> Params:
    """The gradient as it is."""
    return gradient


def moved_freely(before: Params, after: Params) -> Params:
    """The params after a step, when nothing holds them."""
    return after


class Network(NamedTuple):
    """The network as an algorithm runs it at one step."""

    # (params, batch, key) -> Output; a key is for dropout
    forward: Callable[[Params, Batch, Key | None], Output]
    # (logits, task) -> logits with -inf where a class does not count
    mask: Callable[[Logits, TaskId], Logits]
    # (output) -> what the algorithm adds to the loss, and its metrics
    extra: Callable[[Output], tuple[Tensor, Metrics]] | None = None
    # by unit group, [units]: 1 where earlier tasks own the unit, and how many do; None: no mask
    used: dict[str, Tensor] | None = None
    claims: dict[str, Tensor] | None = None
    # what the algorithm makes of the gradient before the transform, and of the params after it
    push: Callable[[Params], Params] = same
    hold: Callable[[Params, Params], Params] = moved_freely


def network_of(model: Model, head: State) -> Network:
    """The network with what is in params, under the head's masks.

    Args:
        model: The network and its head.
        head: The state of the head's bank.
    """

    def forward(params: Params, batch: Batch, key: Key | None) -> Output:
        return model.apply(params, batch.x, batch.task, key=key)

    return Network(forward=forward, mask=partial(model.head.mask, head))


class Store(NamedTuple):
    """A memory with its state at one step."""

    memory: Memory | None
    state: State
    step: State  # the number of the step, which numbers the draws

    def held(self, like: Batch) -> Batch:
        """All remembered examples, in the shape of the examples of a batch."""
        if self.memory is None:
            raise ValueError("there is no memory to draw from: give memory=memories.reservoir(500)")
        held = self.memory.rows(self.state)
        return held._replace(x=held.x.reshape(len(held.x), *like.x.shape[1:]))

    def drawn(self, like: Batch, key: Key, n: int, earlier: bool) -> Batch:
        """`n` examples without replacement; weight 0 where there are fewer."""
        held = self.held(like)
        free = held.weight > 0
        if earlier and like.task.ndim:
            raise ValueError(
                "a batch that mixes tasks has none before it: draw from a memory without"
                " earlier=True"
            )
        if earlier:
            free = free & (held.task != like.task)
        word = bits(key, (len(free),), at=self.step)
        chosen = torch.argsort(torch.where(free, word, _NEVER), stable=True)[:n]
        some = tree.index(held, chosen)
        return some._replace(weight=torch.where(free[chosen], some.weight, 0.0))


def context_of(
    network: Network,
    loss_of: Callable[[Logits, Batch], Tensor],
    store: Store,
    wires: tuple[Wire, ...],
    params: Params,
    batch: Batch,
    noise: Key | None = None,
) -> Context:
    """The context of a step without what its forward pass finds.

    Args:
        network: As the algorithm runs it.
        loss_of: `(masked logits, batch) -> 0-d`.
        store: The memory.
        wires: The model's.
        params: All params. What a term is given takes the place of these.
        batch: The batch of the step.
        noise: Of dropout, in what the context computes.
    """

    def forward(given: Params, shown: Batch) -> Output:
        return network.forward({**params, **given}, shown, noise)

    def logits(given: Params, shown: Batch) -> Logits:
        return network.mask(forward(given, shown).logits, shown.task)

    def loss(given: Params, shown: Batch) -> Tensor:
        return loss_of(logits(given, shown), shown)

    def gradient(shown: Batch) -> Params:
        return grad(loss)(tree.map(torch.detach, params), shown)

    def draw(key: Key, n: int, earlier: bool = False) -> Batch:
        return store.drawn(batch, key, n, earlier)

    def remembered() -> Batch:
        return store.held(batch)

    return Context(
        features={},
        task=batch.task,
        used=network.used or {},
        claims=network.claims or {},
        batch=batch,
        forward=forward,
        logits=logits,
        loss=loss,
        gradient=gradient,
        draw=draw,
        remembered=remembered,
        wires=wires,
    )


def seen(context: Context, output: Output, **more: Any) -> Context:
    """A context with what the forward pass of the batch found, detached."""
    output = tree.map(torch.detach, output)
    none = {}
    for group, feature in output.features.items():
        none[group] = feature.new_zeros(feature.shape[1])
    return context._replace(
        features=output.features,
        used=context.used or none,
        claims=context.claims or none,
        gates=output.gates or tree.map(torch.ones_like, none),
        output=output,
        **more,
    )
