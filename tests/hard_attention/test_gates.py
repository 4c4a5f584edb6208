"""The pieces of hard attention, each against its equation written naively and the properties it
owes.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clfunc.hard_attention import Gating
from clfunc.hard_attention import gates as attention
from clfunc.hard_attention import rates as adjustment
from clfunc.hard_attention import regularisers as sparsity
from clfunc.hard_attention.embeddings import task_embeddings
from clfunc.random import fold_in, key, uniform
from clfunc.testing.strategies import seeds
from clfunc.types import Task

F64 = torch.float64
S_MAX = st.sampled_from([1.5, 20.0, 400.0, 800.0])


def t(value):
    return torch.tensor(value, dtype=F64)


def units(seed, low=0.0, high=1.0):
    return {
        f"hidden{i}": uniform(fold_in(key(seed), i), (n,), low, high, dtype=F64)
        for i, n in enumerate((3, 5))
    }


def binary(seed):
    return {group: (u > 0.5).to(F64) for group, u in units(seed).items()}


@given(s_max=S_MAX, steps=st.integers(1, 12), epochs=st.integers(1, 3))
def test_the_gate_s_scale_is_eq_3_and_begins_again_each_epoch(s_max, steps, epochs):
    for step in range(steps * epochs):
        b = step % steps + 1  # from 1, as the paper counts
        got = {
            a: attention.gate_scale(a, torch.tensor(step), torch.tensor(steps), t(s_max)).item()
            for a in attention.ANNEALS
        }
        paper = 1 / s_max + (s_max - 1 / s_max) * (b - 1) / (steps - 1) if steps > 1 else s_max
        official = 1 / s_max + (s_max - 1 / s_max) * (b - 1) / steps
        assert got == pytest.approx(
            {"paper": paper, "official": official, "constant": s_max}, rel=1e-12
        )
        assert min(got.values()) > 0


@given(e=st.floats(-6, 6), s=st.floats(1e-3, 800), s_max=S_MAX)
def test_compensation_undoes_the_hardening_where_the_clamp_does_not_bite(e, s, s_max):
    s = min(s, s_max)
    q = {"hidden1": t([1.0])}
    factor = attention.compensate(q, {"hidden1": t([e])}, t(s), t(s_max), t(50.0))["hidden1"].item()
    assert 0 < factor < math.inf
    if abs(s * e) < 14:  # where 1 - gate still has its digits
        gate, soft = 1 / (1 + math.exp(-s * e)), 1 / (1 + math.exp(-e))
        # q = dL/da * s gate (1 - gate) becomes dL/da * s_max soft (1 - soft)
        assert factor * s * gate * (1 - gate) == pytest.approx(s_max * soft * (1 - soft), rel=1e-6)


def test_compensation_is_s_max_over_s_at_zero_and_the_identity_at_one():
    q = {"hidden1": t([0.3, -2.0])}
    at_zero = attention.compensate(q, {"hidden1": t([0.0, 0.0])}, t(2.0), t(400.0), t(50.0))[
        "hidden1"
    ]
    torch.testing.assert_close(at_zero, 200.0 * q["hidden1"])
    e = {"hidden1": t([1.3, -4.0])}
    torch.testing.assert_close(
        attention.compensate(q, e, t(1.0), t(1.0), t(50.0))["hidden1"], q["hidden1"]
    )


@pytest.mark.parametrize(
    "mode, low, high",
    [("U-11", -1, 1), ("U01", 0, 1), ("U-10", -1, 0), ("dense", 1, 1), ("sparse", 0, 0)],
)
def test_embeddings_start_where_their_mode_says(mode, low, high):
    drawn = attention.draw_embedding(mode, key(0), {"a": 400, "b": 1}, 5, F64)
    assert drawn["a"].shape == (5, 400) and drawn["b"].shape == (5, 1)
    assert drawn["a"].min() >= low and drawn["a"].max() <= high
    assert abs(drawn["a"].mean() - (low + high) / 2) < 0.05
    assert mode in ("dense", "sparse") or drawn["a"].std() > 0.25


@pytest.mark.parametrize("mode", ["N01", "last"])
def test_a_normal_start_is_standard_normal_and_never_below_float32(mode):
    drawn = attention.draw_embedding(mode, key(0), {"a": 2000}, 2, torch.bfloat16)["a"]
    assert drawn.dtype == torch.float32 and abs(drawn.mean()) < 0.05 and abs(drawn.std() - 1) < 0.05
    assert not torch.equal(drawn[0], drawn[1])


def test_last_starts_a_task_where_the_one_before_ended_unless_it_was_met():
    own = task_embeddings(3, 400.0, Gating(task_embedding_init_mode="last"))
    state = own.init(key(0), {"a": 4}, F64)
    ended = []
    for task in (1, 0, 1):
        about = Task(torch.tensor(task), torch.tensor(3), torch.tensor(1))
        before = {"a": ended[-1] if ended else state.rows["a"][0]}
        params, state = own.begin_task({"embedding": before}, state, about)
        working = params["embedding"]["a"]
        # first its own draw; then the last one; then its own
        expected = ended[0] if ended else state.rows["a"][1]
        assert torch.equal(working, expected)
        ended.append(working + 1)
        _, state = own.end_task({"embedding": {"a": ended[-1]}}, state)


@given(seed=seeds())
def test_the_regularisers_are_their_equations(seed):
    gates, used = units(seed), units(seed + 1 if seed < 2**63 else 0)
    pairs = [
        (a, u) for g in gates for a, u in zip(gates[g].tolist(), used[g].tolist(), strict=True)
    ]
    original = sum(a * (1 - u) for a, u in pairs) / sum(1 - u for _, u in pairs)
    assert sparsity.original(gates, used).item() == pytest.approx(original, rel=1e-12)
    overlap = sum(a * u for a, u in pairs) / sum(u for _, u in pairs)
    assert sparsity.cross(gates, used).item() == pytest.approx(
        (original + 1 - overlap) / 2, rel=1e-12
    )
    layers = []
    for g in gates:
        layer = list(zip(gates[g].tolist(), used[g].tolist(), strict=True))
        excess = max(0.0, sum(a * (1 - u) for a, u in layer) - len(layer) / 4)
        layers.append(excess / sum(1 - u for _, u in layer))
    assert sparsity.uniform(gates, used, 4).item() == pytest.approx(
        sum(layers) / len(layers), rel=1e-12
    )


@pytest.mark.parametrize("mode", ["original", "cross", "uniform"])
@given(seed=seeds())
def test_a_regulariser_stays_in_range_and_never_rewards_a_free_unit(mode, seed):
    regulariser, used = sparsity.regulariser_named(mode, 4), binary(seed)
    gates = {group: u.requires_grad_() for group, u in units(seed ^ 1).items()}
    value = regulariser(gates, used)
    slopes = torch.autograd.grad(value, list(gates.values()), allow_unused=True)
    assert 0 <= value <= 1
    for slope, taken in zip(slopes, used.values(), strict=True):
        assert (slope[taken == 0] >= 0).all()
        assert (slope[taken == 1] <= 0).all() and (
            mode == "cross" or (slope[taken == 1] == 0).all()
        )


@pytest.mark.parametrize("mode", ["original", "cross", "uniform"])
@pytest.mark.parametrize("taken", [0.0, 1.0])
def test_an_empty_or_a_full_network_gives_finite_numbers(mode, taken):
    used = {group: torch.full_like(u, taken) for group, u in units(0).items()}
    gates = {group: u.requires_grad_() for group, u in units(1).items()}
    value = sparsity.regulariser_named(mode, 4)(gates, used)
    slopes = torch.autograd.grad(value, list(gates.values()))
    assert torch.isfinite(value) and all(torch.isfinite(slope).all() for slope in slopes)
    if mode == "original":
        assert value.item() == pytest.approx(
            0 if taken else torch.cat(list(units(1).values())).mean().item()
        )


@given(used=st.floats(0, 1), noise=st.floats(0, 1), alpha=st.floats(0, 1))
def test_a_free_weight_moves_freely_and_a_used_one_by_its_mode(used, noise, alpha):
    u, a = t(used), t(alpha)
    assert adjustment.hat(u) == 1 - used and adjustment.hat_const_1(u) == 1
    assert adjustment.hat_const_alpha(u, a).item() == pytest.approx(used * alpha + 1 - used)
    assert adjustment.hat_random(u, t(noise)).item() == pytest.approx(used * noise + 1 - used)


@given(
    claims=st.integers(0, 30), free=st.floats(0, 1), alpha=st.sampled_from([1e-9, 1e-6, 1e-2, 1.0])
)
def test_adahat_frees_what_none_claims_and_holds_the_rest_the_firmer_the_more_claim_it(
    claims, free, alpha
):
    def rate(n):
        return adjustment.adahat(t(float(n)), t(free), t(alpha), t(0.1)).item()

    r = alpha / (0.1 + free)
    assert rate(claims) == pytest.approx(r / (claims + r), rel=1e-12)
    assert rate(0) == 1 and 0 < rate(claims + 1) < rate(claims) <= 1


def test_sharpness_runs_from_undecided_to_decided():
    assert attention.sharpness({"a": t([0.0, 0.0])}, t(400.0)) == 0
    assert attention.sharpness({"a": t([6.0, -6.0])}, t(400.0)) == 1
