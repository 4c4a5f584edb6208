"""The projections of gradients: what each promises, against loops and an oracle."""

import pytest
import torch
from scipy.optimize import nnls

import clfunc as cl
from clfunc import memories, transforms, tree
from clfunc.random import fold_in, key, normal
from clfunc.testing import toy_stream
from clfunc.testing.laws import identical
from clfunc.testing.play import play
from clfunc.transforms.quadratic_program import solve_above


def program(seed, count, width):
    """Gradients of earlier tasks and one to project, some at other scales, some zero."""
    rows = normal(fold_in(key(seed), 1), (count, width), dtype=torch.float64)
    scale = 10.0 ** (4 * cl.random.uniform(fold_in(key(seed), 2), dtype=torch.float64) - 3)
    if seed % 4 == 1:
        rows[::2] = 0
    return rows * scale, normal(fold_in(key(seed), 3), (width,), dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 2, 5, 10, 20])
def test_the_quadratic_program_is_solved_as_by_nonnegative_least_squares(count):
    """With P = LL', min 1/2 v'Pv + q'v over v >= low is nnls(L', -L^-1 (q + low P 1)) + low."""
    for seed in range(30):
        rows, gradient = program(seed, count, 3 if seed % 3 == 0 else 50)
        matrix = rows @ rows.T + 1e-3 * torch.eye(count)
        pull = rows @ gradient
        low = torch.tensor(0.5 * (seed % 2), dtype=torch.float64)
        lower = torch.linalg.cholesky(matrix)
        target = -torch.linalg.solve(lower, pull + low * matrix.sum(1))
        oracle, _ = nnls(lower.T.numpy(), target.numpy())
        oracle = torch.from_numpy(oracle) + low

        found = solve_above(matrix, pull, low)
        # what matters is the gradient that is added
        far = (rows.T @ (found - oracle)).norm() / (rows.T @ oracle).norm().clamp(min=1e-3)
        assert far < 1e-6, (seed, float(far))
        assert (found >= low - 1e-12).all()


def remembering(task, gradients):
    """A context in which each earlier task's examples have a gradient of their own."""
    count = len(gradients)
    weight = torch.ones(count * 2, dtype=torch.float64)
    tasks = torch.arange(count).repeat_interleave(2)
    rows = cl.Batch(x=torch.zeros(count * 2, 1), y=tasks, task=tasks, weight=weight)

    def gradient(batch):
        return {"w": tree.take(gradients, batch.task[0])}

    return cl.Context(features={}, task=task, used={}, remembered=lambda: rows, gradient=gradient)


def test_gem_leaves_no_negative_product_and_changes_nothing_else():
    kept = turned = 0
    for seed in range(40):
        gradients = normal(fold_in(key(seed), 1), (3, 4), dtype=torch.float64)
        gradient = {"w": normal(fold_in(key(seed), 2), (4,), dtype=torch.float64)}
        tx = transforms.gem_projection(3, margin=0.0)
        context = remembering(torch.tensor(2), gradients)
        projected, state = tx.update(gradient, tx.init(key(0), gradient), gradient, context)
        along = gradients[:2] @ gradient["w"]
        if (along >= 0).all():
            kept += 1
            assert identical(projected, gradient) and state.projected == 0
            continue
        turned += 1
        assert state.projected == 1
        # the ridge leaves a thousandth of the multipliers
        assert (gradients[:2] @ projected["w"]).min() > -5e-3
    assert kept > 3 and turned > 3


def test_with_a_margin_one_violation_adds_every_earlier_gradient():
    gradients = torch.eye(3, 4, dtype=torch.float64)
    gradient = {"w": torch.tensor([-1.0, 5.0, 0.0, 0.0], dtype=torch.float64)}
    tx = transforms.gem_projection(3, margin=0.5)
    context = remembering(torch.tensor(2), gradients)
    projected, _ = tx.update(gradient, tx.init(key(0), gradient), gradient, context)
    assert torch.allclose(projected["w"], torch.tensor([0.0, 5.5, 0.0, 0.0]).double(), atol=2e-3)


@pytest.mark.parametrize("paradigm", ["til", "cil", "dil"])
def test_a_gem_and_gem_project_the_gradient_and_keep_training(paradigm):
    scenario = toy_stream(paradigm=paradigm)
    model = cl.mlp(scenario.inputs, (8,), scenario.head(together=True))
    made = {
        "gem": cl.gem(model, cl.adam(0.01), num_tasks=3, capacity=12),
        "a_gem": cl.a_gem(model, cl.adam(0.01), capacity=12, batch=6),
    }
    for name, algorithm in made.items():
        projected = []

        def call(hook, function, *arguments, projected=projected):
            result = function(*arguments)
            if hook == "step":
                projected.append(float(result[2]["projected"]))
            return result

        params, _ = play(algorithm, scenario, key(1), call)
        assert all(leaf.isfinite().all() for leaf in tree.leaves(params)), name
        assert (sum(projected) > 0) or paradigm == "dil", name
        assert projected[0] == 0, name


def test_gem_is_for_one_task_at_a_time():
    scenario = cl.scenarios.joint(toy_stream())
    model = cl.mlp(scenario.inputs, (8,), scenario.head(together=True))
    tx = cl.chain(transforms.gem_projection(3), cl.sgd(0.1))
    algorithm = cl.finetuning(model, tx, memory=memories.ring(12, num_tasks=3))
    with pytest.raises(ValueError, match="gem_projection is for one task at a time"):
        play(algorithm, scenario, key(1))


@pytest.mark.parametrize("paradigm", ["mtl", "cil", "dil"])
def test_ogd_is_gram_and_schmidt_one_example_at_a_time(paradigm):
    scenario = toy_stream(paradigm={"mtl": "til"}.get(paradigm, paradigm))
    head = scenario.head(together=True)
    model = cl.mlp(scenario.inputs, (12,), head, dtype=torch.float64)
    algorithm = cl.ogd(model, cl.sgd(0.1), num_tasks=3, examples=3)
    shown = []

    def call(hook, function, *arguments):
        if hook == "review":
            shown.append(arguments)
        return function(*arguments)

    _, state = play(algorithm, scenario, key(1), call)
    found = state.opt[0]
    basis = []
    taken = {}
    for weights, before, batch in shown:
        for row in range(len(batch.weight)):
            task = int(batch.task)
            if batch.weight[row] == 0 or taken.get(task, 0) == 3:
                continue
            taken[task] = taken.get(task, 0) + 1
            w = tree.map(lambda leaf: leaf.clone().requires_grad_(), weights)
            z = algorithm.predict(w, before, batch.x[row][None].double(), batch.task)
            z = z[0, batch.y[row]]
            leaves = tree.leaves(w)
            v = torch.cat(
                [
                    torch.zeros(leaf.numel()).double() if g is None else g.flatten()
                    for leaf, g in zip(
                        leaves, torch.autograd.grad(z, leaves, allow_unused=True), strict=True
                    )
                ]
            )
            size = v.norm()
            for _ in range(2):
                for u in basis:
                    v = v - (u @ v) * u
            if v.norm() > 1e-9 * size:
                basis.append(v / v.norm())
    assert len(basis) == found.used == 9
    assert (found.basis[: len(basis)] - torch.stack(basis)).abs().max() < 1e-9
    assert not found.basis[len(basis) :].any()


def test_after_the_optimiser_ogd_leaves_no_update_along_what_it_keeps():
    scenario = toy_stream(paradigm="dil")
    model = cl.mlp(scenario.inputs, (4,), scenario.head(), dtype=torch.float64)
    tx = cl.sgd(0.1, 0.9, weight_decay=0.1)
    algorithm = cl.ogd(model, tx, num_tasks=3, examples=5, project="updates")
    largest = []

    def call(hook, function, *arguments):
        result = function(*arguments)
        if hook == "step":
            moved = tree.sub(result[0], arguments[0])
            flat = torch.cat([leaf.flatten() for leaf in tree.leaves(moved)])
            basis = arguments[1].opt[1].basis
            largest.append((float((basis @ flat).abs().max()), float(flat.norm())))
        return result

    play(algorithm, scenario, key(1), call)
    assert max(along for along, _ in largest) < 1e-12
    assert min(size for _, size in largest) > 0


@pytest.mark.parametrize("paradigm", ["til", "dil"])
def test_gpm_keeps_what_layers_gave_for_the_inputs_that_it_holds(paradigm):
    scenario = toy_stream(paradigm=paradigm)
    model = cl.mlp(scenario.inputs, (12, 10), scenario.head(), dtype=torch.float64)
    tx = cl.sgd(0.1, 0.9, weight_decay=0.1)
    algorithm = cl.gpm(model, tx, threshold=1.0, examples=3, project="updates")
    seen, changed, moves = [], [], []

    def call(hook, function, *arguments):
        result = function(*arguments)
        if hook == "review" and len(seen) < 3:
            seen.extend(arguments[2].x[:3].double())
        if hook == "step" and seen:
            before, after = arguments[0], result[0]
            x = torch.stack(seen)
            hidden = [model.apply(p, x, torch.tensor(0)).features for p in (before, after)]
            changed.append(max((hidden[0][g] - hidden[1][g]).abs().max() for g in hidden[0]))
            moved = tree.sub(after, before)
            moves.append(float(tree.vdot(moved, moved)))
        return result

    play(algorithm, scenario, key(1), call)
    assert max(changed) < 1e-9, "the hidden layers say another thing of what they hold"
    assert min(moves) > 0, "nothing moves"


def test_gpm_takes_as_few_vectors_as_hold_the_threshold():
    scenario = toy_stream(paradigm="dil")
    model = cl.mlp(scenario.inputs, (6,), scenario.head(), dtype=torch.float64)
    tx = transforms.gpm_projection(model, 0.9, examples=8)
    params = model.init(key(0))
    state = tx.init(key(1), params)
    rows = normal(key(2), (8, state.inputs["hidden1"].shape[1]), dtype=torch.float64)
    inputs = dict(state.inputs)
    inputs["hidden1"] = torch.cat([rows, torch.zeros_like(rows[:1])])
    state = tx.end_task(state._replace(inputs=inputs), params)
    sizes = torch.linalg.svdvals(rows) ** 2
    held, count = 0.0, 0
    while held < 0.9 * sizes.sum():
        held += sizes[count]
        count += 1
    assert state.used["hidden1"] == count
    kept = (rows @ state.basis["hidden1"].T).square().sum()
    assert abs(kept - held) < 1e-9 * held
    # the same inputs again add nothing
    again = tx.end_task(state._replace(inputs=inputs), params)
    assert again.used["hidden1"] == count


def test_gpm_refuses_layers_that_are_not_linear():
    model = cl.convnet((1, 4, 4), (5,), cl.dil(2, 2), channels=(3,))
    with pytest.raises(ValueError, match=r"needs linear layers, and conv1\.weight is none"):
        transforms.gpm_projection(model)
