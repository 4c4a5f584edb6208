"""Verbs for trees: they do leaf by leaf what plain indexing and arithmetic do, and touch nothing
else.
"""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, vmap
from torch.testing import assert_close

from clfunc import tree

SIZE = 5  # of each leaf's first axis
RUNS = 3
DTYPES = (torch.float32, torch.float64, torch.int64, torch.bool)


class Pair(NamedTuple):
    lr: object
    trace: object


def nested(leaf):
    """Trees of these leaves: dicts, tuples, lists and NamedTuples in one another, empty ones too."""
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.builds(Pair, inner, inner),
        ),
        max_leaves=6,
    )


@st.composite
def tensors(draw, lead=(SIZE,), dtypes=DTYPES):
    shape = lead + tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    values = 9 * torch.randn(shape, generator=generator, dtype=torch.float64)
    values.view(-1)[:1] = draw(st.sampled_from([0.0, 1.0, torch.inf, -torch.inf, torch.nan]))
    dtype = draw(st.sampled_from(dtypes))
    return (values.nan_to_num(0, 7, -7) if dtype == torch.int64 else values).to(dtype)


TREES = nested(tensors())


def assert_same(actual, expected):
    """Equal in structure, types and every bit that counts."""
    assert tree.structure(actual) == tree.structure(expected)
    for a, b in zip(tree.leaves(actual), tree.leaves(expected), strict=True):
        assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def noise(values, seed):
    """A tree like this one, of other numbers."""
    generator = torch.Generator().manual_seed(seed)
    return tree.map(lambda x: (9 * torch.randn(x.shape, generator=generator)).to(x.dtype), values)


def plainly_put(values, i, entry):
    def place(leaf, new):
        leaf = leaf.clone()
        leaf[i] = new
        return leaf

    return tree.map(place, values, entry)


@given(TREES)
def test_every_entry_taken_is_the_entry_indexed(values):
    for i in range(SIZE):
        assert_same(tree.take(values, torch.tensor(i)), tree.map(lambda leaf, i=i: leaf[i], values))


@given(TREES, st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=7))
def test_every_batch_of_entries_taken_is_the_batch_indexed(values, index):
    assert_same(tree.take(values, torch.tensor(index)), tree.map(lambda leaf: leaf[index], values))


@given(TREES, st.integers(0, 99))
def test_every_entry_put_is_the_only_one_that_changes(values, seed):
    before, entry = tree.clone(values), noise(tree.index(values, 0), seed)
    for i in range(SIZE):
        assert_same(tree.put(values, torch.tensor(i), entry), plainly_put(values, i, entry))
    assert_same(values, before)


INDICES = st.lists(st.integers(0, SIZE - 1), min_size=RUNS, max_size=RUNS).map(torch.tensor)


@given(nested(tensors(lead=(RUNS, SIZE))).filter(tree.leaves), INDICES, st.integers(0, 99))
def test_every_take_and_put_under_vmap_is_one_a_run(values, indices, seed):
    entries = noise(tree.map(lambda leaf: leaf[:, 0], values), seed)
    for values_dim, index_dim in ((0, 0), (0, None), (None, 0)):
        held = values if values_dim == 0 else tree.index(values, 0)
        index = indices if index_dim == 0 else indices[0]
        taken = vmap(tree.take, (values_dim, index_dim))(held, index)
        put = vmap(tree.put, (values_dim, index_dim, 0))(held, index, entries)
        for run in range(RUNS):
            alone = tree.index(values, run if values_dim == 0 else 0)
            i = int(indices[run if index_dim == 0 else 0])
            assert_same(tree.index(taken, run), tree.index(alone, i))
            assert_same(tree.index(put, run), plainly_put(alone, i, tree.index(entries, run)))


@given(
    nested(tensors(lead=(RUNS, SIZE))).filter(tree.leaves),
    st.lists(INDICES, min_size=RUNS, max_size=RUNS),
)
def test_every_batch_of_entries_taken_under_vmap_is_one_a_run(values, indices):
    taken = vmap(tree.take)(values, torch.stack(indices))
    for run in range(RUNS):
        assert_same(
            tree.index(taken, run), tree.map(lambda leaf, run=run: leaf[run, indices[run]], values)
        )


def test_a_gradient_flows_into_the_taken_entry_and_no_other():
    bank = {"weight": torch.arange(12.0).reshape(SIZE - 1, 3)}
    index = torch.tensor([2, 0, 2])
    slope = grad(
        lambda bank: (
            tree.take(bank, index)["weight"] * torch.tensor([[1.0], [10.0], [100.0]])
        ).sum()
    )(bank)
    assert slope["weight"].tolist() == [[10.0] * 3, [0.0] * 3, [101.0] * 3, [0.0] * 3]


@pytest.mark.compiled
def test_compiled_gradients_of_take_and_put_are_those_of_eager_mode():
    bank = {"weight": torch.arange(12.0, dtype=torch.float64).reshape(4, 3)}
    index, new = torch.tensor([2, 0, 2]), {"weight": torch.ones(3, dtype=torch.float64)}

    def slope(bank, index, i):
        return grad(lambda bank: (tree.take(tree.put(bank, i, new), index)["weight"] ** 2).sum())(
            bank
        )

    for i in map(torch.tensor, (0, 3)):
        assert_same(torch.compile(slope, fullgraph=True)(bank, index, i), slope(bank, index, i))


@given(nested(st.integers(0, 99)))
def test_every_leaf_has_a_dotted_name_of_its_own_that_leads_to_it(values):
    def follow(value, name):
        for step in name.split(".") if name else []:
            if isinstance(value, dict):
                value = value[step]
            else:
                value = getattr(value, step) if isinstance(value, Pair) else value[int(step)]
        return value

    named = tree.items(values)
    assert [leaf for _, leaf in named] == tree.leaves(values)
    assert len(dict(named)) == len(named)
    for name, leaf in named:
        assert follow(values, name) == leaf
    tagged = tree.map_items(lambda name, leaf, other: (name, leaf, other), values, values)
    assert tree.structure(tree.map_items(lambda name, leaf: leaf, values)) == tree.structure(values)
    assert tree.leaves(tagged) == [part for name, leaf in named for part in (name, leaf, leaf)]


def test_names_read_as_one_would_write_them():
    state = ({"hidden1": {"weight": 1}}, Pair(lr=2, trace=[3, ()]), 4)
    names = ["0.hidden1.weight", "1.lr", "1.trace.0", "2"]
    assert tree.items(state) == list(zip(names, (1, 2, 3, 4), strict=True))


@given(nested(tensors(dtypes=(torch.float64,))).filter(tree.leaves), st.integers(0, 99))
def test_every_norm_is_that_of_all_numbers_in_one_vector(values, seed):
    values = tree.map(torch.nan_to_num, tree.map(lambda x: x.clamp(-9, 9), values))
    total = 0.0
    for leaf in tree.leaves(values):
        for number in leaf.flatten().tolist():
            total += number**2
    assert_close(tree.global_norm(values).item(), total**0.5, rtol=1e-14, atol=0)
    assert_close(tree.vdot(values, values).item(), total, rtol=1e-14, atol=0)


@pytest.mark.parametrize("lead", [(), (SIZE,)], ids=["one condition", "a condition a run"])
@given(values=TREES, data=st.data())
def test_every_choice_between_trees_is_made_whole(lead, values, data):
    flags = data.draw(st.lists(st.booleans(), min_size=SIZE, max_size=SIZE))
    condition = torch.tensor(flags if lead else flags[0])
    others = noise(values, 1)
    chosen = tree.where(condition, values, others)
    expected = tree.map(
        lambda a, b: torch.stack([a[i] if flags[i if lead else 0] else b[i] for i in range(SIZE)]),
        values,
        others,
    )
    assert_same(chosen, expected)


@given(TREES, st.integers(1, 4))
def test_every_stack_of_trees_indexes_back_to_them(values, count):
    trees = [noise(values, seed) for seed in range(count)]
    stacked = tree.stack(trees)
    for i, one in enumerate(trees):
        assert_same(tree.index(stacked, i), one)
    assert_same(
        tree.index(stacked, torch.tensor([count - 1, 0])), tree.stack([trees[-1], trees[0]])
    )
    assert_same(tree.index(stacked, slice(1, None)), tree.map(lambda leaf: leaf[1:], stacked))


ARITHMETIC = {
    "add": (tree.add, lambda a, b: a + b),
    "sub": (tree.sub, lambda a, b: a - b),
    "mul": (tree.mul, lambda a, b: a * b),
    "scale": (lambda a, b: tree.scale(a, torch.tensor(0.3)), lambda a, b: a * 0.3),
    "zeros_like": (
        lambda a, b: tree.zeros_like(a),
        lambda a, b: torch.zeros(a.shape, dtype=a.dtype),
    ),
    "clone": (lambda a, b: tree.clone(a), lambda a, b: a),
    "to": (lambda a, b: tree.to(a, "cpu"), lambda a, b: a),
}


@pytest.mark.parametrize("name", ARITHMETIC)
@given(values=nested(tensors(dtypes=(torch.float32,))))
def test_every_sum_difference_and_product_of_trees_is_one_a_leaf(name, values):
    of_trees, of_leaves = ARITHMETIC[name]
    others = noise(values, 2)
    before = tree.clone(values)
    assert_same(of_trees(values, others), tree.map(of_leaves, values, others))
    assert_same(values, before)


def test_a_clone_shares_no_memory():
    leaf = torch.ones(2)
    assert tree.clone((leaf,))[0].data_ptr() != leaf.data_ptr()


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_expand_last_adds_axes_at_the_end_only(shape):
    assert tree.expand_last(torch.zeros(shape), 4).shape == shape + (1,) * (4 - len(shape))
