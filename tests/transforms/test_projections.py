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


def remembering(x, task, gradients):
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
        context = remembering(None, torch.tensor(2), gradients)
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
    context = remembering(None, torch.tensor(2), gradients)
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
