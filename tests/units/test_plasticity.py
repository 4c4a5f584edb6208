"""Plasticity: each measure beside its formula written with loops and numpy, its properties, and
what `probe` tells.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

from clfunc import dil, finetuning, l2_init, mlp, sgd, sweep, til, tree
from clfunc.random import key, normal, split, uniform
from clfunc.testing.laws import identical
from clfunc.types import Batch, Task
from clfunc.units import plasticity

shapes = st.tuples(st.integers(1, 7), st.integers(1, 6)) | st.tuples(*[st.integers(1, 4)] * 4)
RANKS = (plasticity.stable_rank, plasticity.effective_rank, plasticity.srank)
SHARES = (plasticity.dormant_share, plasticity.dead_share)


def drawn(shape, seed=0, dtype=torch.float64):
    """Post-activation features, about half of them 0, and every third unit silent or nearly so."""
    features = torch.relu(normal(key(seed), shape, dtype=dtype))
    quiet = torch.tensor([[1.0, 0.0, 0.01][i % 3] for i in range(shape[1])], dtype=dtype)
    return features * quiet.reshape(-1, *[1] * (len(shape) - 2))


def rows(features):
    """A list of lists: for each example and position, its units."""
    numbers = features.numpy()
    places = list(np.ndindex(*numbers.shape[2:]))
    return [
        [numbers[(b, u, *at)] for u in range(numbers.shape[1])]
        for b in range(numbers.shape[0])
        for at in places
    ]


def naive_dormant(features, tau):
    means = [
        sum(abs(h) for h in column) / len(column) for column in zip(*rows(features), strict=True)
    ]
    average = sum(means) / len(means)
    return sum(average == 0 or mean / average <= tau for mean in means) / len(means)


def naive_dead(features):
    columns = list(zip(*rows(features), strict=True))
    return sum(all(h == 0 for h in column) for column in columns) / len(columns)


def naive_ranks(features, share):
    s = np.linalg.svd(np.array(rows(features)), compute_uv=False)
    if s[0] == 0:
        return 0.0, 0.0, 0.0
    stable = sum(x * x for x in s) / max(s) ** 2
    entropy = -sum(x / sum(s) * math.log(x / sum(s)) for x in s if x > 0)
    k, total = 0, 0.0
    while total < share * sum(s) and k < len(s):
        total, k = total + s[k], k + 1
    return stable, math.exp(entropy), float(k)


@given(shapes, st.integers(0, 99), st.sampled_from([0.0, 0.025, 0.1, 0.5]))
def test_shares_of_dormant_and_dead_units_are_the_counts_of_a_loop(shape, seed, tau):
    features = drawn(shape, seed)
    assert float(plasticity.dormant_share(features, tau)) == pytest.approx(
        naive_dormant(features, tau), abs=1e-12
    )
    assert float(plasticity.dead_share(features)) == pytest.approx(naive_dead(features), abs=1e-12)


@given(shapes, st.integers(0, 99), st.sampled_from([0.5, 0.9, 0.99]))
def test_ranks_are_those_of_numpys_singular_values(shape, seed, share):
    features = drawn(shape, seed)
    stable, effective, s = naive_ranks(features, share)
    assert float(plasticity.stable_rank(features)) == pytest.approx(stable, rel=1e-12)
    assert float(plasticity.effective_rank(features)) == pytest.approx(effective, rel=1e-12)
    assert float(plasticity.srank(features, share)) == s


@given(shapes, st.integers(0, 99), st.sampled_from([1e-3, 7.0, -1e3]))
def test_ranks_lie_between_1_and_the_smaller_side_and_do_not_change_under_scaling_or_rotation(
    shape, seed, factor
):
    features = normal(key(seed), shape, dtype=torch.float64)
    matrix = features.movedim(1, -1).flatten(0, -2)
    turn = torch.linalg.qr(normal(key(seed + 1), (shape[1], shape[1]), dtype=torch.float64))[0]
    for rank in RANKS:
        found = rank(features)
        assert 1 - 1e-12 <= found <= min(matrix.shape) * (1 + 1e-12)
        for other in (rank(factor * features), rank(matrix @ turn), rank(matrix.flip(0))):
            torch.testing.assert_close(other, found, rtol=1e-9, atol=0)


@given(shapes, st.integers(0, 99))
def test_shares_lie_in_0_1_do_not_change_under_scaling_and_every_dead_unit_is_dormant(shape, seed):
    features = drawn(shape, seed)
    dormant, dead = plasticity.dormant_share(features), plasticity.dead_share(features)
    assert 0 <= dead <= dormant <= 1
    assert torch.equal(plasticity.dormant_share(8 * features), dormant)
    assert torch.equal(plasticity.dead_share(8 * features), dead)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_ranks_of_orthogonal_units_alike_count_them(n):
    features = torch.zeros(9, 6, dtype=torch.float64)
    features[range(n), range(n)] = 3.0
    for rank in RANKS:
        assert float(rank(features)) == pytest.approx(n, rel=1e-12)
    assert float(plasticity.dead_share(features)) == pytest.approx((6 - n) / 6)


def test_srank_stops_as_soon_as_it_has_its_share():
    assert [float(plasticity.srank(torch.eye(4), share)) for share in (0.25, 0.5, 0.51, 0.99)] == [
        1,
        2,
        3,
        4,
    ]


@pytest.mark.parametrize("shape", [(4, 3), (1, 3), (1, 1), (2, 3, 2, 2)])
def test_silence_has_rank_0_and_all_units_dormant_and_dead(shape):
    silent = torch.zeros(shape)
    assert [float(rank(silent)) for rank in RANKS] == [0.0, 0.0, 0.0]
    assert [float(share(silent)) for share in SHARES] == [1.0, 1.0]


def test_one_example_has_rank_1():
    assert [float(rank(drawn((1, 5)))) for rank in RANKS] == pytest.approx(
        [1.0, 1.0, 1.0], rel=1e-12
    )


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_run_that_diverged_has_ranks_that_are_nan_and_spoils_no_other(bad):
    both = torch.stack([drawn((6, 4)), drawn((6, 4)).index_fill(0, torch.tensor([2]), bad)])
    for rank in RANKS:
        good, spoiled = vmap(rank)(both)
        torch.testing.assert_close(good, rank(both[0]), rtol=1e-12, atol=0)
        assert spoiled.isnan()


@pytest.mark.parametrize("shape", [(9, 5), (3, 4, 2, 2)])
@pytest.mark.parametrize("measure", RANKS + SHARES, ids=lambda f: f.__name__)
def test_under_vmap_each_member_is_itself_alone(measure, shape):
    many = torch.stack([drawn(shape, seed) for seed in range(4)])
    torch.testing.assert_close(
        vmap(measure)(many), torch.stack([measure(h) for h in many]), rtol=1e-12, atol=0
    )


def test_weight_magnitude_is_the_mean_over_entries_and_gradient_norm_the_norm_of_all():
    weights = {
        "weight": uniform(key(0), (3, 4), -1, 1, dtype=torch.float64),
        "bias": torch.tensor([-8.0, 0.0]).double(),
    }
    flat = [float(w) for leaf in tree.leaves(weights) for w in leaf.flatten()]
    magnitude = sum(abs(w) for w in flat) / len(flat)
    assert float(plasticity.weight_magnitude(weights)) == pytest.approx(magnitude, rel=1e-12)
    assert float(plasticity.gradient_norm(weights)) == pytest.approx(
        math.sqrt(sum(w * w for w in flat)), rel=1e-12
    )


def _begun(algorithm, seed=0):
    params, state = algorithm.init(key(seed))
    return algorithm.begin_task(params, state, Task(*torch.tensor([1, 4, 1])))


def _batch(n=8):
    return Batch(
        normal(key(1), (n, 5)).double(),
        torch.arange(n) % 3,
        torch.tensor(1),
        torch.ones(n).double(),
    )


def test_a_probe_measures_the_working_head_without_dropout_and_the_losss_gradient():
    model = mlp(5, (6, 4), til(3, 3), dropout_rate=0.5, dtype=torch.float64)
    algorithm, batch = finetuning(model, sgd(1.0)), _batch()
    params, state = _begun(algorithm)
    leaves = [leaf.clone().requires_grad_() for leaf in tree.leaves(params)]
    output = model.apply(tree.unflatten(leaves, tree.structure(params)), batch.x, batch.task)
    torch.nn.functional.cross_entropy(output.logits, batch.y).backward()
    found = algorithm.probe(params, state, batch)
    expected = plasticity.measure({g: h.detach() for g, h in output.features.items()}, params)
    kinds = ("dormant", "dead", "stable_rank", "effective_rank", "srank")
    names = {f"{kind}.{group}" for kind in kinds for group in ("hidden1", "hidden2")}
    names |= {f"weight_magnitude.{group}" for group in ("hidden1", "hidden2", "head")}
    assert set(expected) == names and set(found) == names | {"gradient_norm"}
    assert all(m.shape == () and not m.requires_grad for m in found.values())
    norm = math.sqrt(sum(float(leaf.grad.square().sum()) for leaf in leaves))
    assert float(found.pop("gradient_norm")) == pytest.approx(norm, rel=1e-12)
    assert identical(found, expected)
    assert len({float(found[f"weight_magnitude.{group}"]) for group in params}) == 3


def test_an_example_of_weight_zero_changes_no_measure():
    algorithm = finetuning(mlp(5, (6, 4), dil(3, 3), dtype=torch.float64), sgd(0.1))
    params, state = _begun(algorithm)
    batch = _batch()
    weight = (torch.arange(8) < 5).double()
    ignored = batch._replace(x=torch.where(weight[:, None] > 0, batch.x, 1e3), weight=weight)
    first = Batch(*(field[:5] if field.ndim else field for field in batch[:4]))
    found, expected = algorithm.probe(params, state, ignored), algorithm.probe(params, state, first)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_wrappers_forward_the_probe_and_a_sweep_probes_each_member():
    model = mlp(5, (6, 4), dil(3, 3), dtype=torch.float64)
    members = [l2_init(model, sgd(0.1), strength=s) for s in (0.1, 0.2)]
    keys, batch = split(key(3)), _batch()
    params, state = sweep(members).init(keys)
    found = sweep(members).probe(params, state, tree.stack([batch, batch]))
    for i, member in enumerate(members):
        alone = member.probe(*member.init(keys[i]), batch)
        torch.testing.assert_close(tree.index(found, i), alone, rtol=1e-12, atol=0)


@pytest.mark.compiled
def test_a_compiled_probe_is_the_eager_one_alone_and_as_a_sweep():
    model = mlp(5, (6, 4), dil(3, 3))
    algorithm, keys = finetuning(model, sgd(0.1)), split(key(3))
    batch = _batch()._replace(x=_batch().x.float(), weight=torch.ones(8))
    several = sweep([algorithm, algorithm])
    both = (*several.init(keys), tree.stack([batch, batch]))
    for probe, args in ((algorithm.probe, (*algorithm.init(key(0)), batch)), (several.probe, both)):
        compiled = torch.compile(probe, fullgraph=True)(*args)
        torch.testing.assert_close(compiled, probe(*args), rtol=1e-5, atol=1e-6)
