"""Random numbers: Philox as published, distributions as named, streams apart, one answer however
asked.
"""

import math
from itertools import combinations, permutations, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.func import vmap

from clfunc import random

WORD = st.integers(0, 2**32 - 1)
SEED = st.integers(0, 2**64 - 1)
POSITION = st.integers(0, 99) | st.integers(2**32, 2**60 - 1)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LIKELY = (
    1e-4  # a p-value below it is no accident: the keys are fixed, so a test passes always or never
)

EXACT = {
    "bits": lambda key: random.bits(key, (3, 7)),
    "bits at": lambda key: random.bits(key, (5,), at=2**40 + 3),
    "split": lambda key: random.split(key, 5),
    "fold_in": lambda key: random.fold_in(key, 3, 2**33),
    "uniform": lambda key: random.uniform(key, (3, 7), -0.3, 1.7),
    "uniform64": lambda key: random.uniform(key, (9,), dtype=torch.float64),
    "randint": lambda key: random.randint(key, (3, 7), -4, 1000),
    "permutation": lambda key: random.permutation(key, 13),
}
NORMAL = {
    "normal": lambda key: random.normal(key, (3, 7)),
    "normal64": lambda key: random.normal(key, (9,), dtype=torch.float64),
}


def naive_philox(key, counter):
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        (high0, low0), (high1, low1) = (
            divmod(0xD2511F53 * c0, 2**32),
            divmod(0xCD9E8D57 * c2, 2**32),
        )
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


def naive_words(key, count, at, use):
    """All first words of the blocks, then all second ones; the use is in the top four bits of the
    counter.
    """
    blocks = [
        naive_philox(key, (b, 0, at % 2**32, use * 2**28 + at // 2**32))
        for b in range(-(-count // 4))
    ]
    return [block[word] for word in range(4) for block in blocks][:count]


@given(st.tuples(WORD, WORD), st.tuples(WORD, WORD, WORD, WORD))
def test_every_philox_block_equals_a_transcription_in_python_integers(key, counter):
    drawn = random.philox(tuple(map(torch.tensor, key)), tuple(map(torch.tensor, counter)))
    assert list(map(int, drawn)) == naive_philox(key, counter)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
    ids=["zeros", "ones", "digits of pi"],
)
def test_philox_gives_the_answers_published_with_random123(counter, key, answer):
    drawn = random.philox(tuple(map(torch.tensor, key)), tuple(map(torch.tensor, counter)))
    assert list(map(int, drawn)) == answer


@given(SEED, st.integers(1, 23), POSITION)
def test_every_bit_split_and_fold_is_a_naive_stream_of_its_own(seed, count, at):
    key, pair = random.key(seed), (seed % 2**32, seed // 2**32)
    assert random.bits(key, (count,), at).tolist() == naive_words(pair, count, at, 0)
    assert random.split(key, count).flatten().tolist() == naive_words(pair, 2 * count, 0, 1)
    assert random.fold_in(key, at).tolist() == naive_words(pair, 2, at, 2)


@given(SEED, POSITION, POSITION)
def test_every_fold_of_two_numbers_is_a_fold_of_a_fold_and_takes_integers_and_tensors_alike(
    seed, a, b
):
    key = random.key(seed)
    both = random.fold_in(key, a, b)
    assert torch.equal(both, random.fold_in(random.fold_in(key, a), b))
    assert torch.equal(both, random.fold_in(key, torch.tensor(a), torch.tensor(b)))
    assert torch.equal(random.fold_in(key), key)


@given(SEED)
def test_every_seed_is_its_key(seed):
    low, high = random.key(seed).tolist()
    assert low + 2**32 * high == seed


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused_by_name(seed):
    with pytest.raises(ValueError, match=f"^seed must be in .*given {seed}$"):
        random.key(seed)


@given(SEED, POSITION, POSITION)
def test_every_position_has_words_of_its_own(seed, at, other):
    first, second = (random.bits(random.key(seed), (8,), at=a) for a in (at, other))
    assert torch.equal(first, second) == (at == other)
    assert torch.equal(first, random.bits(random.key(seed), (8,), at=torch.tensor(at)))


def test_bits_split_and_fold_in_share_no_word():
    key = random.key(7)
    streams = [random.bits(key, (64,)), random.split(key, 32).flatten()]
    streams += [torch.cat([random.fold_in(key, number) for number in range(32)])]
    for one, other in combinations(streams, 2):
        assert not set(one.tolist()) & set(other.tolist())


def test_keys_split_and_folded_many_times_are_all_different():
    parents = torch.stack([random.key(seed) for seed in range(64)])
    children = vmap(lambda key: random.split(key, 64))(parents).flatten(0, 1)
    grandchildren = vmap(lambda key: random.split(key, 4))(children).flatten(0, 1)
    folded = vmap(lambda number: random.fold_in(parents[0], number))(torch.arange(4096))
    keys = torch.cat([parents, children, grandchildren, folded]).tolist()
    assert len(set(map(tuple, keys))) == len(keys)


@pytest.mark.parametrize(
    "keys",
    [
        random.split(random.key(1), 64),
        torch.stack([random.key(seed) for seed in range(64)]),
        vmap(lambda number: random.fold_in(random.key(2), number))(torch.arange(64)),
        vmap(lambda key: random.split(key))(random.split(random.key(3), 32)).flatten(0, 1),
    ],
    ids=["split", "neighbouring seeds", "fold_in", "split of split"],
)
def test_streams_of_related_keys_are_not_correlated(keys):
    streams = vmap(lambda key: random.uniform(key, (4096,)))(keys)
    scores = (torch.corrcoef(streams) * math.sqrt(4096))[tuple(torch.triu_indices(64, 64, 1))]
    assert scores.abs().max() < 5
    assert stats.kstest(scores, "norm").pvalue > LIKELY


def test_positions_of_one_key_are_not_correlated():
    streams = vmap(lambda at: random.uniform(random.key(4), (4096,), at=at))(torch.arange(64))
    scores = (torch.corrcoef(streams) * math.sqrt(4096))[tuple(torch.triu_indices(64, 64, 1))]
    assert scores.abs().max() < 5


@pytest.mark.parametrize("bit", range(32))
def test_each_bit_is_a_fair_coin(bit):
    ones = int((random.bits(random.key(11), (2**14,)) >> bit & 1).sum())
    assert stats.binomtest(ones, 2**14).pvalue > LIKELY


@pytest.mark.parametrize("word", [0, 2**32 - 1], ids=["least", "most"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.3, 0.3), (1.0, 2.0)])
def test_the_most_extreme_words_stay_in_the_range_and_below_one(
    monkeypatch, word, dtype, low, high
):
    monkeypatch.setattr(random, "bits", lambda key, shape=(), at=0: torch.full(shape, word))
    drawn = random.uniform(random.key(0), (1,), low, high, dtype=dtype)
    bottom, top = torch.tensor([low, high], dtype=dtype)
    assert drawn.dtype == dtype
    assert bottom <= drawn <= top
    assert drawn < top or (low, high) != (0.0, 1.0)  # another range may round up to its end


@pytest.mark.parametrize("word", [0, 2**32 - 1], ids=["least", "most"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 5.3), (torch.float64, 8.2)])
def test_the_most_extreme_words_make_the_largest_normals_there_are(monkeypatch, word, dtype, bound):
    monkeypatch.setattr(random, "bits", lambda key, shape=(), at=0: torch.full(shape, word))
    drawn = random.normal(random.key(0), (1,), dtype=dtype).item()
    assert round(drawn, 1) == (bound if word else -bound)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-4, 7), (0, 2**31), (-(2**31), 0)])
def test_the_most_extreme_words_are_the_ends_of_randint(monkeypatch, low, high):
    for word, end in ((0, low), (2**32 - 1, high - 1)):
        monkeypatch.setattr(
            random, "bits", lambda key, shape=(), at=0, word=word: torch.full(shape, word)
        )
        assert random.randint(random.key(0), (), low, high) == end
        assert random.randint(random.key(0), (), low, torch.tensor(high)) == end


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_uniform_number_of_many_lies_in_a_half_open_range(dtype):
    drawn = random.uniform(random.key(5), (2**16,), dtype=dtype)
    assert drawn.min() >= 0
    assert drawn.max() < 1


@pytest.mark.parametrize("dtype", FLOATS[2:])
@pytest.mark.parametrize(
    ("draw", "law"),
    [
        (random.uniform, stats.uniform()),
        (
            lambda key, shape, dtype: random.uniform(key, shape, -3.0, 2.0, dtype=dtype),
            stats.uniform(-3, 5),
        ),
        (random.normal, stats.norm()),
    ],
    ids=["uniform", "uniform in a range", "normal"],
)
def test_numbers_have_the_distribution_and_moments_of_their_name(draw, law, dtype):
    drawn = draw(random.key(6), (2**16,), dtype=dtype)
    assert drawn.dtype == dtype
    drawn = drawn.to(torch.float64)
    assert stats.kstest(drawn, law.cdf).pvalue > LIKELY
    mean, variance, skew, kurtosis = (float(moment) for moment in law.stats("mvsk"))
    standard = (drawn - mean) / math.sqrt(variance)
    for power, expected in ((1, 0), (2, 1), (3, skew), (4, kurtosis + 3)):
        error = standard.pow(power).std() / 2**8
        assert abs(standard.pow(power).mean() - expected) < 4 * error


def test_the_tails_of_a_float64_normal_are_as_heavy_as_they_should_be():
    drawn = random.normal(random.key(8), (2**18,), dtype=torch.float64).abs()
    for bound in (2, 3, 4):
        assert (
            stats.binomtest(int((drawn > bound).sum()), 2**18, 2 * stats.norm.sf(bound)).pvalue
            > LIKELY
        )


@pytest.mark.parametrize(("low", "high"), [(0, 2), (-3, 7), (5, 1005)])
def test_integers_are_uniform_and_reach_both_ends(low, high):
    drawn = random.randint(random.key(9), (2**16,), low, high)
    assert drawn.min() == low
    assert drawn.max() == high - 1
    assert stats.chisquare(torch.bincount(drawn - low)).pvalue > LIKELY


def test_permutations_are_uniform_over_all_orders():
    orders = vmap(lambda key: random.permutation(key, 4))(
        random.split(random.key(10), 2400)
    ).tolist()
    counts = [orders.count(list(order)) for order in permutations(range(4))]
    assert sum(counts) == 2400
    assert stats.chisquare(counts).pvalue > LIKELY


@given(SEED, st.integers(0, 40), st.data())
def test_every_permutation_holds_each_number_once_and_the_first_size_of_them_first(seed, n, data):
    size = data.draw(st.integers(0, n))
    order = random.permutation(random.key(seed), n, size=torch.tensor(size)).tolist()
    assert sorted(order[:size]) == list(range(size))
    assert sorted(order) == list(range(n))
    assert sorted(random.permutation(random.key(seed), n).tolist()) == list(range(n))


def test_permutations_of_a_size_are_uniform_over_its_orders():
    sized = vmap(lambda key: random.permutation(key, 7, size=torch.tensor(3))[:3])
    orders = sized(random.split(random.key(12), 1200)).tolist()
    assert (
        stats.chisquare([orders.count(list(order)) for order in permutations(range(3))]).pvalue
        > LIKELY
    )


@pytest.mark.parametrize("name", EXACT)
def test_a_draw_under_vmap_is_the_same_to_the_bit(name):
    keys = random.split(random.key(13), 6)
    for key, drawn in zip(keys, vmap(EXACT[name])(keys), strict=True):
        assert torch.equal(EXACT[name](key), drawn)


@pytest.mark.parametrize("name", NORMAL)
def test_a_normal_under_vmap_is_the_same_to_the_last_bit_of_erfinv(name):
    keys = random.split(random.key(13), 6)
    for key, drawn in zip(keys, vmap(NORMAL[name])(keys), strict=True):
        torch.testing.assert_close(
            drawn, NORMAL[name](key), rtol=2 * torch.finfo(drawn.dtype).eps, atol=0
        )


def test_a_position_and_a_size_may_differ_between_runs():
    keys, numbers = random.split(random.key(14), 6), torch.arange(6)
    drawn = vmap(lambda key, at: random.bits(key, (5,), at=at))(keys, numbers)
    orders = vmap(lambda key, size: random.permutation(key, 6, size=size))(keys, numbers)
    for i, key in enumerate(keys):
        assert torch.equal(drawn[i], random.bits(key, (5,), at=i))
        assert torch.equal(orders[i], random.permutation(key, 6, size=numbers[i]))


@pytest.mark.compiled
def test_compiled_draws_are_the_same_to_the_bit():
    key, names = random.key(15), ("bits", "uniform", "randint", "normal")

    def draw(key):
        return {name: (EXACT | NORMAL)[name](key) for name in names}

    expected, drawn = draw(key), torch.compile(draw, fullgraph=True)(key)
    torch.testing.assert_close(drawn.pop("normal"), expected.pop("normal"), rtol=4 * 2**-23, atol=0)
    for name, numbers in expected.items():
        assert torch.equal(drawn[name], numbers), name


@pytest.mark.parametrize("name", EXACT | NORMAL)
def test_no_draw_reads_or_moves_torchs_own_generator(name):
    draw, key, before = (EXACT | NORMAL)[name], random.key(16), torch.get_rng_state()
    first, second = draw(key), draw(key)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("shape", "draw"),
    product([(), (0,), (1,), (2, 0, 3), (2, 3, 5)], ["bits", "uniform", "normal"]),
)
def test_draws_have_the_shape_asked_for(shape, draw):
    assert getattr(random, draw)(random.key(17), shape).shape == shape
