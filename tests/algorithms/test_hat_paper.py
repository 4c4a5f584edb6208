"""HAT's official step, transcribed with loops in float64, beside `hat`: three tasks of twelve
steps, every mode.
"""

import math

import pytest
import torch
from support.hats import parts_of
from torch import Tensor

import clfunc as cl
from clfunc import tree
from clfunc.algorithms import hat
from clfunc.models.heads import til
from clfunc.random import key, normal, randint, split, uniform
from clfunc.types import Batch, Task

TASKS, STEPS, PER_EPOCH, SIZE = 3, 12, 4, 5
SIZES = (4, 6, 5, 3)  # inputs, two hidden layers, classes
LR, CLIP, EPSILON, FACTOR = 0.3, 1.0, 0.1, 0.75
LAYERS = ("hidden1", "hidden2")
MODES = {
    "hat": {},
    "hat_random": {},
    "hat_const_alpha": {"alpha": 0.05},
    "hat_const_1": {},
    "adahat": {"alpha": 0.02},
}
VARIANTS = {
    "official anneal": {"anneal": "official"},
    "constant anneal": {"anneal": "constant"},
    "gate before the activation": {"gate_position": "pre_act"},
    "small embeddings": {"embedding_clamp": 1.0},
    "no_reg": {"adjustment_mode": "adahat", "alpha": 0.02, "no_reg": True},
    "no_sum": {"adjustment_mode": "adahat", "alpha": 0.02, "no_sum": True},
    "sigmoid masks": {"test_mask": "sigmoid", "adjustment_mode": "adahat", "alpha": 0.02},
    "cross": {"mask_sparsity_reg_mode": "cross"},
    "uniform": {"mask_sparsity_reg_mode": "uniform"},
}
DEFAULTS = {
    "anneal": "paper",
    "gate_position": "post_act",
    "embedding_clamp": 6.0,
    "no_reg": False,
    "no_sum": False,
}
DEFAULTS |= {
    "test_mask": "step",
    "mask_sparsity_reg_mode": "original",
    "adjustment_mode": "hat",
    "alpha": None,
}


class Official:
    """The step as its equations read, one number at a time. `noise` gives the draws of hat_random."""

    def __init__(self, params, bank, heads, s_max, scale_at, settings):
        self.w = {name: leaf.clone() for name, leaf in tree.items(params)}
        self.bank, self.heads = tree.clone(bank), tree.clone(heads)
        self.s_max, self.scale_at, self.set, self.done = s_max, scale_at, DEFAULTS | settings, 0
        self.mode, self.alpha = self.set["adjustment_mode"], self.set["alpha"]
        self.clipped = []
        self.used = {layer: [0.0] * n for layer, n in zip(LAYERS, SIZES[1:], strict=False)}
        self.claims = {layer: [0.0] * n for layer, n in zip(LAYERS, SIZES[1:], strict=False)}

    def begin(self, task):
        self.task = task
        self.head = {name: leaf[task].clone() for name, leaf in self.heads.items()}
        self.e = {layer: self.bank[layer][task].clone() for layer in LAYERS}

    def end(self):
        for name, leaf in self.head.items():
            self.heads[name][self.task] = leaf
        for layer in LAYERS:
            self.bank[layer][self.task] = self.e[layer]
            for i, e in enumerate(self.e[layer].tolist()):
                mask = self.mask(e)
                self.used[layer][i] = max(self.used[layer][i], mask)
                self.claims[layer][i] += 1.0 if self.set["no_sum"] else mask

    def mask(self, e):
        if self.set["test_mask"] == "sigmoid":
            return torch.sigmoid(torch.tensor(self.s_max * e, dtype=torch.float64)).item()
        return 1.0 if e > 0 else 0.0

    def predicted(self, x):
        """Logits of the working task, under its mask."""
        leaves = self.w | {f"head.{name}": leaf for name, leaf in self.head.items()}
        gates = {layer: [self.mask(e) for e in self.e[layer].tolist()] for layer in LAYERS}
        return torch.stack([torch.stack(self.forward(leaves, gates, example)) for example in x])

    def step(self, b, x, y, noise):
        share = {
            "paper": (b - 1) / (PER_EPOCH - 1),
            "official": (b - 1) / PER_EPOCH,
            "constant": 1,
        }  # b from 1
        s = 1 / self.s_max + (self.s_max - 1 / self.s_max) * share[self.set["anneal"]]
        leaves = {
            n: w.clone().requires_grad_() for n, w in self.w.items() if n.startswith("hidden")
        }
        leaves |= {f"head.{n}": w.clone().requires_grad_() for n, w in self.head.items()}
        leaves |= {f"e.{n}": e.clone().requires_grad_() for n, e in self.e.items()}
        grads = dict(
            zip(
                leaves,
                torch.autograd.grad(self.loss(leaves, s, x, y), list(leaves.values())),
                strict=True,
            )
        )

        rates = {
            name: self.rate(name, leaves, s, noise) for name in leaves if name.startswith("hidden")
        }
        for name, rate in rates.items():
            scaled = self.scale_at == "gradients"
            for at in range(rate.numel()):
                r = rate.view(-1)[at].item()
                grads[name].view(-1)[at] *= r if scaled else float(r > 0)
        for layer in LAYERS:
            for i, e in enumerate(self.e[layer].tolist()):
                se = min(max(s * e, -50.0), 50.0)
                grads[f"e.{layer}"][i] *= self.s_max / s * (math.cosh(se) + 1) / (math.cosh(e) + 1)
        norm = math.sqrt(sum(g.item() ** 2 for grad in grads.values() for g in grad.view(-1)))
        factor = min(1.0, CLIP / (norm + 1e-6))
        self.clipped.append(factor < 1)

        limit = self.set["embedding_clamp"]
        for name, grad in grads.items():
            move = -LR * factor * grad
            if name in rates and self.scale_at == "updates":
                move = move * rates[name]
            new = leaves[name].detach() + move
            if name.startswith("hidden"):
                self.w[name] = new
            elif name.startswith("head"):
                self.head[name[5:]] = new
            else:
                self.e[name[2:]] = torch.tensor(
                    [min(max(e, -limit), limit) for e in new.tolist()], dtype=torch.float64
                )

    def forward(self, leaves, gates, example):
        h = list(example)
        for layer in LAYERS:
            weight, bias = leaves[f"{layer}.weight"], leaves[f"{layer}.bias"]
            sums = [
                sum(weight[i, j] * h[j] for j in range(len(h))) + bias[i] for i in range(len(bias))
            ]
            if self.set["gate_position"] == "pre_act":
                h = [torch.tanh(z * gates[layer][i]) for i, z in enumerate(sums)]
            else:
                h = [torch.tanh(z) * gates[layer][i] for i, z in enumerate(sums)]
        weight, bias = leaves["head.weight"], leaves["head.bias"]
        return [sum(weight[k, j] * h[j] for j in range(len(h))) + bias[k] for k in range(len(bias))]

    def loss(self, leaves, s, x, y):
        gates = {layer: [torch.sigmoid(s * e) for e in leaves[f"e.{layer}"]] for layer in LAYERS}
        total = 0.0
        for example, label in zip(x, y.tolist(), strict=True):
            logits = self.forward(leaves, gates, example)
            total = total + torch.log(sum(torch.exp(z) for z in logits)) - logits[label]
        self.regulariser = self.penalty(gates)
        return total / len(x) + FACTOR * self.regulariser

    def penalty(self, gates):
        layers = [list(zip(gates[layer], self.used[layer], strict=True)) for layer in LAYERS]
        units = [pair for layer in layers for pair in layer]
        if self.set["mask_sparsity_reg_mode"] == "uniform":
            parts = []
            for layer in layers:
                free = sum(1 - a for _, a in layer)
                excess = torch.relu(sum(m * (1 - a) for m, a in layer) - len(layer) / TASKS)
                parts.append(excess / free if free > 0 else 0.0 * excess)
            return sum(parts) / len(parts)
        free, taken = sum(1 - a for _, a in units), sum(a for _, a in units)
        alone = sum(m * (1 - a) for m, a in units) / free if free > 0 else 0.0 * units[0][0]
        if self.set["mask_sparsity_reg_mode"] == "cross" and taken > 0:
            return (alone + 1 - sum(m * a for m, a in units) / taken) / 2
        return alone

    def rate(self, name, leaves, s, noise):
        layer, kind = name.split(".")
        rate = torch.ones_like(leaves[name])
        for i in range(len(rate)):
            for j in range(rate.shape[1] if kind == "weight" else 1):
                at = (i, j) if kind == "weight" else (i,)
                joined = layer == "hidden2" and kind == "weight"
                used = (
                    min(self.used[layer][i], self.used["hidden1"][j])
                    if joined
                    else self.used[layer][i]
                )
                claims = (
                    min(self.claims[layer][i], self.claims["hidden1"][j])
                    if joined
                    else self.claims[layer][i]
                )
                if self.mode == "hat":
                    rate[at] = 1 - used
                elif self.mode == "hat_random":
                    rate[at] = noise[name][at] * used + (1 - used)
                elif self.mode == "hat_const_alpha":
                    rate[at] = self.alpha * used + (1 - used)
                elif self.mode == "adahat":
                    free = 0.0 if self.set["no_reg"] else self.free_share(layer, leaves, s)
                    r = self.alpha / (EPSILON + free)
                    rate[at] = r / (claims + r)
        return rate

    def free_share(self, layer, leaves, s):
        gates = torch.sigmoid(s * leaves[f"e.{layer}"]).tolist()
        free = sum(1 - a for a in self.used[layer])
        return (
            sum(m * (1 - a) for m, a in zip(gates, self.used[layer], strict=True)) / free
            if free > 0
            else 0.0
        )


def draws(state, params):
    """What hat_random draws in the step that starts from this state."""
    _, draw = split(state.opt.key)
    named = dict(tree.items(params))
    names = [f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")]
    return {
        n: uniform(draw, tuple(named[n].shape), at=i, dtype=torch.float64)
        for i, n in enumerate(names)
    }


def largest_difference(official: Official, params, state) -> float:
    ours = {name: leaf for name, leaf in tree.items(params) if name.startswith("hidden")}
    pairs: list[tuple[Tensor, Tensor]] = [(ours[name], official.w[name]) for name in ours]
    pairs += [(params["head"][name], leaf) for name, leaf in official.head.items()]
    pairs += [(params["embedding"][layer], official.e[layer]) for layer in LAYERS]
    return max((a - b).abs().max().item() for a, b in pairs)


def every_pair():
    """Each mode with each way of scaling; of each pair, one scale of gates is a long test."""
    for i, mode in enumerate(MODES):
        for j, scale_at in enumerate(("gradients", "updates")):
            for k, s_max in enumerate((20.0, 400.0)):
                is_long = (i + j + k) % 2 == 1
                marks = pytest.mark.long if is_long else ()
                yield pytest.param(mode, s_max, scale_at, marks=marks)


@pytest.mark.parametrize("mode, s_max, scale_at", every_pair())
def test_a_life_of_three_tasks_is_the_official_one(mode, s_max, scale_at):
    live(s_max, scale_at, {"adjustment_mode": mode} | MODES[mode])


@pytest.mark.parametrize("variant", VARIANTS)
def test_so_it_is_in_every_variant(variant):
    live(20.0, "updates", VARIANTS[variant])


def live(s_max, scale_at, settings):
    """Three tasks of both, compared at every step."""
    model = cl.mlp(
        SIZES[0], SIZES[1:3], til(TASKS, SIZES[3]), activation="tanh", dtype=torch.float64
    )
    numbers = {
        "s_max": s_max,
        "epsilon": EPSILON,
        "clip_norm": CLIP,
        "mask_sparsity_reg_factor": FACTOR,
    }
    given = {"num_tasks": TASKS, "scale_at": scale_at} | numbers | settings
    algorithm = hat(model, cl.sgd(LR), **parts_of(given))
    params, state = algorithm.init(key(1))
    official = Official(
        params, state.attention.rows, state.head.bank.rows["head"], s_max, scale_at, settings
    )
    for task in range(TASKS):
        about = Task(torch.tensor(task), torch.tensor(PER_EPOCH), torch.tensor(STEPS // PER_EPOCH))
        params, state = algorithm.begin_task(params, state, about)
        official.begin(task)
        for step in range(STEPS):
            data = cl.random.fold_in(key(2), task, step)
            x, y = (
                normal(data, (SIZE, SIZES[0]), dtype=torch.float64),
                randint(data, (SIZE,), 0, SIZES[3]),
            )
            official.step(step % PER_EPOCH + 1, x, y, draws(state, params))
            batch = Batch(x, y, torch.tensor(task), torch.ones(SIZE, dtype=torch.float64))
            params, state, told = algorithm.step(params, state, batch)
            assert largest_difference(official, params, state) < 1e-9, f"task {task}, step {step}"
            assert abs(told["regulariser"] - official.regulariser) < 1e-9
        torch.testing.assert_close(
            algorithm.predict(params, state, x, torch.tensor(task)), official.predicted(x)
        )
        params, state = algorithm.end_task(params, state)
        official.end()
    assert 0 < sum(official.clipped) < TASKS * STEPS
    assert any(sum(used) > 0 for used in official.used.values())
