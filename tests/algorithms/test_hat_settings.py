"""Every setting of hat and adahat does what it names, and the numbers they report are what they
say.
"""

import inspect

import pytest
import torch
from support.hats import parts_of

import clfunc as cl
from clfunc import algorithms, tree
from clfunc.algorithms import adahat, hat
from clfunc.hard_attention import Gating
from clfunc.hard_attention import gates as attention
from clfunc.hard_attention import rates as adjustment
from clfunc.models.heads import dil, regression, til
from clfunc.random import key, split
from clfunc.testing import play, toy_stream
from clfunc.transforms import scale_by_adjustment, sgd
from clfunc.types import Batch, Context, Task
from clfunc.units import masks

REFERENCE = {
    "s_max": 400.0,
    "mask_sparsity_reg_factor": 0.75,
    "mask_sparsity_reg_mode": "original",
    "clamp_threshold": 50.0,
}
REFERENCE |= {
    "task_embedding_init_mode": "N01",
    "adjustment_mode": "hat",
    "alpha": None,
    "anneal": "paper",
}
REFERENCE |= {
    "test_mask": "step",
    "freeze": "updates",
    "scale_at": "updates",
    "gate_position": "post_act",
}
REFERENCE |= {"embedding_clamp": 6.0, "clip_norm": 10000.0, "epsilon": 0.1}
ADAPTIVE = {
    "s_max": 20.0,
    "mask_sparsity_reg_factor": 0.3,
    "alpha": 0.5,
    "epsilon": 0.7,
    "no_reg": True,
    "no_sum": True,
}
ADAPTIVE |= {"scale_at": "gradients"}


def defaults(factory):
    """Every default, those of the gates and of the rates by their own names."""
    found = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        part = parameter.default
        found |= part._asdict() if hasattr(part, "_fields") else {name: part}
    return found


def model_of(**more):
    return cl.mlp(16, (6, 5), til(3, 3), **more)


def begun(algorithm, task=0):
    params, state = algorithm.init(key(0))
    return algorithm.begin_task(
        params, state, Task(torch.tensor(task), torch.tensor(4), torch.tensor(1))
    )


def batch_of(task=0):
    scenario = toy_stream(num_tasks=3)
    stream = scenario.train(task)
    return scenario.batch(scenario.data, stream, stream.train[:8])


def test_the_defaults_are_the_paper_s_and_the_authors():
    assert {name: defaults(hat)[name] for name in REFERENCE} == REFERENCE
    assert {name: defaults(adahat)[name] for name in ("alpha", "epsilon", "mask_sparsity_reg_factor", "s_max")} == {
        "alpha": 1e-6, "epsilon": 0.1, "mask_sparsity_reg_factor": 0.1, "s_max": 400.0,
    }  # fmt: skip


@pytest.mark.parametrize("setting", ADAPTIVE)
def test_adahat_hands_each_setting_on_to_hat_and_keeps_its_name(setting):
    given = {setting: ADAPTIVE[setting]}
    made = adahat(model_of(), sgd(0.1), num_tasks=3, **given)
    own = {"alpha": 1e-6, "mask_sparsity_reg_factor": 0.1} | given
    same = hat(model_of(), sgd(0.1), num_tasks=3, **parts_of({"adjustment_mode": "adahat"} | own))
    assert made.settings | {"name": "hat"} == same.settings and made.settings["name"] == "adahat"


@pytest.mark.parametrize(
    "mode, low, high", [("dense", 1, 1), ("sparse", 0, 0), ("U01", 0, 1), ("U-10", -1, 0)]
)
def test_embeddings_start_by_the_mode_given(mode, low, high):
    algorithm = hat(model_of(), sgd(0.1), num_tasks=3, gates=Gating(task_embedding_init_mode=mode))
    params, _ = begun(algorithm)
    for e in params["embedding"].values():
        assert (e >= low).all() and (e <= high).all()


def test_layers_of_one_width_start_apart_and_a_shut_unit_is_not_used():
    drawn = attention.draw_embedding("N01", key(0), {"a": 6, "b": 6}, 1, torch.float32)
    assert not torch.equal(drawn["a"], drawn["b"])
    zero = {"a": torch.tensor([0.0, 1e-3, -1e-3])}
    assert attention.masks("step", zero, torch.tensor(400.0))["a"].tolist() == [0.0, 1.0, 0.0]


def test_predict_opens_the_gates_of_the_working_embedding_while_it_trains():
    algorithm = hat(model_of(), sgd(0.1), num_tasks=3)
    params, state = begun(algorithm)
    batch = batch_of()
    opened = params | {"embedding": tree.map(torch.ones_like, params["embedding"])}
    shut = params | {"embedding": tree.map(lambda e: -torch.ones_like(e), params["embedding"])}
    logits = [algorithm.predict(p, state, batch.x, torch.tensor(0)) for p in (opened, shut)]
    torch.testing.assert_close(logits[1], params["head"]["bias"].expand(8, 3))
    assert not torch.equal(*logits)


def test_random_rates_are_drawn_anew_at_every_step():
    model = model_of()
    tx = scale_by_adjustment(model, sgd(1.0), "hat_random")
    params = model.init(key(0))
    used = {group: torch.ones(n) for group, n in model.units.items()}
    state, ones, moves = tx.init(key(1), params), tree.map(torch.ones_like, params), []
    for _ in range(2):
        updates, state = tx.update(
            ones, state, params, Context({}, torch.tensor(0), used, used, used)
        )
        moves.append(-updates["hidden1"]["weight"])
    assert not torch.equal(*moves) and all(
        (m >= 0).all() and (m < 1).all() and m.std() > 0.2 for m in moves
    )


def test_the_optimiser_restarts_at_each_task():
    algorithm = hat(model_of(), sgd(0.1, 0.9), num_tasks=3, s_max=20.0)
    begun_with = []

    def call(name, f, *args):
        result = f(*args)
        if name == "begin_task":
            begun_with.append(tree.leaves(result[1].opt.inner[1].trace))
        return result

    play(algorithm, toy_stream(num_tasks=3), key(0), call)
    assert all((leaf == 0).all() for leaves in begun_with for leaf in leaves)


def test_capacity_is_the_mean_rate_over_all_weights_and_not_over_layers():
    model = model_of()
    params = model.init(key(0))
    used = {
        "hidden1": torch.tensor([1.0, 1, 1, 0, 0, 0]),
        "hidden2": torch.tensor([1.0, 1, 0, 0, 0]),
    }
    wired = masks.of_wires(model, params, used)
    rates = {name: adjustment.hat(mask) for name, mask in wired.items()}
    frozen = 3 * 16 + 3 + 2 * 3 + 2  # weights and biases of both layers between used units
    total = 6 * 16 + 6 + 5 * 6 + 5
    assert adjustment.capacity(rates, params).item() == pytest.approx(1 - frozen / total)


def test_a_picture_of_a_convolution_s_rates_is_of_its_channels():
    rates = {
        "conv.weight": torch.tensor([[1.0, 0.0], [0.5, 1.0]])[:, :, None, None].expand(2, 2, 3, 3),
        "conv.bias": torch.ones(2),
    }
    pictures = adjustment.pictures(rates)
    assert list(pictures) == ["rate.conv.weight"]
    torch.testing.assert_close(pictures["rate.conv.weight"], torch.tensor([[1.0, 0.0], [0.5, 1.0]]))
    assert adjustment.pictures({"w": torch.ones(300, 10)})["rate.w"].shape == (128, 10)


def test_sharpness_and_used_shares_are_what_they_say():
    algorithm = hat(model_of(), sgd(0.1), num_tasks=3, s_max=3.0)
    params, state = begun(algorithm)
    told = algorithm.step(params, state, batch_of())[2]
    every = torch.cat(list(params["embedding"].values()))
    assert told["sharpness"].item() == pytest.approx(
        (2 * torch.sigmoid(3.0 * every) - 1).abs().mean().item(), rel=1e-5
    )
    used = state.attention._replace(
        used={g: torch.full_like(u, 0.25) for g, u in state.attention.used.items()}
    )
    told = algorithm.step(params, state._replace(attention=used), batch_of())[2]
    assert told["used.hidden1"] == told["used.hidden2"] == 0.25


def test_norms_that_a_task_has_for_itself_train_at_used_units_too():
    model = cl.mlp(16, (6, 5), til(3, 3), norm="layer", per_task_norm=True)
    algorithm = hat(model, sgd(0.1), num_tasks=3, s_max=1.0)
    params, state = begun(algorithm)
    full = state.attention._replace(
        used={g: torch.ones_like(u) for g, u in state.attention.used.items()}
    )
    moved, _, _ = algorithm.step(params, state._replace(attention=full), batch_of())
    assert not torch.equal(moved["norm"]["hidden1"]["weight"], params["norm"]["hidden1"]["weight"])
    assert torch.equal(moved["hidden1"]["weight"], params["hidden1"]["weight"])


def test_members_may_differ_in_what_the_masks_of_a_task_depend_on():
    scenario = toy_stream(num_tasks=2)
    model = cl.mlp(scenario.inputs, (6, 5), scenario.head())
    settings = {"num_tasks": 2, "test_mask": "sigmoid", "adjustment_mode": "adahat"}
    members = [
        hat(model, sgd(0.1), **parts_of(settings | {"s_max": s, "epsilon": e, "alpha": 0.1}))
        for s, e in ((5.0, 0.1), (50.0, 0.9))
    ]
    keys = split(key(3), 2)
    together = cl.run(
        cl.sweep(members), scenario, keys, batch_size=8, engine="eager", progress=False
    )
    for i, member in enumerate(members):
        alone = cl.run(member, scenario, keys[i], batch_size=8, engine="eager", progress=False)
        torch.testing.assert_close(together.accuracy[..., i], alone.accuracy, equal_nan=True)
        for a, b in zip(
            tree.leaves(alone.state.attention),
            tree.leaves(tree.index(together.state.attention, i)),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_shared_head_of_any_kind_is_said_to_forget():
    for head in (dil(2, 3), regression(2)):
        with pytest.warns(UserWarning, match=f"does not protect the {head.paradigm} head"):
            hat(cl.mlp(4, (3,), head), sgd(0.1), num_tasks=2)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"alpha": 0.1}, "adjustment_mode='hat' has no alpha, given 0.1"),
        ({"num_tasks": 0}, "num_tasks must be "),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        hat(model_of(), sgd(0.1), **parts_of({"num_tasks": 3} | settings))


@pytest.mark.parametrize(
    "old, said",
    [
        (
            {"test_mask": "sigmoid"},
            "test_mask belongs to the gates of hat:"
            " write gates=cl.hard_attention.Gating(test_mask='sigmoid')",
        ),
        (
            {"alpha": 0.1},
            "alpha belongs to the rates of hat: write rates=cl.hard_attention.Rates(alpha=0.1)",
        ),
        ({"alhpa": 0.1}, "hat has no setting 'alhpa'"),
    ],
)
def test_the_spelling_before_parts_is_refused_with_the_new_one(old, said):
    with pytest.raises(TypeError) as error:
        hat(model_of(), sgd(0.1), num_tasks=3, **old)
    assert str(error.value) == said


def test_too_few_embeddings_for_a_shared_head_s_tasks_are_refused():
    with pytest.raises(ValueError, match="num_tasks must be at least the head's 4, given 2"):
        hat(cl.mlp(4, (3,), dil(4, 3)), sgd(0.1), num_tasks=2, freeze_head_after=1)


def test_what_moves_every_weight_is_refused_around_hat():
    inner = hat(model_of(), sgd(0.1), num_tasks=3)
    with pytest.raises(
        ValueError, match="shrink_and_perturb moves every weight, and hat freezes some"
    ):
        algorithms.shrink_and_perturb(inner)
    with pytest.raises(
        ValueError, match="shrink_and_perturb moves every weight, and hat freezes some"
    ):
        algorithms.shrink_and_perturb(algorithms.reduce_on_plateau(inner))


def test_a_mixed_batch_is_refused_at_the_first_step():
    algorithm = hat(model_of(), sgd(0.1), num_tasks=3)
    params, state = begun(algorithm)
    batch = batch_of()
    with pytest.raises(ValueError, match="hat needs batches of one task"):
        algorithm.step(
            params, state, Batch(batch.x, batch.y, torch.zeros(8, dtype=torch.int64), batch.weight)
        )
