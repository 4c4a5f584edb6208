"""Loss and accuracy over all examples of a part of the data: exact counts, never a mean of batch means."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.func import vmap

from clfunc import tree
from clfunc.losses import cross_entropy_each, squared_error_each
from clfunc.scenarios import Scenario, Stream
from clfunc.types import Algorithm, Metrics, Params, State

AT_ONCE = 2**13  # examples, over all runs: more would leave the caches
_PARTS = {"train": 0, "valid": 1, "test": 2}


def over_runs(f: Callable[..., Any], runs: int | None, in_dims: Any = 0) -> Callable[..., Any]:
    """`f` for one run, or under `vmap` for many."""
    return f if runs is None else vmap(f, in_dims=in_dims)


def with_runs(scenario: Scenario, stream: Stream, runs: int | None) -> Stream:
    """A stream with the axis of runs: its own, or one along which all runs share it."""
    if runs is None or scenario.runs is not None:
        return stream
    return tree.map(lambda leaf: leaf.expand(runs, *leaf.shape), stream)


def bare(stream: Stream) -> Stream:
    """What a batch needs of a stream besides its entries: tensors of one shape for all tasks."""
    none = stream.train[..., :0]
    return stream._replace(train=none, valid=none, test=none)


def score(
    algorithm: Algorithm,
    scenario: Scenario,
    params: Params,
    state: State,
    stream: Stream,
    part: Literal["train", "valid", "test"] = "test",
    runs: int | None = None,
) -> Metrics:
    """`loss` (mean cross-entropy, nats) and `accuracy` (in [0, 1]) of `predict` on a part of a task, `[*runs]` float64.

    In regression the loss is the mean squared error, and accuracy NaN. Both are NaN for a run whose logits are: it has
    diverged, and an argmax of NaN would pass for a guess.

    `algorithm`, `params`, `state` and `stream` have an axis of runs if `runs` is given.
    """
    listed, size = getattr(stream, part), stream.sizes[..., _PARTS[part]]
    weight = (torch.arange(listed.shape[-1], device=listed.device) < size[..., None]).to(
        torch.float32
    )
    make = over_runs(scenario.batch, runs, (None, 0, 0, 0))
    numbers = scenario.paradigm == "regression"
    each = over_runs(squared_error_each if numbers else cross_entropy_each, runs)
    correct, loss = (torch.zeros_like(size, dtype=torch.float64) for _ in range(2))
    at_once = max(1, AT_ONCE // (runs or 1))
    for entries, w in zip(listed.split(at_once, -1), weight.split(at_once, -1), strict=True):
        batch = make(scenario.data, bare(stream), entries, w)
        logits = algorithm.predict(params, state, batch.x, batch.task)
        if numbers:
            correct = torch.full_like(correct, torch.nan)
        else:
            correct = correct + ((logits.argmax(-1) == batch.y) & (w > 0)).sum(-1)
            correct = torch.where(logits.isnan().flatten(-2).any(-1), torch.nan, correct)
        loss = loss + torch.where(w > 0, each(logits, batch.y), 0.0).sum(-1, dtype=torch.float64)
    return {"loss": loss / size, "accuracy": correct / size}
