"""What memories promise: what they hold, that it depends on nothing else, and what is drawn of it."""

from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from torch.func import vmap

from clfunc import memories, tree
from clfunc.compose.context import Store
from clfunc.random import bits, key, split
from clfunc.testing.compare import identical
from clfunc.testing.strategies import keys
from clfunc.types import Batch

TASKS, ROWS, CAPACITY = 3, 8, 7
MEMORIES = {
    "reservoir": memories.reservoir,
    "balanced": memories.balanced,
    "ring": lambda capacity: memories.ring(capacity, num_tasks=TASKS),
}
every_memory = pytest.mark.parametrize("make", MEMORIES.values(), ids=MEMORIES)
by_priority = pytest.mark.parametrize(
    "make", [memories.reservoir, memories.balanced], ids=["reservoir", "balanced"]
)


def label_of(pair):
    """The class of an example: those of one task are of unequal size."""
    task, row = pair
    return 0 if row < 5 else 1 if row < 7 else 2 + task


def batch_of(pairs, padding=0):
    """The examples of these (task, row), after rows of weight 0 that bear their numbers."""
    spare = ([*pairs, (0, 100), (1, 100)] * padding)[:padding]
    shown = spare + list(pairs)
    number = torch.tensor([100.0 * task + row for task, row in shown])
    number[:padding] = -7.0
    return Batch(
        x=torch.stack([number, number + 0.25], 1),
        y=torch.tensor([label_of(pair) for pair in shown]),
        task=torch.tensor([task for task, _ in shown]),
        weight=torch.tensor([0.0] * padding + [0.5 + (row % 2) / 2 for _, row in pairs]),
        rows=torch.tensor([row for _, row in shown]),
        notes={"logits": torch.stack([number, -number, number / 3], 1)},
    )


BLANK = tree.map(torch.zeros_like, batch_of([(0, 0)]))


def met(memory, batches, k):
    """The state of a memory that met batches of (task, row), padded with weight 0."""
    s = memory.init(k, BLANK)
    for place, pairs in enumerate(batches):
        s = memory.add(s, batch_of(pairs, padding=place % 3))
    return s


def held(memory, s):
    """The (task, row) of every slot, None where it is empty."""
    rows = memory.rows(s)
    pairs = zip(rows.task.tolist(), rows.rows.tolist(), strict=True)
    return [pair if w > 0 else None for pair, w in zip(pairs, rows.weight, strict=True)]


def examples_in(memory, s):
    """The set of (task, row) that is held."""
    found = [pair for pair in held(memory, s) if pair is not None]
    assert len(found) == len(set(found)), "an example is held twice"
    return set(found)


def pairs():
    return st.tuples(st.integers(0, TASKS - 1), st.integers(0, ROWS - 1))


def streams():
    """Batches of (task, row), in which an example may come again."""
    return st.lists(st.lists(pairs(), min_size=1, max_size=6), min_size=1, max_size=8)


@st.composite
def two_cuts(draw):
    """Two streams of the same examples, in other orders, epochs and batches."""
    chosen = draw(st.lists(pairs(), min_size=1, max_size=20, unique=True))
    streams = []
    for _ in range(2):
        epochs = draw(st.integers(1, 2))
        line = []
        for _ in range(epochs):
            line += draw(st.permutations(chosen))
        size = draw(st.integers(1, 9))
        streams.append([line[i : i + size] for i in range(0, len(line), size)])
    return streams


@by_priority
@given(stream=streams(), k=keys())
def test_it_holds_as_many_of_every_stream_as_there_is_room_for_and_none_twice(make, stream, k):
    memory = make(CAPACITY)
    shown = {pair for pairs in stream for pair in pairs}
    found = examples_in(memory, met(memory, stream, k))
    assert len(found) == min(CAPACITY, len(shown)) and found <= shown


@by_priority
@given(cuts=two_cuts(), k=keys())
def test_what_it_holds_depends_neither_on_batches_nor_on_epochs_nor_on_order(make, cuts, k):
    memory = make(CAPACITY)
    one, two = (examples_in(memory, met(memory, stream, k)) for stream in cuts)
    assert one == two


def priority(k, pair):
    task, row = pair
    high, low = bits(k, (2,), at=task * 2**40 + row).tolist()
    return (high // 2) * 2**32 + low


@given(stream=streams(), k=keys())
def test_a_reservoir_holds_the_smallest_priorities(stream, k):
    memory = memories.reservoir(CAPACITY)
    shown = {pair for pairs in stream for pair in pairs}
    smallest = sorted(shown, key=lambda pair: priority(k, pair))[:CAPACITY]
    assert examples_in(memory, met(memory, stream, k)) == set(smallest)


def filled_by_water(sizes, capacity):
    """How many of each class, if one example at a time goes to the smallest class that has more."""
    counts = [0] * len(sizes)
    for _ in range(min(capacity, sum(sizes))):
        open_ = [i for i, size in enumerate(sizes) if counts[i] < size]
        smallest = min(open_, key=lambda i: counts[i])
        counts[smallest] += 1
    return sorted(counts)


@given(stream=streams(), k=keys(), capacity=st.integers(1, 15))
def test_a_balanced_memory_fills_every_class_to_one_level(stream, k, capacity):
    memory = memories.balanced(capacity)
    found = examples_in(memory, met(memory, stream, k))
    classes = {}
    for pair in {pair for pairs in stream for pair in pairs}:
        classes.setdefault((pair[0], label_of(pair)), []).append(pair)
    sizes = [len(members) for members in classes.values()]
    counts = [len(found & set(members)) for members in classes.values()]
    assert sorted(counts) == filled_by_water(sizes, capacity)
    for members in classes.values():
        first = sorted(members, key=lambda pair: priority(k, pair))
        assert found & set(members) == set(first[: len(found & set(members))])


class Ring:
    """The last examples of each task; an example that is held when its batch comes is passed over."""

    def __init__(self, share):
        self.last = [deque(maxlen=share) for _ in range(TASKS)]

    def add(self, pairs):
        known = {pair for last in self.last for pair in last}
        for pair in pairs:
            if pair not in known:
                known.add(pair)
                self.last[pair[0]].append(pair)


@given(stream=streams(), share=st.integers(1, 4), rest=st.integers(0, TASKS - 1))
def test_a_ring_holds_the_last_examples_of_every_task(stream, share, rest):
    memory = memories.ring(share * TASKS + rest, num_tasks=TASKS)
    naive = Ring(share)
    for pairs in stream:
        naive.add(pairs)
    slots = held(memory, met(memory, stream, key(0)))
    assert len(slots) == share * TASKS
    for task in range(TASKS):
        own = [pair for pair in slots[task * share : (task + 1) * share] if pair is not None]
        assert sorted(own) == sorted(naive.last[task])


@every_memory
@given(stream=streams(), k=keys())
def test_every_example_is_held_as_it_came(make, stream, k):
    memory = make(CAPACITY)
    s = met(memory, stream, k)
    rows = memory.rows(s)
    for slot, pair in enumerate(held(memory, s)):
        if pair is None:
            assert rows.weight[slot] == 0
        else:
            assert identical(tree.index(rows, slot), tree.index(batch_of([pair]), 0))


@every_memory
def test_an_empty_memory_has_weight_0_everywhere(make):
    memory = make(CAPACITY)
    rows = memory.rows(memory.init(key(0), BLANK))
    assert rows.weight.shape == (memory.settings["capacity"],)
    assert not rows.weight.any()


@every_memory
def test_a_row_of_weight_0_is_never_held(make):
    memory = make(CAPACITY)
    s = memory.add(memory.init(key(0), BLANK), batch_of([], padding=5))
    assert not memory.rows(s).weight.any()
    s = memory.add(s, batch_of([(0, 1)], padding=5))
    assert examples_in(memory, s) == {(0, 1)}


@every_memory
def test_a_row_of_weight_0_does_not_hide_the_same_row_behind_it(make):
    memory = make(CAPACITY)
    batch = batch_of([(0, 1), (0, 1)])
    batch = batch._replace(weight=torch.tensor([0.0, 1.0]))
    s = memory.add(memory.init(key(0), BLANK), batch)
    assert examples_in(memory, s) == {(0, 1)}


@every_memory
@given(stream=streams(), gone=st.sets(st.integers(0, TASKS - 1)), k=keys())
def test_to_forget_tasks_drops_their_examples_and_no_others(make, stream, gone, k):
    memory = make(CAPACITY)
    s = met(memory, stream, k)
    forgotten = torch.tensor([task in gone for task in range(TASKS + 1)])
    after = memory.forget(s, forgotten)
    left = {pair for pair in examples_in(memory, s) if pair[0] not in gone}
    assert examples_in(memory, after) == left


@by_priority
@given(stream=streams(), k=keys())
def test_a_memory_that_forgot_a_task_is_full_again_after_the_others_come_again(make, stream, k):
    memory = make(CAPACITY)
    others = [[pair for pair in pairs if pair[0] != 1] for pairs in stream]
    others = [pairs for pairs in others if pairs] or [[(0, 0)]]
    s = memory.forget(met(memory, stream, k), torch.tensor([False, True, False]))
    for pairs in others:
        s = memory.add(s, batch_of(pairs))
    assert examples_in(memory, s) == examples_in(memory, met(memory, others, k))


@every_memory
def test_without_rows_every_example_counts_as_a_new_one(make):
    memory = make(CAPACITY)
    s = memory.init(key(0), BLANK)
    for _ in range(2):
        s = memory.add(s, batch_of([(0, 1), (0, 2)])._replace(rows=()))
    kept = 2 if make is MEMORIES["ring"] else 4
    assert len(examples_in(memory, s)) == kept


RUNS = split(key(3), 2)
LINE = [(task, row) for task in range(TASKS) for row in range(ROWS)]


@every_memory
def test_a_run_of_two_holds_the_bits_that_it_holds_alone(make):
    memory = make(CAPACITY)
    # the second run meets the examples of another order
    lines = (LINE, LINE[::-1])

    def life(k, batches):
        s = memory.init(k, BLANK)
        for batch in batches:
            s = memory.add(s, batch)
        store = Store(memory, s, torch.tensor(3))
        drawn = store.drawn(batch._replace(task=batch.task[0]), k, 4, True)
        return s, drawn, memory.forget(s, torch.tensor([False, True, False]))

    alone = []
    for line in lines:
        alone.append([batch_of(line[i : i + 6]) for i in range(0, len(line), 6)])
    together = [tree.stack(pair) for pair in zip(*alone, strict=True)]
    found = vmap(life)(RUNS, together)
    for run in range(2):
        assert identical(tree.index(found, run), life(RUNS[run], alone[run]))


def counted(memory, runs=2000):
    """How often each example of `LINE` is held, over many keys."""
    batches = [batch_of(LINE[i : i + 9]) for i in range(0, len(LINE), 9)]

    def which(k):
        s = memory.init(k, BLANK)
        for batch in batches:
            s = memory.add(s, batch)
        rows = memory.rows(s)
        number = torch.where(rows.weight > 0, rows.task * ROWS + rows.rows, -1)
        return (number[:, None] == torch.arange(len(LINE))).sum(0)

    return vmap(which)(split(key(11), runs)).sum(0).double()


def assert_uniform(counts, runs=2000):
    """Assert by a chi-square test that each of some examples is held equally often."""
    n = len(counts)
    share = float(counts.sum()) / n / runs
    # a sample without replacement: the counts of a run are negatively correlated
    variance = runs * share * (1 - share) * n / (n - 1)
    statistic = float(((counts - runs * share) ** 2).sum() / variance)
    assert chi2.sf(statistic, n - 1) > 1e-4, statistic


def test_a_reservoir_holds_every_example_equally_often():
    counts = counted(memories.reservoir(CAPACITY))
    assert int(counts.sum()) == 2000 * CAPACITY
    assert_uniform(counts)


def test_a_balanced_memory_holds_every_example_of_a_class_equally_often():
    # each task has classes of 5, 2 and 1 examples, so the memory has room for 2 of each
    counts = counted(memories.balanced(TASKS * 5)).reshape(TASKS, ROWS)
    assert (counts[:, 5:] == 2000).all()
    for task in range(TASKS):
        assert_uniform(counts[task, :5])


LIKE = batch_of([(1, 0), (1, 1)])._replace(task=torch.tensor(1))


def store_of(make, stream, k, step=0):
    memory = make(CAPACITY)
    return Store(memory, met(memory, stream, k), torch.tensor(step))


@every_memory
@given(stream=streams(), k=keys(), n=st.integers(1, 6), step=st.integers(0, 9), early=st.booleans())
def test_every_draw_is_without_replacement_and_of_what_may_be_drawn(
    make, stream, k, n, step, early
):
    store = store_of(make, stream, k, step)
    drawn = store.drawn(LIKE, k, n, early)
    allowed = {p for p in examples_in(store.memory, store.state) if not early or p[0] != 1}
    found = []
    for place in range(n):
        if drawn.weight[place] > 0:
            pair = (int(drawn.task[place]), int(drawn.rows[place]))
            assert identical(tree.index(drawn, place), tree.index(batch_of([pair]), 0))
            found.append(pair)
    assert len(found) == len(set(found)) == min(n, len(allowed))
    assert set(found) <= allowed


@every_memory
def test_a_draw_before_the_first_batch_weighs_nothing(make):
    memory = make(CAPACITY)
    store = Store(memory, memory.init(key(0), BLANK), torch.tensor(0))
    assert not store.drawn(LIKE, key(1), 3, False).weight.any()


def test_draws_differ_between_steps_and_keys():
    stream = [LINE[i : i + 6] for i in range(0, len(LINE), 6)]
    found = set()
    for step in range(5):
        for seed in range(5):
            drawn = store_of(memories.reservoir, stream, key(0), step).drawn(
                LIKE, key(seed), 4, False
            )
            found.add(tuple(zip(drawn.task.tolist(), drawn.rows.tolist(), strict=True)))
    assert len(found) > 20


def test_every_slot_is_drawn_equally_often():
    stream = [LINE[i : i + 6] for i in range(0, len(LINE), 6)]
    memory = memories.reservoir(CAPACITY)
    s = met(memory, stream, key(0))

    def which(step):
        drawn = Store(memory, s, step).drawn(LIKE, key(5), 3, False)
        place = memory.rows(s).x[:, 0]
        return (drawn.x[:, :1] == place).sum(0)

    assert_uniform(vmap(which)(torch.arange(2000)).sum(0).double())


def test_a_draw_of_earlier_tasks_is_refused_for_a_batch_that_mixes_tasks():
    store = store_of(memories.reservoir, [[(0, 0)]], key(0))
    with pytest.raises(ValueError, match="a batch that mixes tasks has none before it"):
        store.drawn(LIKE._replace(task=torch.tensor([0, 1])), key(1), 1, True)
