"""The same step written by hand in JAX: `jit` of `lax.scan` of `vmap`.

The carry is donated, and examples are gathered inside the program. A check feeds in clfunc's own
random numbers; otherwise JAX draws them.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax
from torch import Tensor

import clfunc as cl
from benchmarks.cases import Job
from benchmarks.contender import Contender, Weights
from clfunc.types import Params, State
from clfunc.units import resets

Tree = Any


def in_jax(job: Job) -> Contender:
    """A contender, for jobs on the CPU or on what JAX finds."""
    data = _shared(job)
    step = {"hat": _hat, "cbp": _cbp}.get(job.case.method, _finetuning)
    one = functools.partial(step, job.case.lr, _bounds(job))

    @functools.partial(jax.jit, donate_argnums=0)
    def program(carry: Tree, view: Tree, data: Tree, entries: jax.Array) -> tuple[Tree, Tree]:
        def body(carry, entries):
            def member(carry, view, entries):
                x, y = _batch(job, data, view, entries)
                return one(carry, x, y)

            return jax.vmap(member)(carry, view, entries)

        return lax.scan(body, carry, entries)

    view = cl.tree.map(_to_jax, job.many(job.stream.view))

    def start(params: Params, state: State, is_check: bool) -> Tree:
        params, state = job.many((params, state))
        carry = {"params": cl.tree.map(_to_jax, params)}
        return carry | {"hat": _hat_start, "cbp": _cbp_start}.get(job.case.method, lambda *_: {})(
            job, state, is_check
        )

    def advance(carry: Tree, entries: Tensor) -> Tree:
        listed = entries[:, None] if job.runs == 1 else entries
        carry, metrics = program(
            carry, view, data, jnp.asarray(listed.cpu().numpy().astype(np.int32))
        )
        jax.block_until_ready((carry, metrics))
        return carry

    def weights(carry: Tree) -> Weights:
        named = dict(cl.tree.items(carry["params"]))
        named |= {
            f"utility.{group}": units["utility"] for group, units in carry.get("units", {}).items()
        }
        return {name: torch.tensor(np.asarray(leaf)) for name, leaf in named.items()}

    return Contender("jax", job.runs, start, advance, weights)


def _to_jax(leaf: Tensor) -> jax.Array:
    array = leaf.detach().cpu().numpy()
    narrow = {"float64": np.float32, "int64": np.int32}.get(str(array.dtype), array.dtype)
    return jnp.array(array.astype(narrow))


def _shared(job: Job) -> Tree:
    if job.case.data == "bits":
        return {}
    return {"x": _to_jax(job.scenario.data.x.flatten(1)), "y": _to_jax(job.scenario.data.y)}


def _batch(job: Job, data: Tree, view: Tree, entries: jax.Array) -> tuple[jax.Array, jax.Array]:
    if job.case.data == "bits":
        rows = view["rows"][entries]
        return view["x"][rows], view["y"][rows]
    x = (data["x"][entries][:, view["pixels"]].astype(jnp.float32) - view["mean"]) / view["std"]
    return x.reshape(-1, *job.scenario.inputs) if job.case.channels else x, view["labels"][
        data["y"][entries]
    ]


def _forward(params: Tree, x: jax.Array, gates: Tree = None) -> tuple[jax.Array, Tree]:
    features = {}
    for name in (name for name in params if name not in ("head", "embedding")):
        weight, bias = params[name]["weight"], params[name]["bias"]
        image = weight.ndim == 4
        h = (
            _convolved(x, weight) + bias[:, None, None]
            if image
            else x.reshape(len(x), -1) @ weight.T + bias
        )
        h = jax.nn.relu(h)
        features[name] = x = h if gates is None else h * gates[name]
        if image:
            batch, units, height, width = x.shape
            x = x.reshape(batch, units, height // 2, 2, width // 2, 2).max((3, 5))
    return x @ params["head"]["weight"].T + params["head"]["bias"], features


def _convolved(x: jax.Array, weight: jax.Array) -> jax.Array:
    """A convolution as a matrix product: under vmap, XLA's own takes 8 times as long on a CPU."""
    side, (height, width) = weight.shape[-1], x.shape[2:]
    padded = jnp.pad(x, ((0, 0), (0, 0), (side // 2, side // 2), (side // 2, side // 2)))
    shifted = [
        padded[:, :, i : i + height, j : j + width] for i in range(side) for j in range(side)
    ]
    return jnp.einsum(
        "bcphw,ocp->bohw", jnp.stack(shifted, 2), weight.reshape(*weight.shape[:2], -1)
    )


def _loss(logits: jax.Array, y: jax.Array) -> tuple[jax.Array, Tree]:
    if y.ndim > 1:
        loss = ((logits - y) ** 2).mean()
        return loss, {"loss": loss}
    loss = (
        -jnp.where(y[:, None] == jnp.arange(logits.shape[1]), jax.nn.log_softmax(logits), 0)
        .sum(1)
        .mean()
    )
    return loss, {"loss": loss, "accuracy": (logits.argmax(1) == y).mean()}


def _descended(lr: float, params: Tree, gradient: Tree) -> Tree:
    return jax.tree.map(lambda p, g: p - lr * g, params, gradient)


def _finetuning(
    lr: float, bounds: Tree, carry: Tree, x: jax.Array, y: jax.Array
) -> tuple[Tree, Tree]:
    def loss_fn(params):
        return _loss(_forward(params, x)[0], y)

    gradient, metrics = jax.grad(loss_fn, has_aux=True)(carry["params"])
    return {"params": _descended(lr, carry["params"], gradient)}, metrics


def _hat_start(job: Job, state: State, is_check: bool) -> Tree:
    attend = state.attention
    names = ("s_max", "clamp_threshold", "embedding_clamp", "steps_per_epoch", "step", "used")
    carry = {name: cl.tree.map(_to_jax, getattr(attend, name)) for name in names}
    return carry | {
        "factor": _to_jax(state.mask_sparsity_reg_factor),
        "clip": _to_jax(state.opt.inner[0]),
    }


def _hat(lr: float, bounds: Tree, carry: Tree, x: jax.Array, y: jax.Array) -> tuple[Tree, Tree]:
    params, used, s_max, step = carry["params"], carry["used"], carry["s_max"], carry["step"]
    s = 1 / s_max + (s_max - 1 / s_max) * (step % carry["steps_per_epoch"]) / (
        carry["steps_per_epoch"] - 1
    )
    free = sum((1 - u).sum() for u in used.values())

    def loss_fn(params):
        gates = {group: jax.nn.sigmoid(s * e) for group, e in params["embedding"].items()}
        loss, metrics = _loss(_forward(params, x, gates)[0], y)
        return loss + carry["factor"] * sum(
            (gates[g] * (1 - used[g])).sum() for g in used
        ) / free, metrics

    gradient, metrics = jax.grad(loss_fn, has_aux=True)(params)
    bound, before = carry["clamp_threshold"], None
    for group, after in used.items():
        e = params["embedding"][group]
        gradient["embedding"][group] *= (
            s_max / s * (jnp.cosh(jnp.clip(s * e, -bound, bound)) + 1) / (jnp.cosh(e) + 1)
        )
        both = after[:, None] if before is None else jnp.minimum(after[:, None], before[None])
        gradient[group] = {
            "weight": gradient[group]["weight"] * (1 - both),
            "bias": gradient[group]["bias"] * (1 - after),
        }
        before = after
    norm = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
    factor = jnp.minimum(carry["clip"] / (norm + 1e-6), 1)
    params = _descended(lr, params, jax.tree.map(lambda g: g * factor, gradient))
    limit = carry["embedding_clamp"]
    params = params | {
        "embedding": jax.tree.map(lambda e: jnp.clip(e, -limit, limit), params["embedding"])
    }
    return carry | {"params": params, "step": step + 1}, metrics


def _bounds(job: Job) -> dict[str, float]:
    return {
        wire.path[0]: wire.bound for wire in job.model.wires if wire.post and wire.reset == "draw"
    }


def _cbp_start(job: Job, state: State, is_check: bool) -> Tree:
    opt, runs = state.opt, job.runs
    names = ("replacement_rate", "maturity_threshold", "utility_decay_rate", "step")
    carry = {name: _to_jax(getattr(opt, name)) for name in names}
    carry["units"] = {
        g: {"age": u.age.float(), "utility": u.utility, "mean": u.mean, "budget": u.budget}
        for g, u in opt.units.items()
    }
    carry["units"] = cl.tree.map(_to_jax, carry["units"])
    carry["key"] = jax.random.split(jax.random.key(0), runs)
    return carry | ({"rows": _rows(job, state)} if is_check else {})


def _rows(job: Job, state: State, steps: int = 8) -> Tree:
    """clfunc's own noise for the first steps, [runs, steps, fan_in] by layer."""
    params = cl.tree.index(job.many(job.params), 0)
    shapes = resets.row_shapes(job.model, params, dict.fromkeys(job.model.units, 1))
    drawn = [
        cl.tree.stack(
            [resets.noise(key, torch.tensor(at), shapes, torch.float32) for at in range(steps)]
        )
        for key in state.opt.key
    ]
    return {
        name.split(".")[0]: _to_jax(rows[:, :, 0]) for name, rows in cl.tree.stack(drawn).items()
    }


def _cbp(lr: float, bounds: Tree, carry: Tree, x: jax.Array, y: jax.Array) -> tuple[Tree, Tree]:
    def loss_fn(params):
        logits, features = _forward(params, x)
        loss, metrics = _loss(logits, y)
        return loss, (features, metrics)

    gradient, (features, metrics) = jax.grad(loss_fn, has_aux=True)(carry["params"])
    params = _descended(lr, carry["params"], gradient)
    groups = list(bounds)
    after = dict(zip(groups, (*groups[1:], "head"), strict=True))
    units, chosen = {}, {}
    for g in groups:
        units[g], chosen[g] = _chosen(
            carry, carry["units"][g], features[g], params[g], params[after[g]]
        )
    noise = _noise(carry, params, groups)
    for g in groups:
        pick, layer, head = chosen[g], params[g], params[after[g]]
        fresh = bounds[g] * (2 * noise[g] - 1)
        layer = {
            "weight": jnp.where(pick[:, None], fresh, layer["weight"]),
            "bias": jnp.where(pick, 0, layer["bias"]),
        }
        head = head | {"weight": jnp.where(pick[None], 0, head["weight"])}
        params = params | {g: layer, after[g]: head}
    return carry | {"params": params, "units": units, "step": carry["step"] + 1}, metrics


def _chosen(
    carry: Tree, u: Tree, h: jax.Array, layer: Tree, consumer: Tree
) -> tuple[Tree, jax.Array]:
    """A group after one more batch, and which of its units is reset."""
    decay = carry["utility_decay_rate"]
    age = u["age"] + 1
    share = 1 - decay**age
    mean = decay * u["mean"] + (1 - decay) * h.mean(0)
    outgoing, incoming = jnp.abs(consumer["weight"]).mean(0), jnp.abs(layer["weight"]).mean(1)
    now = jnp.abs(h - mean / share).mean(0) * outgoing / incoming
    utility = decay * u["utility"] + (1 - decay) * now
    ripe = age > carry["maturity_threshold"]
    budget = u["budget"] + carry["replacement_rate"] * ripe.sum()
    due = (budget >= 1) & ripe.any()
    pick = due & (jnp.arange(len(age)) == jnp.where(ripe, utility / share, jnp.inf).argmin())
    kept = {"age": age, "utility": utility, "mean": mean}
    return {name: jnp.where(pick, 0, v) for name, v in kept.items()} | {
        "budget": budget - due
    }, pick


def _noise(carry: Tree, params: Tree, groups: list[str]) -> dict[str, jax.Array]:
    """A row of [0, 1) for each group, from one draw."""
    if "rows" in carry:
        return {g: carry["rows"][g][carry["step"]] for g in groups}
    sizes = [params[g]["weight"][0].size for g in groups]
    drawn = jax.random.uniform(jax.random.fold_in(carry["key"], carry["step"]), (sum(sizes),))
    return dict(zip(groups, jnp.split(drawn, np.cumsum(sizes)[:-1]), strict=True))
