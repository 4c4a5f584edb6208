"""The examples of a forget set: which entries of a task they are, and a scenario that never trains
on them.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.func import vmap

from clfunc.driver.evaluate import AT_ONCE, bare, with_runs
from clfunc.scenarios import Scenario, Stream
from clfunc.types import Batch
from clfunc.unlearning.forget_sets import ForgetSet, order

EXAMPLES = 2048  # the measures look at no more examples of a part of a task, evenly spaced


def over_entries(
    scenario: Scenario,
    stream: Stream,
    entries: Int[Tensor, "runs n"],
    f: Callable[[Batch], Tensor],
) -> Tensor:
    """`f` of the batches of these entries, `[runs, n, ...]`; the batches are small enough for the
    caches.
    """
    make = vmap(scenario.batch, in_dims=(None, 0, 0))
    parts = []
    for some in entries.split(max(1, AT_ONCE // len(entries)), -1):
        batch = make(scenario.data, bare(stream), some)
        parts.append(f(batch))
    return torch.cat(parts, 1)


def marked(
    scenario: Scenario, stream: Stream, entries: Int[Tensor, "runs n"], forget_set: ForgetSet
) -> Bool[Tensor, "runs n"]:
    """Which entries of its task a set of rows or classes holds; a whole task holds all of them."""
    if forget_set.is_whole_task:
        return torch.ones_like(entries, dtype=torch.bool)
    if forget_set.rows:
        return torch.isin(entries, torch.tensor(forget_set.rows, device=entries.device))
    labels = over_entries(scenario, stream, entries, lambda batch: batch.y)
    return torch.isin(labels, torch.tensor(forget_set.classes, device=entries.device))


def spaced(listed: Tensor, size: Tensor, most: int = EXAMPLES) -> Tensor:
    """At most so many entries of each run's list, evenly spaced over the part that counts."""
    count = min(most, int(size.min()))
    places = torch.arange(count, device=listed.device) * size[..., None] // max(1, count)
    return listed.gather(-1, places)


def chosen_first(
    listed: Int[Tensor, "runs n"], chosen: Bool[Tensor, "runs n"]
) -> Int[Tensor, "runs n"]:
    """The same lists with the chosen entries first, each part in its old order."""
    places = torch.argsort((~chosen).to(torch.int64), dim=-1, stable=True)
    return listed.gather(-1, places)


def within(listed: Int[Tensor, "runs n"], size: Int[Tensor, " runs"]) -> Bool[Tensor, "runs n"]:
    """Which entries of a list count; the others are padding."""
    return torch.arange(listed.shape[-1], device=listed.device) < size[..., None]


def without_examples(scenario: Scenario, left_out: Sequence[Sequence[ForgetSet]]) -> Scenario:
    """The scenario with one run for each entry of `left_out`; a run never trains on the examples of
    its sets.

    The training lists keep their shapes, so all runs have the same number of steps: a run with
    fewer examples meets some of them twice in an epoch.

    Args:
        scenario: Shared by all runs, or with an axis of as many runs.
        left_out: For each run, sets of rows or of classes.
    """
    runs = len(left_out)
    streams: dict[int, Stream] = {}

    def train(phase: int) -> Stream:
        if phase not in streams:
            task = scenario.phases[phase] - 1
            of_task = [[one for one in sets if one.task == task] for sets in left_out]
            stream = with_runs(scenario, scenario.train(phase), runs)
            streams[phase] = _without(scenario, stream, of_task) if any(of_task) else stream
        return streams[phase]

    def test(task: int) -> Stream:
        return with_runs(scenario, scenario.test(task), runs)

    return scenario._replace(train=train, test=test, runs=runs)


def _without(scenario: Scenario, stream: Stream, left_out: Sequence[Sequence[ForgetSet]]) -> Stream:
    """A task's stream whose training lists end before the examples that a run leaves out."""
    stays = within(stream.train, stream.sizes[..., 0])
    distinct = {forget_set for sets in left_out for forget_set in sets}
    for forget_set in sorted(distinct, key=order):
        leaves_out = torch.tensor([forget_set in sets for sets in left_out], device=stays.device)
        held = marked(scenario, stream, stream.train, forget_set)
        stays = stays & ~(held & leaves_out[:, None])

    counts = stays.sum(-1)
    if (counts == 0).any():
        label = ForgetSet(min(distinct, key=order).task).label
        raise ValueError(
            f"the forget sets of {label} hold all examples that it trains on: forget the task"
            " instead"
        )
    sizes = torch.cat([counts[:, None], stream.sizes[..., 1:]], -1)
    return stream._replace(train=chosen_first(stream.train, stays), sizes=sizes)
