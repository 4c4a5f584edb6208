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

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor

from clfunc import tree
from clfunc.bank import in_fields
from clfunc.compose import Network, Parts, bound
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
    Memory,
    Metrics,
    Model,
    Number,
    Output,
    Params,
    Scalar,
    State,
    Task,
    TaskId,
    Term,
    Transform,
    scalar,
)

_Extra = tuple[Tensor, Metrics]  # a name, since Dynamo cannot subscript a type inside a step
Regulariser = Callable[[attention.Units, attention.Units], Tensor]


class HATState(NamedTuple):
    opt: State
    head: State
    key: Key
    mask_sparsity_reg_factor: Scalar
    attention: EmbeddingsState  # the working embedding is params["embedding"]
    parts: State = ()  # of terms and memory


def hard_attention(
    model: Model,
    inner: Transform,
    embeddings: Embeddings,
    regulariser: Regulariser,
    mask_sparsity_reg_factor: Number,
    *,
    gate_position: str = "post_act",
    freeze_head_after: int | None = None,
    terms: Sequence[Term] = (),
    memory: Memory | None = None,
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
        terms: What is minimised beside the loss of the batch.
        memory: What terms and transforms draw from; None for none.
    """
    factor = scalar(mask_sparsity_reg_factor, "mask_sparsity_reg_factor", 0)
    forward = gated(model, embeddings, gate_position)
    parts = bound(model, inner, terms, memory, parked=("embedding",))
    training = _Training(model, embeddings, regulariser, gate_position, freeze_head_after)

    def predict(params: Params, state: HATState, x: Inputs, task: TaskId) -> Logits:
        return model.head.mask(state.head, forward(params, state, x, task).logits, task)

    def features(params: Params, state: HATState, x: Inputs, task: TaskId) -> Tensor:
        return forward(params, state, x, task).last

    def begin_task(params: Params, state: HATState, task: Task) -> tuple[Params, HATState]:
        params, head = model.head.bank.begin_task(params, state.head, task.id)
        params, attend = embeddings.begin_task(params, state.attention, task)
        return params, parts.begin_task(params, state._replace(head=head, attention=attend), task)

    def end_task(params: Params, state: HATState) -> tuple[Params, HATState]:
        state = parts.end_task(params, state)
        params, head = model.head.bank.end_task(params, state.head)
        params, attend = embeddings.end_task(params, state.attention)
        return params, state._replace(head=head, attention=attend)

    settings = (
        of_part(inner, inner.update)
        | parts.settings
        | embeddings.settings
        | {
            "name": "hat",
            "freezes": True,
            "mask_sparsity_reg_mode": regulariser,
            "mask_sparsity_reg_factor": factor,
            "gate_position": gate_position,
            "freeze_head_after": freeze_head_after,
        }
    )
    return Algorithm(
        init=_init(model, parts, embeddings, factor),
        step=_step(model, parts, training),
        predict=predict,
        begin_task=begin_task,
        review=_review(parts, training, forward) if parts.reviews else None,
        end_task=end_task,
        probe=_probe(model, inner, embeddings),
        settings=settings,
        features=features,
        bank=in_fields({"head": model.head.bank, "attention": embeddings.bank} | parts.banks),
    )


def _init(
    model: Model, parts: Parts, embeddings: Embeddings, factor: Scalar
) -> Callable[[Key], tuple[Params, HATState]]:
    """The `init` of hard attention."""

    def init(key: Key) -> tuple[Params, HATState]:
        draw, start, park, noise, embed = split(key, 5)
        params = model.init(draw)
        attend = embeddings.init(embed, model.units, params["head"]["weight"].dtype)
        params = params | {"embedding": tree.index(attend.rows, 0)}
        return params, HATState(
            opt=parts.tx.init(start, params),
            head=model.head.bank.init(park, params),
            key=noise,
            mask_sparsity_reg_factor=factor,
            attention=attend,
            parts=parts.init(key, params),
        )

    return init


class _Training(NamedTuple):
    """How hard attention runs its network in training."""

    model: Model
    embeddings: Embeddings
    regulariser: Regulariser
    gate_position: str
    freeze_head_after: int | None

    def network(self, params: Params, state: HATState, batch: Batch) -> Network:
        """The network at one step, from the params before it."""
        attend = state.attention
        s = self.embeddings.scale(attend)

        def forward(params: Params, shown: Batch, key: Key | None) -> Output:
            gates = self._gates(params, attend, s, batch.task, shown.task)
            output = self.model.apply(
                params,
                shown.x,
                shown.task,
                gates=gates,
                gate_position=self.gate_position,
                key=key,
            )
            return output._replace(gates=gates)

        def extra(output: Output) -> _Extra:
            penalty = self.regulariser(output.gates, attend.used)
            return state.mask_sparsity_reg_factor * penalty, {"regulariser": penalty}

        def push(gradient: Params) -> Params:
            # eq. 4: the gradient of the embedding, as if the gates had not hardened
            pushed = attention.compensate(
                gradient["embedding"], params["embedding"], s, attend.s_max, attend.clamp_threshold
            )
            return gradient | {"embedding": pushed}

        def hold(before: Params, after: Params) -> Params:
            after = after | {"embedding": self.embeddings.constrain(after["embedding"], attend)}
            if self.freeze_head_after is not None:
                frozen = attend.met.sum() >= self.freeze_head_after
                after["head"] = tree.where(frozen, before["head"], after["head"])
            return after

        return Network(
            forward=forward,
            mask=partial(self.model.head.mask, state.head),
            extra=extra,
            used=attend.used,
            claims=attend.claims,
            push=push,
            hold=hold,
        )

    def _gates(
        self, params: Params, attend: EmbeddingsState, s: Scalar, working: Tensor, task: Tensor
    ) -> attention.Units:
        """The gates of the task that trains; where examples have a task each, `[batch, units]`:
        those of earlier tasks are their masks.
        """
        gates = attention.gates(params["embedding"], s)
        if not task.ndim:
            return gates
        masks = self.embeddings.masks(tree.take(attend.rows, task), attend)
        return tree.where(task == working, _each_example(gates, task), masks)


def _each_example(gates: attention.Units, task: Tensor) -> attention.Units:
    return tree.map(lambda gate: gate.expand(*task.shape, *gate.shape), gates)


def _step(
    model: Model, parts: Parts, training: _Training
) -> Callable[[Params, HATState, Batch], tuple[Params, HATState, Metrics]]:
    """The step of hard attention."""

    def step(params: Params, state: HATState, batch: Batch) -> tuple[Params, HATState, Metrics]:
        if batch.task.ndim:
            raise ValueError("hat needs batches of one task, given one that mixes tasks")
        key, noise = split(state.key) if model.stochastic else (state.key, None)

        network = training.network(params, state, batch)
        after, state, metrics = parts.step(params, state, batch, network, noise)

        attend = state.attention
        metrics |= training.embeddings.metrics(params["embedding"], attend)
        attend = attend._replace(step=attend.step + 1)
        return after, state._replace(key=key, attention=attend), metrics

    return step


def _review(
    parts: Parts, training: _Training, forward: Callable[..., Output]
) -> Callable[[Params, HATState, Batch], HATState]:
    """The review of hard attention, behind the masks of `predict`."""

    def review(params: Params, state: HATState, batch: Batch) -> HATState:
        def masked(params: Params, batch: Batch, key: Key | None) -> Output:
            return forward(params, state, batch.x, batch.task)

        network = training.network(params, state, batch)._replace(forward=masked)
        return parts.review(params, state, batch, network)

    return review


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
