"""Hard attention to the task (HAT) [1]: each task learns which units it uses, and what earlier
tasks use does not move.

At batch b of the B of an epoch, with an embedding e for each unit and task, and `used` the largest
of earlier tasks' masks:

    s     = 1/s_max + (s_max - 1/s_max) (b - 1) / (B - 1)                         eq. 3, `clfunc.hard_attention.gates`
    gate  = sigmoid(s e);  h = gate * activation(...)                             eq. 1
    loss  = cross_entropy + mask_sparsity_reg_factor * regulariser(gate, used)    eq. 5, `clfunc.hard_attention.regularisers`
    g_ij <- rate_ij g_ij,  rate_ij = 1 - min(used_i, used_j)                      eq. 2, `transforms.scale_by_adjustment`
    q    <- q (s_max / s) (cosh(clamp(s e)) + 1) / (cosh(e) + 1)                  eq. 4, q the gradient of e
    after the task: mask = 1 where e > 0;  used = max(used, mask)

Departs from [1]: masks are steps, not sigmoid(s_max e), and what may not move is held after the
optimiser as well as before it, so that an earlier task's logits keep their very bits under any
optimiser, while numbers stay finite. That promise needs a head of its own for each task (`til`):
one that tasks share (`cil`, `dil`) is not masked, and forgets unless `freeze_head_after` stops it.
`predict` opens the gates of the task that it gets, under `cil` and `dil` too. A task that returns
finds its embedding, and changes only what no task used, itself included.

[1] Serra et al. 2018, arXiv:1801.01423
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value

from clfunc import tree
from clfunc.bank import in_fields
from clfunc.compose import forget_groups
from clfunc.hard_attention import gates as attention
from clfunc.hard_attention import rates as adjustment
from clfunc.hard_attention.embeddings import Embeddings, EmbeddingsState, gated
from clfunc.random import split
from clfunc.settings import of_part
from clfunc.types import (
    Algorithm,
    Batch,
    Context,
    Inputs,
    Key,
    Logits,
    Metrics,
    Model,
    Number,
    Params,
    Scalar,
    State,
    Task,
    TaskId,
    Transform,
    scalar,
)


class HATState(NamedTuple):
    opt: State
    head: State
    key: Key
    mask_sparsity_reg_factor: Scalar
    attention: EmbeddingsState  # the working embedding is params["embedding"]


def hard_attention(
    model: Model,
    inner: Transform,
    embeddings: Embeddings,
    regulariser: Callable[[attention.Units, attention.Units], Tensor],
    mask_sparsity_reg_factor: Number,
    *,
    gate_position: str = "post_act",
    freeze_head_after: int | None = None,
) -> Algorithm:
    """HAT of parts: `hat` makes them by name.

    Args:
        model: Its unit groups are gated.
        inner: The optimiser with its adjustment, `scale_by_adjustment(...)`.
        embeddings: Of the tasks.
        regulariser: `(gates, used) -> 0-d`.
        mask_sparsity_reg_factor: Weight of the regulariser, >= 0.
        gate_position: See `gates.Gating`.
        freeze_head_after: Freeze a head that tasks share when this many are trained, >= 1; None for
            never.
    """
    factor = scalar(mask_sparsity_reg_factor, "mask_sparsity_reg_factor", 0)
    forward = gated(model, embeddings, gate_position)

    step = _step(model, inner, embeddings, regulariser, gate_position, freeze_head_after)

    def predict(params: Params, state: HATState, x: Inputs, task: TaskId) -> Logits:
        return model.head.mask(state.head, forward(params, state, x, task).logits, task)

    def features(params: Params, state: HATState, x: Inputs, task: TaskId) -> Tensor:
        return forward(params, state, x, task).last

    def begin_task(params: Params, state: HATState, task: Task) -> tuple[Params, HATState]:
        params, head = model.head.bank.begin_task(params, state.head, task.id)
        params, attend = embeddings.begin_task(params, state.attention, task)
        opt = inner.begin_task(state.opt, params)
        opt = forget_groups(inner, opt, ("embedding", *model.head.owns))
        return params, state._replace(opt=opt, head=head, attention=attend)

    def end_task(params: Params, state: HATState) -> tuple[Params, HATState]:
        params, head = model.head.bank.end_task(params, state.head)
        params, attend = embeddings.end_task(params, state.attention)
        return params, state._replace(head=head, attention=attend)

    settings = (
        of_part(inner, inner.update)
        | embeddings.settings
        | {
            "name": "hat",
            "freezes": True,
            "model": of_part(model, model.apply),
            "mask_sparsity_reg_mode": regulariser,
            "mask_sparsity_reg_factor": factor,
            "gate_position": gate_position,
            "freeze_head_after": freeze_head_after,
        }
    )
    return Algorithm(
        init=_init(model, inner, embeddings, factor),
        step=step,
        predict=predict,
        begin_task=begin_task,
        end_task=end_task,
        probe=_probe(model, inner, embeddings),
        settings=settings,
        features=features,
        bank=in_fields({"head": model.head.bank, "attention": embeddings.bank}),
    )


def _init(
    model: Model, inner: Transform, embeddings: Embeddings, factor: Scalar
) -> Callable[[Key], tuple[Params, HATState]]:
    """The `init` of hard attention."""

    def init(key: Key) -> tuple[Params, HATState]:
        draw, start, park, noise, embed = split(key, 5)
        params = model.init(draw)
        attend = embeddings.init(embed, model.units, params["head"]["weight"].dtype)
        params = params | {"embedding": tree.index(attend.rows, 0)}
        return params, HATState(
            opt=inner.init(start, params),
            head=model.head.bank.init(park, params),
            key=noise,
            mask_sparsity_reg_factor=factor,
            attention=attend,
        )

    return init


def _step(
    model: Model,
    inner: Transform,
    embeddings: Embeddings,
    regulariser: Callable[[attention.Units, attention.Units], Tensor],
    gate_position: str,
    freeze_head_after: int | None,
) -> Callable[[Params, HATState, Batch], tuple[Params, HATState, Metrics]]:
    """The step of hard attention; arguments as there."""

    def step(params: Params, state: HATState, batch: Batch) -> tuple[Params, HATState, Metrics]:
        if batch.task.ndim:
            raise ValueError("hat needs batches of one task, given one that mixes tasks")
        key, noise = split(state.key) if model.stochastic else (state.key, None)
        attend = state.attention
        s = embeddings.scale(attend)

        def loss_fn(params):
            gates = attention.gates(params["embedding"], s)
            output = model.apply(
                params, batch.x, batch.task, gates=gates, gate_position=gate_position, key=noise
            )
            logits = model.head.mask(state.head, output.logits, batch.task)
            penalty = regulariser(gates, attend.used)
            loss = model.head.loss(logits, batch.y, batch.weight)
            loss = loss + state.mask_sparsity_reg_factor * penalty
            metrics = model.head.measure(logits, batch.y, batch.weight)
            return loss, (output.features, gates, metrics | {"regulariser": penalty})

        gradient, (loss, aux) = grad_and_value(loss_fn, has_aux=True)(params)
        features, gates, metrics = tree.map(torch.detach, aux)

        # eq. 4: the gradient of the embedding, as if the gates had not hardened
        pushed = attention.compensate(
            gradient["embedding"], params["embedding"], s, attend.s_max, attend.clamp_threshold
        )
        context = Context(features, batch.task, attend.used, attend.claims, gates)
        updates, opt = inner.update(gradient | {"embedding": pushed}, state.opt, params, context)

        moved = tree.add(params, updates)
        moved = moved | {"embedding": embeddings.constrain(moved["embedding"], attend)}
        if freeze_head_after is not None:
            frozen = attend.met.sum() >= freeze_head_after
            moved["head"] = tree.where(frozen, params["head"], moved["head"])

        metrics = {"loss": loss.detach(), "capacity": opt.capacity} | metrics
        metrics |= embeddings.metrics(params["embedding"], attend)
        state = state._replace(opt=opt, key=key, attention=attend._replace(step=attend.step + 1))
        return moved, state, metrics

    return step


def _probe(
    model: Model, inner: Transform, embeddings: Embeddings
) -> Callable[[Params, HATState, Batch], dict[str, Tensor]]:
    """Masks of the working task and of all tasks, and the rates of the weights."""
    mode = inner.settings["adjustment_mode"]
    no_reg = inner.settings["no_reg"]

    def probe(params: Params, state: HATState, batch: Batch) -> dict[str, Tensor]:
        attend = state.attention
        mask = embeddings.masks(params["embedding"], attend)
        context = Context({}, batch.task, attend.used, attend.claims, mask)
        rates = adjustment.rates(
            model, params, context, state.key, mode, state.opt.alpha, state.opt.epsilon, no_reg
        )
        units = {f"mask.{group}": values for group, values in mask.items()}
        units |= {f"used.{group}": values for group, values in attend.used.items()}
        return units | adjustment.measures(rates, params)

    return probe
