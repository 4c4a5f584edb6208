"""Loss and accuracy over all examples of a part of the data, as exact counts."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import vmap

from clfunc import tree
from clfunc.losses import cross_entropy_each, squared_error_each
from clfunc.scenarios import Scenario, Stream
from clfunc.types import Algorithm, Metrics, Params, State

AT_ONCE = 2**13  # examples of one forward pass, over all runs: more would leave the caches
_PARTS = {"train": 0, "valid": 1, "test": 2}


def over_runs(f: Callable[..., Any], runs: int | None, in_dims: Any = 0) -> Callable[..., Any]:
    """`f` for one run, or under `vmap` for many."""
    return f if runs is None else vmap(f, in_dims=in_dims)


def with_runs(scenario: Scenario, stream: Stream, runs: int | None) -> Stream:
    """A stream with the axis of runs. Where the scenario has none, all runs share the stream."""
    if runs is None or scenario.runs is not None:
        return stream
    return tree.map(lambda leaf: leaf.expand(runs, *leaf.shape), stream)


def bare(stream: Stream) -> Stream:
    """A stream without its lists of entries, which has the same shapes for every task.

    A batch needs no more of it.
    """
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
    """The loss and the accuracy of `predict` on a part of a task, `[*runs]` float64.

    `loss` is the mean cross-entropy in nats, `accuracy` is in [0, 1].
    In regression the loss is the mean squared error, and accuracy NaN. Both are NaN for a run whose
    logits are: it has diverged, and an argmax of NaN would pass for a guess.

    Args:
        algorithm: With the axis of runs if `runs` is given, as `params`, `state` and `stream`.
        scenario: The scenario of the stream.
        params: The algorithm's parameters.
        state: The algorithm's state.
        stream: The task.
        part: Which examples of the task.
        runs: How many runs, or None for one run, which has no axis.
    """
    listed = getattr(stream, part)
    size = stream.sizes[..., _PARTS[part]]
    positions = torch.arange(listed.shape[-1], device=listed.device)
    weight = (positions < size[..., None]).to(torch.float32)
    make_batch = over_runs(scenario.batch, runs, (None, 0, 0, 0))
    is_regression = scenario.paradigm == "regression"
    loss_of_each = over_runs(squared_error_each if is_regression else cross_entropy_each, runs)
    correct = torch.zeros_like(size, dtype=torch.float64)
    loss = torch.zeros_like(size, dtype=torch.float64)
    at_once = max(1, AT_ONCE // (runs or 1))
    parts = zip(listed.split(at_once, -1), weight.split(at_once, -1), strict=True)
    for entries, counts in parts:
        batch = make_batch(scenario.data, bare(stream), entries, counts)
        logits = algorithm.predict(params, state, batch.x, batch.task)
        losses = torch.where(counts > 0, loss_of_each(logits, batch.y), 0.0)
        loss = loss + losses.sum(-1, dtype=torch.float64)
        if not is_regression:
            correct = correct + _correct(logits, batch.y, counts)
    if is_regression:
        correct = torch.full_like(correct, torch.nan)
    return {"loss": loss / size, "accuracy": correct / size}


def _correct(logits: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """How many examples are classified right, `[*runs]`; NaN where a logit is NaN."""
    counted = ((logits.argmax(-1) == y) & (weight > 0)).sum(-1)
    return torch.where(logits.isnan().flatten(-2).any(-1), torch.nan, counted)
