"""HAT's promise: what earlier tasks use does not move by one bit, whatever the optimiser; and what
hat refuses.
"""

import re
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.hats import parts_of
from support.promises import TASKS, play_with_promise

import clfunc as cl
from clfunc import tree
from clfunc.algorithms import adahat, hat
from clfunc.hard_attention import Gating
from clfunc.models.heads import dil, mtl, til
from clfunc.random import key, normal
from clfunc.scenarios import joint
from clfunc.testing import play, toy_stream
from clfunc.testing.laws import identical
from clfunc.testing.strategies import chains, seeds
from clfunc.transforms import adam, adamw, carry, sgd
from clfunc.units import masks


def network(scenario, hidden=(6, 5), **more):
    return cl.mlp(scenario.inputs, hidden, scenario.head(), **more)


def lived(tx, seed=0, tasks=TASKS, hidden=(6, 5), dropout=0.0, activation="relu", **settings):
    """A whole life of an mlp under the promise's hook."""
    scenario = toy_stream(num_tasks=tasks)
    model = network(scenario, hidden, dropout_rate=dropout, activation=activation)
    return play_with_promise(model, scenario, tx, seed, **settings)


@given(
    tx=chains(),
    seed=seeds(),
    tasks=st.integers(1, TASKS),
    hidden=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    dropout=st.sampled_from([0.0, 0.3]),
    activation=st.sampled_from(["relu", "sigmoid", "gelu"]),
    s_max=st.sampled_from([5.0, 400.0]),
)
def test_weights_between_used_units_never_move_and_earlier_logits_keep_their_bits(
    tx, seed, tasks, hidden, dropout, activation, s_max
):
    lived(tx, seed, tasks, hidden, dropout, activation, s_max=s_max)


@pytest.mark.parametrize(
    "inner", [sgd(0.1), carry(adamw(0.05, weight_decay=0.1))], ids=["sgd", "adamw"]
)
def test_the_promise_holds_while_units_are_reset_and_units_that_tasks_use_never_are(inner):
    scenario = toy_stream(num_tasks=3)
    model = network(scenario, (8, 7))
    tx = cl.reinit(model, inner, replacement_rate=0.3, maturity_threshold=1, utility_decay_rate=0.5)
    promise = play_with_promise(model, scenario, tx)
    assert promise.frozen > 0 and promise.resets > 3


NETWORKS = {
    "convnet": lambda s, **more: cl.models.convnet(
        s.inputs, (5,), s.head(), channels=(4, 3), **more
    ),
    "resnet": lambda s, **more: cl.models.resnet(s.inputs, (4,), s.head(), channels=(4, 5), **more),
    "mlp": lambda s, **more: network(s, **more),
}


@pytest.mark.parametrize("norm", [None, "layer", "group"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_promise_holds_for_every_network_and_for_norms_that_a_task_has_for_itself(name, norm):
    scenario = toy_stream(num_tasks=3)
    if (name, norm) != ("mlp", "group"):
        model = NETWORKS[name](scenario, norm=norm, per_task_norm=norm is not None)
        promise = play_with_promise(model, scenario, carry(adamw(0.05, weight_decay=0.1)))
        assert promise.frozen > 0 and len(promise.logits) == 3


@pytest.mark.parametrize("name", NETWORKS)
def test_norms_that_tasks_share_are_refused(name):
    scenario = toy_stream(num_tasks=3)
    with pytest.raises(
        ValueError, match=r"hat cannot protect normalisation that tasks share .* per_task_norm=True"
    ):
        hat(NETWORKS[name](scenario, norm="layer"), sgd(0.1), num_tasks=3)


@pytest.mark.parametrize(
    "tx", [sgd(0.1), carry(adamw(0.1, weight_decay=0.1))], ids=["sgd", "adamw"]
)
def test_the_promise_is_about_something(tx):
    promise = lived(tx)
    assert promise.frozen > 0 and len(promise.logits) == TASKS
    first, *later = (c.item() for c in promise.capacity[::3])
    assert first == 1.0 and later[0] < 1.0
    assert all(b <= a for a, b in zip([first, *later], later, strict=False))


@pytest.mark.parametrize(
    "wrong", [{"freeze": "gradients"}, {"adjustment_mode": "hat_const_1"}], ids=str
)
def test_masking_gradients_only_breaks_the_promise_under_adamw(wrong):
    with pytest.raises(AssertionError, match="moved between two used units"):
        lived(carry(adamw(0.1, weight_decay=0.1)), **wrong)


@pytest.mark.parametrize("place", ["updates", "gradients"])
def test_under_plain_sgd_the_paper_s_gradient_mask_freezes_as_well(place):
    assert lived(sgd(0.1), freeze=place, scale_at=place).frozen > 0


def test_sigmoid_masks_are_the_paper_s_and_only_nearly_forget_free():
    with pytest.raises(AssertionError, match="forgot"):
        lived(sgd(0.5), s_max=5.0, test_mask="sigmoid")


def test_a_shared_head_forgets_unless_it_is_frozen():
    scenario = toy_stream(num_tasks=3, paradigm="dil")
    for after, forgets in ((None, True), (1, False)):
        with (
            pytest.warns(UserWarning, match="hat does not protect the dil head")
            if forgets
            else nullcontext()
        ):
            algorithm = hat(
                network(scenario), sgd(0.1), num_tasks=3, s_max=20.0, freeze_head_after=after
            )
        logits = []

        def call(name, f, *args, algorithm=algorithm, logits=logits):
            result = f(*args)
            if name == "end_task":
                logits.append(algorithm.predict(*result, normal(key(9), (7, 16)), torch.tensor(0)))
            return result

        play(algorithm, scenario, key(0), call)
        assert torch.equal(logits[0], logits[-1]) != forgets


def test_a_task_met_again_finds_its_embedding_and_starts_where_it_ended():
    scenario = toy_stream(num_tasks=2)
    model = network(scenario)
    algorithm = hat(model, sgd(0.1), num_tasks=2, s_max=20.0)
    params, state = algorithm.init(key(0))
    ended = {}
    for task in (0, 1, 0):
        about = cl.Task(torch.tensor(task), torch.tensor(2), torch.tensor(1))
        params, state = algorithm.begin_task(params, state, about)
        if task in ended:
            assert identical(params["embedding"], ended[task])
        stream = scenario.train(task)
        params, state, _ = algorithm.step(
            params, state, scenario.batch(scenario.data, stream, stream.train[:8])
        )
        params, state = algorithm.end_task(params, state)
        ended[task] = params["embedding"]
    most = {group: claims.max().item() for group, claims in state.attention.claims.items()}
    assert all(n <= 2 for n in most.values())  # met twice, a task claims once


def drift(make, tx, **settings):
    """The largest move, in one step, of a weight that both of its units' earlier tasks use."""
    scenario = toy_stream(num_tasks=2)
    model = network(scenario)
    most = []

    def call(name, f, *args):
        result = f(*args)
        if name == "step":
            used = masks.of_weights(model, args[0], args[1].attention.used)
            moves = tree.map(lambda m, a, b: (m * (a - b)).abs().max(), used, args[0], result[0])
            most.append(torch.stack(tree.leaves(moves)).max())
        return result

    given = parts_of(settings) if make is hat else settings
    play(make(model, tx, num_tasks=2, s_max=20.0, **given), scenario, key(0), call)
    return torch.stack(most).max().item()


def test_adahat_moves_used_weights_and_the_less_the_smaller_alpha():
    small, some, much = (drift(adahat, sgd(0.1), alpha=alpha) for alpha in (1e-5, 1e-3, 1e-1))
    assert 0 < small < 0.1 * some < some < much


def test_scaling_gradients_hardly_matters_to_adam_and_scaling_updates_does():
    mode = {"adjustment_mode": "hat_const_alpha", "alpha": 1e-4}
    gradients, updates = (
        drift(hat, adam(0.01), **mode, scale_at=place) for place in ("gradients", "updates")
    )
    assert gradients > 100 * updates


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"s_max": 0.0}, "s_max must be a number in (0, inf), given 0.0"),
        ({"s_max": -1}, "s_max must be a number in (0, inf), given -1"),
        ({"clamp_threshold": 0}, "clamp_threshold must be a number in (0, inf), given 0"),
        (
            {"mask_sparsity_reg_factor": -0.1},
            "mask_sparsity_reg_factor must be a number in [0, inf), given -0.1",
        ),
        (
            {"mask_sparsity_reg_mode": "l1"},
            "mask_sparsity_reg_mode must be one of original, cross, uniform, given 'l1'",
        ),
        (
            {"adjustment_mode": "soft"},
            "adjustment_mode must be one of hat, hat_random, hat_const_alpha, ",
        ),
        ({"adjustment_mode": "adahat"}, "adjustment_mode='adahat' needs alpha, given none"),
        (
            {"adjustment_mode": "hat_const_alpha"},
            "adjustment_mode='hat_const_alpha' needs alpha, given none",
        ),
        (
            {"adjustment_mode": "hat_const_alpha", "alpha": 2.0},
            "alpha must be a number in [0, 1], given 2.0",
        ),
        (
            {"adjustment_mode": "adahat", "alpha": 0.0},
            "alpha must be a number in (0, inf), given 0.0",
        ),
        (
            {"task_embedding_init_mode": "masked"},
            "task_embedding_init_mode must be one of N01, U-11, U01, ",
        ),
        ({"anneal": "linear"}, "anneal must be one of paper, official, constant, given 'linear'"),
        ({"test_mask": "soft"}, "test_mask must be one of step, sigmoid, given 'soft'"),
        ({"freeze": "grad"}, "freeze must be one of updates, gradients, given 'grad'"),
        ({"scale_at": "update"}, "scale_at must be one of updates, gradients, given 'update'"),
        ({"gate_position": "post"}, "gate_position must be one of post_act, pre_act, given 'post'"),
        ({"num_tasks": 2}, "num_tasks must be at least the head's 3, given 2"),
        (
            {"freeze_head_after": 1},
            "freeze_head_after must be at least 1, for a head that tasks share (cil, dil)",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_bad_setting_is_one_clear_line(settings, said):
    model = cl.mlp(4, (3,), til(3, 2))
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        hat(model, sgd(0.1), **parts_of({"num_tasks": 3} | settings))
    assert "\n" not in str(error.value)


def test_heads_and_batches_that_mix_tasks_are_refused():
    with pytest.raises(ValueError, match="given an mtl head, whose batches mix tasks"):
        hat(cl.mlp(4, (3,), mtl(3, 2)), sgd(0.1), num_tasks=3)
    scenario = joint(toy_stream(num_tasks=2, paradigm="dil"))
    algorithm = hat(network(scenario), sgd(0.1), num_tasks=2, freeze_head_after=1)
    with pytest.raises(
        ValueError, match="hat needs batches of one task, given one that mixes tasks"
    ):
        play(algorithm, scenario, key(0))


def test_a_shut_unit_that_would_still_answer_is_refused():
    with pytest.raises(ValueError, match="pre_act' leaves a shut unit at sigmoid"):
        hat(
            cl.mlp(4, (3,), til(3, 2), activation="sigmoid"),
            sgd(0.1),
            num_tasks=3,
            gates=Gating(gate_position="pre_act"),
        )
    assert hat(
        cl.mlp(4, (3,), dil(1, 2)),
        sgd(0.1),
        num_tasks=1,
        freeze_head_after=1,
        gates=Gating(gate_position="pre_act"),
    )


def test_a_sweep_over_lr_s_max_sparsity_alpha_and_seeds_is_one_program():
    scenario = toy_stream(num_tasks=2)
    model = network(scenario)
    members = [
        adahat(model, sgd(lr), num_tasks=2, s_max=s, mask_sparsity_reg_factor=c, alpha=a)
        for lr, s, c, a in (
            (0.1, 20.0, 0.1, 1e-3),
            (0.05, 50.0, 0.5, 1e-2),
            (0.1, 400.0, 0.75, 1e-6),
        )
    ]
    keys = cl.random.split(key(3), 3)
    together = cl.run(
        cl.sweep(members), scenario, keys, batch_size=8, engine="eager", progress=False
    )
    assert sorted(together.coordinates) == ["alpha", "lr", "mask_sparsity_reg_factor", "s_max"]
    for i, member in enumerate(members):
        alone = cl.run(member, scenario, keys[i], batch_size=8, engine="eager", progress=False)
        for a, b in zip(
            tree.leaves(alone.params), tree.leaves(tree.index(together.params, i)), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_carried_optimiser_forgets_the_embedding_and_the_head_that_it_moved():
    scenario = toy_stream(num_tasks=2)
    algorithm = hat(network(scenario), carry(sgd(0.1, 0.9)), num_tasks=2, s_max=20.0)
    begun = []

    def call(name, f, *args):
        result = f(*args)
        if name == "begin_task":
            begun.append(result[1].opt.inner[1].trace)
        return result

    play(algorithm, scenario, key(0), call)
    still = {
        group: max(leaf.abs().max().item() for leaf in tree.leaves(t))
        for group, t in begun[1].items()
    }
    assert still["embedding"] == still["head"] == 0 < still["hidden1"]
