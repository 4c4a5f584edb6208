"""AmnesiacHAT: what is exact in it, and its backups and replay against loops over tasks and
weights.
"""

from functools import cache

import pytest
import torch
from support.forgetting import assert_each_run_forgets_as_alone

from clfunc import adam, amnesiac, amnesiac_hat, carry, hat, mlp, sgd, til, tree
from clfunc.random import fold_in, key, normal, split
from clfunc.testing.laws import distance, identical
from clfunc.transforms import reinit
from clfunc.types import Batch, Task
from clfunc.unlearning.records import every

TASKS, CLASSES, EPOCHS, STEPS = 3, 2, 2, 4
OPTIMIZERS = {
    "sgd": lambda: sgd(0.1),
    "momentum": lambda: carry(sgd(0.1, 0.9)),
    "adam": lambda: adam(0.05),
}
KINDS = {
    "plain": {},
    "compensated": {"compensate": True},
    "repaired": {"repair_steps": 3, "buffer_size": 4, "repair_lr": 0.1},
    "both": {"compensate": True, "repair_steps": 3, "buffer_size": 4},
}
HATS = {"s_max": 20.0, "mask_sparsity_reg_factor": 0.1}
every_kind = pytest.mark.parametrize("kind", KINDS)


def net(dtype=torch.float64):
    return mlp(5, (8, 6), til(TASKS, CLASSES), dtype=dtype)


def make(kind="both", tx="momentum", dtype=torch.float64, **settings):
    return amnesiac_hat(
        net(dtype), OPTIMIZERS[tx](), num_tasks=TASKS, **HATS, **KINDS[kind], **settings
    )


def batch(task, step, dtype=torch.float64):
    x = normal(fold_in(key(1), task, step), (6, 5), dtype=dtype)
    return Batch(
        x, (x[:, task] > 0).to(torch.int64), torch.tensor(task), torch.ones(6, dtype=dtype)
    )


def begin(algorithm, carry, task):
    return algorithm.begin_task(*carry, Task(*torch.tensor([task, STEPS, EPOCHS])))


def train(algorithm, tasks=range(TASKS), dtype=torch.float64, start=None, after_step=None):
    carry = start or algorithm.init(key(0))
    for task in tasks:
        carry = begin(algorithm, carry, task)
        for step in range(EPOCHS * STEPS):
            before = carry
            *carry, _ = algorithm.step(*carry, batch(task, step, dtype))
            if after_step is not None:
                after_step(before, batch(task, step, dtype), carry)
        carry = algorithm.end_task(*carry)
    return carry


@cache
def trained(kind, tx="momentum", dtype=torch.float64):
    algorithm = make(kind, tx, dtype)
    return algorithm, tuple(train(algorithm, dtype=dtype))


def asked(*tasks):
    return torch.tensor([task in tasks for task in range(TASKS)])


def whole(algorithm, carry):
    own = algorithm.bank.rows(*carry)
    return {group: part for group, part in carry[0].items() if group not in own} | own


@every_kind
def test_training_is_hats_bit_for_bit(kind):
    _, (params, state) = trained(kind)
    expected = train(hat(net(), OPTIMIZERS["momentum"](), num_tasks=TASKS, **HATS))
    assert identical(tuple(expected), (params, state.inner.inner))


def test_without_compensation_and_repair_it_is_amnesiac_around_hat():
    algorithm, carry = trained("plain")
    other = amnesiac(hat(net(), OPTIMIZERS["momentum"](), num_tasks=TASKS, **HATS), num_tasks=TASKS)
    undone, expected = algorithm.unlearn(*carry, asked(1)), other.unlearn(*train(other), asked(1))
    assert identical((undone[0], undone[1].inner), expected)


@every_kind
@pytest.mark.parametrize("tx", OPTIMIZERS)
def test_forgetting_a_task_leaves_every_earlier_tasks_logits_their_very_bits(kind, tx):
    algorithm, carry = trained(kind, tx, torch.float32)
    x = batch(0, 0, torch.float32).x
    for task in range(1, TASKS):
        undone = algorithm.unlearn(*carry, asked(task))
        for earlier in range(task):
            told = torch.tensor(earlier)
            assert identical(
                algorithm.predict(*undone, x, told), algorithm.predict(*carry, x, told)
            )


@every_kind
def test_start_plus_records_is_the_parameters_after_every_request_too(kind):
    algorithm, carry = trained(kind)
    start = whole(algorithm, algorithm.init(key(0)))
    for requests in ((asked(),), (asked(0),), (asked(0), asked(2)), (asked(1, 2), asked(0))):
        now = carry
        for request in requests:
            now = algorithm.unlearn(*now, request)
        own, rows = algorithm.bank.rows(*now), every(now[1].inner.records)
        for group, part in whole(algorithm, now).items():
            change = rows[group] if group in own else tree.map(lambda r: r.sum(0), rows[group])
            assert distance(tree.add(start[group], change), part) < 1e-12
    everything = algorithm.unlearn(*carry, asked(0, 1, 2))
    assert distance(whole(algorithm, everything), start) < 1e-12
    assert identical(algorithm.unlearn(*carry, asked()), carry)
    again = algorithm.unlearn(*everything, asked(0, 1, 2))
    assert identical(whole(algorithm, again), whole(algorithm, everything))


@every_kind
def test_a_forgotten_task_leaves_its_units_free_and_its_embedding_at_the_start(kind):
    algorithm, carry = trained(kind)
    start = algorithm.bank.rows(*algorithm.init(key(0)))
    for task in range(TASKS):
        undone = algorithm.unlearn(*carry, asked(task))
        attend, own = undone[1].inner.inner.attention, algorithm.bank.rows(*undone)
        others = [t for t in range(TASKS) if t != task]
        for group, used in attend.used.items():
            expected = torch.stack(
                [carry[1].inner.inner.attention.rows[group][t] > 0 for t in others]
            ).any(0)
            assert torch.equal(used > 0, expected)
        for group in ("head", "embedding"):
            assert distance(tree.index(own[group], task), tree.index(start[group], task)) < 1e-12


def weights(model, params):
    """Every weight that feeds a unit: name, index, and the units of its two ends."""
    for wire in model.wires:
        leaf = params[wire.path[0]][wire.path[1]]
        for place in (
            torch.cartesian_prod(*[torch.arange(n) for n in leaf.shape])
            .reshape(-1, leaf.ndim)
            .tolist()
        ):
            if wire.post is not None:
                ends = [(wire.post, place[wire.post_axis])]
                ends += [(wire.pre, place[wire.pre_axis])] if wire.pre is not None else []
                yield wire.path, tuple(place), ends


def joins(units, ends):
    return all(float(units[group][i]) > 0 for group, i in ends)


def naive_backup(forgotten):
    """What the weights would be without a task, trained weight by weight beside the run, with
    momentum; and the run's end.
    """
    model, algorithm = net(), make("plain", "momentum")
    masks, seen, log = {}, {}, {"backup": None, "trace": None}

    def alone(before, made, after):
        told = before[1].inner.inner.attention
        if log["backup"] is None:
            return
        units = {
            g: torch.stack(
                [masks[t][g] for t in masks if t != forgotten] + [torch.zeros_like(m)]
            ).any(0)
            for g, m in masks[forgotten].items()
        }
        s = 1 / 20 + (20 - 1 / 20) * (int(told.step) % STEPS) / (STEPS - 1)
        gates = {g: torch.sigmoid(s * e) for g, e in before[0]["embedding"].items()}
        net_ = tree.clone({g: p for g, p in before[0].items() if g != "embedding"})
        movable = [w for w in weights(model, net_) if not joins(seen[forgotten], w[2])]
        for path, place, _ in movable:
            net_[path[0]][path[1]][place] = log["backup"][path[0]][path[1]][place]
        leaves = [leaf.requires_grad_() for leaf in tree.leaves(net_)]
        logits = model.apply(
            tree.unflatten(leaves, tree.structure(net_)), made.x, made.task, gates=gates
        ).logits
        with torch.enable_grad():
            loss = torch.nn.functional.cross_entropy(logits, made.y)
        gradient = tree.unflatten(list(torch.autograd.grad(loss, leaves)), tree.structure(net_))
        for path, place, ends in movable:
            trace = log["trace"].get((path, place), 0.0) * 0.9 + float(
                gradient[path[0]][path[1]][place]
            )
            log["trace"][path, place] = trace
            if not joins(units, ends):
                log["backup"][path[0]][path[1]][place] -= 0.1 * trace

    carry = algorithm.init(key(0))
    for task in range(TASKS):
        seen[task] = tree.clone(carry[1].inner.inner.attention.used)
        begun = tree.clone(carry[0])
        carry = train(algorithm, (task,), start=carry, after_step=alone)
        masks[task] = {g: e[task] > 0 for g, e in carry[1].inner.inner.attention.rows.items()}
        if task == forgotten:
            log["backup"], log["trace"] = begun, {}
    return model, log["backup"], masks, seen, carry


@pytest.mark.parametrize("forgotten", [0, 1])
def test_compensation_is_a_backup_trained_weight_by_weight_in_the_place_of_what_later_tasks_lost(
    forgotten,
):
    model, backup, masks, seen, carry = naive_backup(forgotten)
    expected = tree.clone(make("plain").unlearn(*carry, asked(forgotten))[0])
    changed = 0
    for path, place, ends in weights(model, expected):
        needed = any(joins(masks[t], ends) for t in masks if t != forgotten)
        if needed and not joins(seen[forgotten], ends):
            changed += (
                abs(float(expected[path[0]][path[1]][place] - backup[path[0]][path[1]][place]))
                > 1e-3
            )
            expected[path[0]][path[1]][place] = backup[path[0]][path[1]][place]
    algorithm, carry = trained("compensated")
    found = algorithm.unlearn(*carry, asked(forgotten))[0]
    assert changed > 5 and distance(found, expected) < 1e-12


def loss_of(algorithm, carry, task):
    made = [batch(task, step) for step in range(EPOCHS * STEPS)]
    x, y = torch.cat([b.x for b in made]), torch.cat([b.y for b in made])
    return float(
        torch.nn.functional.cross_entropy(algorithm.predict(*carry, x, torch.tensor(task)), y)
    )


def naive_repair(forgotten):
    """Gradient descent on the examples kept, task by task, of the weights that a later task lost."""
    model = net()
    plain, before = trained("plain"), {}
    start = make("plain").init(key(0))
    for task in range(TASKS):
        before[task] = tree.clone(start[1].inner.inner.attention.used)
        start = train(make("plain"), (task,), start=start)
    bank = {
        t: {g: e[t] for g, e in start[1].inner.inner.attention.rows.items()} for t in range(TASKS)
    }
    undone = plain[0].unlearn(*plain[1], asked(forgotten))
    params = tree.clone({g: p for g, p in undone[0].items() if g not in ("embedding", "head")})
    rest = [t for t in range(TASKS) if t != forgotten]
    region = [
        w[:2]
        for w in weights(model, undone[0])
        if any(joins(bank[t], w[2]) for t in rest) and not joins(before[forgotten], w[2])
    ]
    snapshots, stored = make("plain").init(key(0)), {}
    for task in range(TASKS):
        snapshots = train(make("plain"), (task,), start=snapshots)
        last = batch(task, EPOCHS * STEPS - 1)
        stored[task] = (
            last.x[:4],
            last.y[:4],
            plain[0].predict(*snapshots, last.x[:4], torch.tensor(task)),
        )
    for _ in range(3):
        leaves = [leaf.clone().requires_grad_() for leaf in tree.leaves(params)]
        total = 0.0
        for t in rest:
            x, y, old = stored[t]
            gates = {g: (e > 0).to(torch.float64) for g, e in bank[t].items()}
            head = tree.index(plain[0].bank.rows(*undone)["head"], t)
            merged = tree.unflatten(leaves, tree.structure(params)) | {"head": head}
            logits = model.apply(merged, x, torch.tensor(t), gates=gates).logits
            far = ((logits - old) ** 2).mean(1).mean()
            total = total + (torch.nn.functional.cross_entropy(logits, y) + 0.5 * far) / len(rest)
        gradient = tree.unflatten(list(torch.autograd.grad(total, leaves)), tree.structure(params))
        for path, place in region:
            params[path[0]][path[1]][place] -= 0.1 * float(gradient[path[0]][path[1]][place])
    return undone[0] | params


@pytest.mark.parametrize("forgotten", [0, 1])
def test_repair_descends_on_kept_examples_by_their_labels_and_stored_logits(forgotten):
    algorithm, carry = trained("repaired")
    found, expected = algorithm.unlearn(*carry, asked(forgotten))[0], naive_repair(forgotten)
    assert distance(found, expected) < 1e-12
    assert (
        distance(found, trained("plain")[0].unlearn(*trained("plain")[1], asked(forgotten))[0])
        > 1e-4
    )


def test_both_lower_the_loss_of_the_remaining_tasks_and_the_forgotten_one_stays_forgotten():
    losses = {}
    for kind in KINDS:
        algorithm, carry = trained(kind)
        undone = algorithm.unlearn(*carry, asked(0))
        losses[kind] = sum(loss_of(algorithm, undone, task) for task in (1, 2))
    assert losses["compensated"] < losses["plain"] and losses["repaired"] < losses["plain"]


def test_no_example_of_a_forgotten_task_is_kept():
    algorithm, carry = trained("repaired")
    for task in range(TASKS):
        memory = algorithm.unlearn(*carry, asked(task))[1].memory
        for other in range(TASKS):
            kept = tree.leaves(
                tree.index((memory.bank.x, memory.bank.weight, memory.logits), other)
            )
            assert all((leaf == 0).all() for leaf in kept) == (other == task)


def test_a_sweep_forgets_run_by_run():
    members, gone = [make("both") for _ in range(2)], torch.stack([asked(0), asked(1)])
    assert_each_run_forgets_as_alone(members, split(key(3)), gone, batch, 2, STEPS, EPOCHS)


@pytest.mark.parametrize("kind", ["plain", "both"])
def test_a_mask_of_more_tasks_than_there_are_is_refused(kind):
    algorithm, carry = trained(kind)
    with pytest.raises(
        ValueError, match=r"^there are 3 tasks and declared sets to forget, given a mask of 4$"
    ):
        algorithm.unlearn(*carry, torch.tensor([False, False, False, True]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"repair_steps": -1},
            "repair_steps must be at least 0 and buffer_size 1, given -1 and 100",
        ),
        ({"buffer_size": 0}, "repair_steps must be at least 0 and buffer_size 1, given 0 and 0"),
        ({"repair_lr": 0.0}, "repair_lr must be a number in .*, given 0.0"),
        ({"distillation": -1.0}, "distillation must be a number in .*, given -1.0"),
    ],
)
def test_impossible_arguments_are_refused_in_one_line(settings, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make("plain", **settings)


def test_what_resets_units_cannot_train_backups():
    model = net()
    with pytest.raises(
        ValueError,
        match=r"^amnesiac_hat cannot train backups with what resets units, given reinit$",
    ):
        amnesiac_hat(model, reinit(model, sgd(0.1)), num_tasks=TASKS, compensate=True)
