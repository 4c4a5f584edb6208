"""How well a task was forgotten: each measure beside its formula written with loops; where it is 0,
1/2 or undefined.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.naive_distances import dot, naive_distances

from clfunc import algorithms, convnet, mlp, sgd, sweep, tree
from clfunc.random import key, normal, split, uniform
from clfunc.testing.play import play, toy_stream
from clfunc.types import Output
from clfunc.unlearning import measures as unlearning

shapes = st.tuples(st.integers(2, 7), st.integers(1, 9))
losses = st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.5001, 2.0]), min_size=1, max_size=8)


def drawn(seed, shape):
    """Two networks' features on the same examples, some of them all 0."""
    a, b = (torch.relu(normal(k, shape, dtype=torch.float64)) for k in split(key(seed)))
    return a, b


def naive_cka(a, b):
    """By kernels over examples, centred by H = I - 1/n: tr(K H L H) / sqrt(tr(K H K H) tr(L H L
    H)).
    """
    n = len(a)
    centre = [[float(i == j) - 1 / n for j in range(n)] for i in range(n)]

    def product(x, y):
        return [
            [sum(x[i][k] * y[k][j] for k in range(len(y))) for j in range(len(y[0]))]
            for i in range(len(x))
        ]

    def kernel(x):
        return product([[dot(u, v) for v in x.tolist()] for u in x.tolist()], centre)

    def trace(x, y):
        return sum(product(x, y)[i][i] for i in range(n))

    k, l = kernel(a), kernel(b)
    return 1 - trace(k, l) / math.sqrt(trace(k, k) * trace(l, l))


@given(shapes, st.integers(0, 99))
def test_distances_are_the_means_of_a_loop_over_examples(shape, seed):
    a, b = drawn(seed, shape)
    for name, expected in naive_distances(a, b).items():
        assert float(unlearning.distances[name](a, b)) == pytest.approx(expected, abs=1e-12), name


@given(shapes, st.integers(0, 99))
def test_cka_is_the_alignment_of_centred_kernels(shape, seed):
    a, b = (uniform(k, shape, dtype=torch.float64) for k in split(key(seed)))
    assert float(unlearning.cka(a, b)) == pytest.approx(naive_cka(a, b), abs=1e-9)


def test_cka_does_not_see_rotation_shift_or_scale_and_the_others_do():
    a, _ = drawn(0, (20, 6))
    turned = 3 * a @ torch.linalg.qr(normal(key(1), (6, 6), dtype=torch.float64)).Q + 1
    assert float(unlearning.cka(a, turned)) == pytest.approx(0, abs=1e-12)
    assert all(
        float(unlearning.distances[name](a, turned)) > 0.1
        for name in ("euclidean", "cosine", "manhattan")
    )


@pytest.mark.parametrize("name", unlearning.distances)
def test_a_network_is_at_distance_0_from_itself_and_silent_ones_from_each_other(name):
    a, _ = drawn(1, (5, 4))
    nothing = torch.zeros_like(a)
    assert float(unlearning.distances[name](a, a)) == pytest.approx(0, abs=1e-12)
    assert float(unlearning.distances[name](nothing, nothing)) == 0


def test_a_silent_network_is_at_distance_1_from_one_that_speaks():
    a = 1 + drawn(1, (5, 4))[0]
    assert float(unlearning.cosine(a, torch.zeros_like(a))) == 1
    assert float(unlearning.cka(a, torch.full_like(a, 2.5))) == 1


@pytest.mark.parametrize("name", unlearning.distances)
def test_the_distance_of_a_diverged_network_is_nan(name):
    a, b = drawn(2, (5, 4))
    assert unlearning.distances[name](torch.full_like(a, torch.nan), b).isnan()


@given(losses, losses)
def test_the_attack_counts_pairs_and_calls_members_what_is_below_the_threshold(members, others):
    mean = sum(members) / len(members)
    rates = [sum(loss < mean for loss in losses) / len(losses) for losses in (members, others)]
    won = sum((m < o) + 0.5 * (m == o) for m in members for o in others)
    found = torch.tensor(members, dtype=torch.float64), torch.tensor(others, dtype=torch.float64)
    assert float(
        unlearning.membership_advantage(*found, torch.tensor(mean, dtype=torch.float64))
    ) == pytest.approx(rates[0] - rates[1])
    assert float(unlearning.membership_auc(*found)) == pytest.approx(
        won / len(members) / len(others)
    )


def test_the_attack_sees_nothing_in_equal_losses_and_everything_in_separate_ones():
    low, high = torch.tensor([0.1, 0.2, 0.1]), torch.tensor([1.0, 2.0])
    assert (
        float(unlearning.membership_auc(low, low)) == 0.5
        and float(unlearning.membership_advantage(low, low)) == 0
    )
    assert (
        float(unlearning.membership_auc(low, high)) == 1
        and float(unlearning.membership_auc(high, low)) == 0
    )
    between = torch.tensor(0.5)
    assert float(unlearning.membership_advantage(low, high, between)) == 1
    assert float(unlearning.membership_advantage(low, high)) == pytest.approx(
        2 / 3
    )  # a member is above their mean


def test_the_attack_on_a_diverged_network_or_on_nobody_is_nan():
    some, none, wild = torch.tensor([0.5]), torch.zeros(0), torch.tensor([0.5, torch.nan])
    for attack in (unlearning.membership_auc, unlearning.membership_advantage):
        assert all(
            attack(*pair).isnan()
            for pair in ((some, none), (none, some), (wild, some), (some, wild))
        )
    assert unlearning.membership_auc(some, torch.tensor([torch.inf])) == 1


def test_gain_and_chance_are_means_over_the_tasks_asked_for_alone():
    now, before = torch.tensor([[0.1, 0.9, 0.8], [0.9, 0.7, 0.9]], dtype=torch.float64)
    forgotten = torch.tensor([True, False, False])
    classes = torch.tensor([10.0, 2.0, 4.0]).double()
    assert float(unlearning.accuracy_gain(now, before, ~forgotten)) == pytest.approx(
        (0.2 - 0.1) / 2
    )
    assert float(unlearning.above_chance(now, classes, forgotten)) == pytest.approx(0)
    assert float(unlearning.above_chance(now, classes, ~forgotten)) == pytest.approx(
        (0.4 + 0.55) / 2
    )
    assert unlearning.accuracy_gain(now, before, forgotten & ~forgotten).isnan()
    unseen = torch.where(forgotten, torch.nan, now)
    assert float(unlearning.mean_over(unseen, ~forgotten)) == pytest.approx(0.85)


def test_the_residual_is_the_norm_of_what_no_kept_update_explains():
    start, kept, left = ({"a": normal(k, (3, 2)), "b": normal(k, (4,))} for k in split(key(0), 3))
    params = tree.map(lambda *parts: sum(p.double() for p in parts), start, kept, left)
    squares = sum(x * x for leaf in tree.leaves(left) for x in leaf.flatten().tolist())
    assert float(unlearning.residual(params, start, kept)) == pytest.approx(
        math.sqrt(squares), rel=1e-12
    )
    exact = tree.map(lambda s, k: s.double() + k.double(), start, kept)
    assert float(unlearning.residual(exact, start, kept)) < 1e-15


MODELS = {
    "mlp": lambda head: mlp((1, 4, 4), (6, 5), head),
    "convnet": lambda h: convnet((1, 4, 4), (5,), h, channels=(2,)),
}
ALGORITHMS = {
    "finetuning": algorithms.finetuning,
    "fix": algorithms.fix,
    "independent": lambda m, tx: algorithms.independent(m, tx, num_tasks=3),
    "hat": lambda m, tx: algorithms.hat(m, tx, num_tasks=3, s_max=50.0),
}


@pytest.mark.parametrize("network", MODELS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_features_are_what_predict_gives_to_the_tasks_head(name, network):
    """Alone and in a sweep, parked and working: the head's product with the features is the
    prediction.
    """
    keys = torch.stack([key(0), key(1)])
    stream = toy_stream(keys)
    model = MODELS[network](stream.head())
    algorithm = ALGORITHMS[name](model, sgd(0.1))
    both = sweep([algorithm, algorithm])
    params, state = play(both, stream, keys, epochs=1)
    own = tree.index((params, state), 1)
    for task in range(3):
        x = normal(key(task), (30, 1, 4, 4))
        at = torch.tensor(task)
        found = algorithm.features(*own, x, at)
        told = algorithm.predict(*own, x, at)
        given = torch.cat([found, torch.ones(30, 1)], 1).double()
        weight = torch.linalg.lstsq(given, told.double(), driver="gelsd").solution
        assert found.shape == (30, 5) and torch.allclose(given @ weight, told.double(), atol=1e-5)
        many = both.features(params, state, x.expand(2, *x.shape), at.expand(2))
        assert torch.allclose(many[1], found, atol=1e-6)


def test_the_last_features_of_a_convolution_lie_side_by_side():
    features = {"one": torch.zeros(3, 2), "two": torch.arange(24.0).reshape(3, 2, 2, 2)}
    assert (
        Output(torch.zeros(3, 2), features).last.tolist()
        == torch.arange(24.0).reshape(3, 8).tolist()
    )
