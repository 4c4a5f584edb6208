"""A plain PyTorch loop of one run: `nn.Module`, `torch.optim`, and the data on the device.

`hat` masks gradients alone, which suffices under SGD without momentum. `cbp` tests on the host
whether a unit is due, as the published code does, and draws only then.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import clfunc as cl
from benchmarks.cases import Job
from benchmarks.contender import Contender, Weights
from clfunc.types import Params, State
from clfunc.units import resets

Batches = Iterable[tuple[Tensor, Tensor]]


class Net(nn.Module):
    """The case's network, with layers named as clfunc names them."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {name: _layer(leaves) for name, leaves in params.items() if name != "embedding"}
        )
        self.embedding = nn.ParameterDict(
            {k: nn.Parameter(e.clone()) for k, e in params.get("embedding", {}).items()}
        )

    def forward(
        self, x: Tensor, gates: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        features = {}
        for name, layer in self.layers.items():
            if name == "head":
                break
            x = F.relu(layer(x if isinstance(layer, nn.Conv2d) else x.flatten(1)))
            features[name] = x = x if gates is None else x * gates[name]
            x = F.max_pool2d(x, 2) if isinstance(layer, nn.Conv2d) else x
        return self.layers["head"](x), features


class Loop(NamedTuple):
    """The state of a loop, whose parts change in place.

    Fields:
        net: The network.
        optimiser: SGD.
        after: `(net, memory, features) -> None`: the method's work after the optimiser's step.
        memory: The state of the method.
        metrics: Loss and accuracy of each step, on the device.
    """

    net: Net
    optimiser: torch.optim.Optimizer
    after: Callable[[Net, Any, dict[str, Tensor]], None] | None
    memory: Any
    metrics: list[Tensor]


def plain(job: Job) -> Contender:
    """The loop with its data on the device."""
    batches = on_device(job)
    return looped(job, "torch", lambda entries: batches(entries))


def looped(job: Job, name: str, batches: Callable[[Tensor], Batches]) -> Contender:
    """The loop, fed by `batches(entries)`, entries being `[steps, batch]`."""
    method, lr = job.case.method, job.case.lr

    def start(params: Params, state: State, is_check: bool) -> Loop:
        params, state = cl.tree.index(job.many((params, state)), 0)
        net = Net(params).to(job.stream.train.device)
        memory = {"hat": _hat_memory, "cbp": _cbp_memory}.get(method, lambda *_: None)(
            job, state, is_check
        )
        return Loop(
            net,
            torch.optim.SGD(net.parameters(), lr),
            _cbp if method == "cbp" else None,
            memory,
            [],
        )

    def advance(loop: Loop, entries: Tensor) -> Loop:
        loop.metrics.clear()
        step = _hat_step if method == "hat" else _step
        with torch.enable_grad():
            for x, y in batches(entries if job.runs == 1 else entries[:, 0]):
                loop.metrics.append(step(loop, x, y))
        return loop

    return Contender(name, 1, start, advance, weights)


def weights(loop: Loop) -> Weights:
    named = {name.removeprefix("layers."): leaf for name, leaf in loop.net.named_parameters()}
    if isinstance(loop.memory, Cbp):
        named |= {f"utility.{group}": units[1] for group, units in loop.memory.units.items()}
    return {name: leaf.detach().clone()[None] for name, leaf in named.items()}


def on_device(job: Job) -> Callable[[Tensor], Batches]:
    """Batches of the first run, indexed on the device and permuted batch by batch."""
    view = cl.tree.index(job.many(job.stream.view), 0)
    if job.case.data == "bits":
        x, y = view["x"][view["rows"]], view["y"][view["rows"]]
        return lambda entries: ((x[index], y[index]) for index in entries)
    images, labels = job.scenario.data.x.flatten(1), view["labels"][job.scenario.data.y]
    mean, std, shape = view["mean"].float(), view["std"].float(), job.scenario.inputs

    def make(index: Tensor) -> tuple[Tensor, Tensor]:
        x = (images[index][:, view["pixels"]].float() - mean) / std
        return (x.reshape(-1, *shape) if job.case.channels else x), labels[index]

    return lambda entries: (make(index) for index in entries)


def _layer(leaves: dict[str, Tensor]) -> nn.Module:
    weight = leaves["weight"]
    made = nn.Linear(weight.shape[1], weight.shape[0])
    if weight.ndim == 4:
        made = nn.Conv2d(
            weight.shape[1], weight.shape[0], weight.shape[2], padding=weight.shape[2] // 2
        )
    made.load_state_dict(leaves)
    return made


def _loss(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the metrics: loss and accuracy, or the loss alone in regression."""
    if y.is_floating_point():
        loss = F.mse_loss(logits, y)
        return loss, loss.detach()
    loss = F.cross_entropy(logits, y)
    return loss, torch.stack((loss.detach(), (logits.argmax(1) == y).float().mean()))


def _step(loop: Loop, x: Tensor, y: Tensor) -> Tensor:
    loop.optimiser.zero_grad()
    logits, features = loop.net(x)
    loss, metrics = _loss(logits, y)
    loss.backward()
    loop.optimiser.step()
    if loop.after is not None:
        with torch.no_grad():
            loop.after(loop.net, loop.memory, features)
    return metrics


def _hat_memory(job: Job, state: State, is_check: bool) -> dict[str, Any]:
    attend = state.attention
    names = ("s_max", "clamp_threshold", "embedding_clamp", "step", "steps_per_epoch")
    numbers = {name: float(getattr(attend, name)) for name in names}
    rest = {"factor": float(state.mask_sparsity_reg_factor), "used": dict(attend.used)}
    return numbers | rest | {"clip": float(state.opt.inner[0])}


def _hat_step(loop: Loop, x: Tensor, y: Tensor) -> Tensor:
    net, m = loop.net, loop.memory
    s = 1 / m["s_max"] + (m["s_max"] - 1 / m["s_max"]) * (m["step"] % m["steps_per_epoch"]) / (
        m["steps_per_epoch"] - 1
    )
    loop.optimiser.zero_grad()
    gates = {group: torch.sigmoid(s * e) for group, e in net.embedding.items()}
    logits, _ = net(x, gates)
    loss, metrics = _loss(logits, y)
    free = {group: 1 - used for group, used in m["used"].items()}
    penalty = sum((gates[g] * free[g]).sum() for g in free) / sum(f.sum() for f in free.values())
    (loss + m["factor"] * penalty).backward()

    with torch.no_grad():
        for e in net.embedding.values():
            steep = torch.cosh((s * e).clamp(-m["clamp_threshold"], m["clamp_threshold"])) + 1
            e.grad *= m["s_max"] / s * steep / (torch.cosh(e) + 1)
        _mask(net, m["used"])
        nn.utils.clip_grad_norm_(net.parameters(), m["clip"])
        loop.optimiser.step()
        for e in net.embedding.values():
            e.clamp_(-m["embedding_clamp"], m["embedding_clamp"])
    m["step"] += 1
    return metrics


def _mask(net: Net, used: dict[str, Tensor]) -> None:
    """Gradients times 1 - min(used, used) of the two units that a weight joins."""
    before = None
    for group, after in used.items():
        layer = net.layers[group]
        both = after[:, None] if before is None else torch.minimum(after[:, None], before[None])
        layer.weight.grad *= 1 - both
        layer.bias.grad *= 1 - after
        before = after


class Cbp(NamedTuple):
    """The state of continual backprop.

    `units` holds the age, utility and mean feature of each group's units, `[3, units]`; `noise`
    gives the new rows of all groups at a step.
    """

    rate: float
    threshold: float
    decay: float
    units: dict[str, Tensor]
    budget: dict[str, float]
    bounds: dict[str, float]
    noise: Callable[[int], dict[str, Tensor]] | None
    step: list[int]


def _cbp_memory(job: Job, state: State, is_check: bool) -> Cbp:
    opt = state.opt
    numbers = (
        float(n) for n in (opt.replacement_rate, opt.maturity_threshold, opt.utility_decay_rate)
    )
    units = {g: torch.stack((u.age.float(), u.utility, u.mean)) for g, u in opt.units.items()}
    bounds = {
        wire.path[0]: wire.bound for wire in job.model.wires if wire.post and wire.reset == "draw"
    }
    params = cl.tree.index(job.many(job.params), 0)
    shapes = resets.row_shapes(job.model, params, dict.fromkeys(job.model.units, 1))

    def noise(step: int) -> dict[str, Tensor]:
        rows = resets.noise(opt.key, opt.step + step, shapes, torch.float32)
        return {name.split(".")[0]: row[0] for name, row in rows.items()}

    return Cbp(*numbers, units, dict.fromkeys(units, 0.0), bounds, noise if is_check else None, [0])


def _cbp(net: Net, memory: Cbp, features: dict[str, Tensor]) -> None:
    """Utilities after the optimiser's step, then the resets that are due."""
    consumers = [*list(net.layers)[1:]]
    chosen = {}
    for (group, h), consumer in zip(features.items(), consumers, strict=True):
        (age, utility, mean), decay = memory.units[group], memory.decay
        age += 1
        share = 1 - decay**age
        mean.mul_(decay).add_(h.mean(0), alpha=1 - decay)
        activity = (h - mean / share).abs().mean(0)
        outgoing, incoming = (
            net.layers[consumer].weight.abs().mean(0),
            net.layers[group].weight.abs().mean(1),
        )
        utility.mul_(decay).add_(activity * outgoing / incoming, alpha=1 - decay)
        ripe = age > memory.threshold
        number = int(ripe.sum())
        memory.budget[group] += memory.rate * number
        if number and memory.budget[group] >= 1:
            chosen[group, consumer] = int(torch.where(ripe, utility / share, torch.inf).argmin())
            memory.budget[group] -= 1
    _reset(net, memory, chosen)
    memory.step[0] += 1


def _reset(net: Net, memory: Cbp, chosen: dict[tuple[str, str], int]) -> None:
    rows = memory.noise(memory.step[0]) if chosen and memory.noise is not None else {}
    for (group, consumer), unit in chosen.items():
        layer, bound = net.layers[group], memory.bounds[group]
        row = rows[group] if rows else torch.rand_like(layer.weight[unit])
        layer.weight[unit] = bound * (2 * row - 1)
        layer.bias[unit] = 0
        net.layers[consumer].weight[:, unit] = 0
        memory.units[group][:, unit] = 0
