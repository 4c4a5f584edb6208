"""The laws of memories: what they hold, and that it depends on nothing else."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from clfunc import tree
from clfunc.random import key, normal, permutation, split
from clfunc.testing.compare import identical
from clfunc.types import Batch, Key, Memory, State

TASKS, EACH = 3, 20  # tasks, and examples of each
_KEYS = 600  # over which a sample is counted


def memory(make: Callable[[int], Memory], *, uniform: bool = False, ordered: bool = False) -> None:
    """Every law of memories.

    Args:
        make: `(capacity) -> Memory`, for 3 tasks.
        uniform: Whether each example that was met is held with the same probability.
        ordered: Whether what it holds may depend on the order in which examples come.

    >>> from clfunc import memories
    >>> memory(memories.reservoir, uniform=True)
    """
    for capacity in (6, 24, 90):
        holds_what_it_met_and_nothing_twice(make(capacity))
        does_not_depend_on_how_the_stream_is_cut(make(capacity), ordered)
        empty_slots_weigh_nothing(make(capacity))
        rows_of_weight_zero_change_no_bit(make(capacity))
        a_batch_with_an_example_twice_adds_it_once(make(capacity))
        members_equal_themselves_alone(make(capacity))
        forgets_whole_tasks(make(capacity))
    if uniform:
        holds_each_example_equally_often(make(12))


def stream(tasks: int = TASKS) -> Batch:
    """All examples, task after task."""
    count = tasks * EACH
    number = torch.arange(count)
    return Batch(
        x=normal(key(5), (count, 4)),
        y=number % 2,
        task=number // EACH,
        weight=torch.ones(count),
        rows=number % EACH,
        notes={"logits": normal(key(6), (count, 2))},
    )


def filled(
    part: Memory,
    examples: Batch,
    start: Key,
    size: int = 7,
    epochs: int = 1,
    shuffled: bool = False,
) -> State:
    """The state of a memory that met the examples, in batches of `size`, padded with weight 0."""
    blank = tree.map(lambda leaf: torch.zeros_like(leaf[:1]), examples)
    s = part.init(start, blank)
    for epoch in range(epochs):
        count = len(examples.weight)
        order = torch.arange(count)
        if shuffled:
            order = permutation(key(epoch), count)
        for places in order.split(size):
            batch = tree.index(examples, places)
            short = size - len(places)
            padding = tree.map(
                lambda leaf, n=short: torch.zeros_like(leaf[:1]).expand(n, *leaf.shape[1:]),
                examples,
            )
            s = part.add(s, tree.map(lambda a, b: torch.cat([a, b]), batch, padding))
    return s


def held(part: Memory, s: State) -> set[tuple[int, int]]:
    """The (task, row) of every example that is held; AssertionError where one is held twice."""
    rows = part.rows(s)
    assert isinstance(rows.rows, Tensor), "it does not keep the rows of its examples"
    found = []
    for task, row, weight in zip(
        rows.task.tolist(), rows.rows.tolist(), rows.weight.tolist(), strict=True
    ):
        if weight > 0:
            found.append((task, row))
    assert len(found) == len(set(found)), "an example is held twice"
    return set(found)


def holds_what_it_met_and_nothing_twice(part: Memory) -> None:
    """After two epochs it holds examples that it met, as they came, none of them twice, and at most
    its capacity.
    """
    examples = stream()
    s = filled(part, examples, key(0), epochs=2, shuffled=True)
    capacity = part.settings["capacity"]
    assert part.rows(s).weight.shape[0] == capacity, "it has other rows than its capacity"
    found = held(part, s)
    assert found, "it holds nothing"
    met = {(number // EACH, number % EACH) for number in range(TASKS * EACH)}
    assert found <= met, "it holds an example that it did not meet"
    if capacity >= TASKS * EACH:
        assert len(found) == TASKS * EACH, "it has room for all, and does not hold all"
    rows = part.rows(s)
    assert isinstance(rows.rows, Tensor)
    for place in (rows.weight > 0).nonzero().flatten().tolist():
        which = int(rows.task[place]) * EACH + int(rows.rows[place])
        stored, given = tree.index(rows, place), tree.index(examples, which)
        assert identical(stored, given), "an example is not held as it came"


def does_not_depend_on_how_the_stream_is_cut(part: Memory, ordered: bool) -> None:
    """What it holds does not depend on the size of batches; nor, unless it goes by order, on epochs
    and order.
    """
    examples = stream()
    reference = held(part, filled(part, examples, key(0)))
    for size in (1, 16, 60):
        found = held(part, filled(part, examples, key(0), size))
        assert found == reference, f"in batches of {size} it holds others"
    if not ordered:
        again = held(part, filled(part, examples, key(0), 16, epochs=3, shuffled=True))
        assert again == reference, "it depends on epochs or order"


def empty_slots_weigh_nothing(part: Memory) -> None:
    """An empty memory has weight 0 everywhere, and so has what is not filled yet."""
    examples = stream()
    blank = tree.map(lambda leaf: torch.zeros_like(leaf[:1]), examples)
    assert not part.rows(part.init(key(0), blank)).weight.any(), "an empty memory holds something"
    few = tree.index(examples, slice(0, 4))
    rows = part.rows(filled(part, few, key(0), 4))
    held_rows = rows.weight > 0
    assert int(held_rows.sum()) <= 4, "it holds more than it met"


def rows_of_weight_zero_change_no_bit(part: Memory) -> None:
    """What stands in rows of weight 0 is neither kept nor looked at."""
    examples = tree.index(stream(), slice(0, 8))
    weight = (torch.arange(8) < 5).to(torch.float32)
    batch = examples._replace(weight=weight)
    other = tree.where(weight > 0, batch, tree.map(lambda leaf: leaf + 1, batch))
    other = other._replace(weight=weight, task=batch.task)
    s = filled(part, stream(1), key(0))
    assert identical(part.add(s, batch), part.add(s, other)), "a row of weight 0 is looked at"


def a_batch_with_an_example_twice_adds_it_once(part: Memory) -> None:
    """An example that comes twice in a batch is kept once, also behind a row of weight 0."""
    examples = stream()
    places = torch.tensor([0, 0, 21, 0, 21])
    batch = tree.index(examples, places)
    batch = batch._replace(weight=torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0]))
    blank = tree.map(lambda leaf: torch.zeros_like(leaf[:1]), examples)
    found = held(part, part.add(part.init(key(0), blank), batch))
    assert found == {(0, 0), (1, 1)}, f"it holds {found}"


def members_equal_themselves_alone(part: Memory) -> None:
    """Under `vmap`, each run holds what it holds alone, bit for bit."""
    keys = split(key(2), 2)
    examples = stream()
    together = vmap(lambda one: filled(part, examples, one))(keys)
    for run in range(2):
        alone = filled(part, examples, keys[run])
        assert identical(tree.index(together, run), alone), f"run {run} differs from itself alone"


def forgets_whole_tasks(part: Memory) -> None:
    """To forget tasks drops their examples, and no others. Without `forget` there is no law."""
    if part.forget is None:
        return
    s = filled(part, stream(), key(0))
    before = held(part, s)
    for gone in ([0], [1, 2]):
        forgotten = torch.zeros(TASKS, dtype=torch.bool)
        forgotten[gone] = True
        after = held(part, part.forget(s, forgotten))
        assert after == {pair for pair in before if pair[0] not in gone}, f"forgetting {gone}"


def holds_each_example_equally_often(part: Memory) -> None:
    """Over many keys each example is held equally often (chi-square, at one in a million)."""
    from scipy.stats import chi2

    examples = stream()

    def which(one: Key) -> Tensor:
        rows = part.rows(filled(part, examples, one, 20))
        assert isinstance(rows.rows, Tensor)
        number = rows.task * EACH + rows.rows
        hit = (number[:, None] == torch.arange(TASKS * EACH)) & (rows.weight > 0)[:, None]
        return hit.sum(0)

    counts = vmap(which)(split(key(3), _KEYS)).sum(0).double()
    expected = counts.mean()
    capacity = part.settings["capacity"]
    share = capacity / (TASKS * EACH)
    # held or not is a draw of a hypergeometric kind, so the statistic is scaled by 1 - share
    statistic = float(((counts - expected) ** 2 / expected).sum() / (1 - share))
    limit = chi2.ppf(1 - 1e-6, TASKS * EACH - 1)
    assert statistic < limit, f"chi-square {statistic:.1f}, above {limit:.1f}"
