"""Task embeddings of hard attention, as `heads` are heads: one task's trains, the rest wait, and each leaves its mask.

The working embedding is `params["embedding"]`. The state here keeps all the others, the units that the tasks use between them,
and how far the gates have hardened.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.bank import BankState, filed, in_fields, parked
from clfunc.hard_attention import gates as attention
from clfunc.hard_attention.gates import Gating, Units
from clfunc.types import (
    Bank,
    Inputs,
    Key,
    Metrics,
    Model,
    Number,
    Output,
    Params,
    Scalar,
    Settings,
    State,
    Task,
    TaskId,
    choice,
    scalar,
)


class EmbeddingsState(NamedTuple):
    """What hard attention keeps between steps, but for the working embedding."""

    s_max: Scalar
    clamp_threshold: Scalar
    embedding_clamp: Scalar
    bank: BankState  # of the embeddings, [tasks, units]
    met: Tensor  # Bool[tasks]: has been trained
    used: Units  # [units], in [0, 1]: the largest mask of the tasks trained
    claims: Units  # [units]: the sum of their masks
    step: Tensor  # of the task, from 0
    steps_per_epoch: Tensor

    @property
    def current(self) -> Tensor:
        """The task of the working embedding; -1 before the first."""
        return self.bank.current

    @property
    def rows(self) -> Units:
        """The embeddings of all tasks, `[tasks, units]`; the working one's entry is out of date."""
        return self.bank.rows["embedding"]


class Embeddings(NamedTuple):
    """What an algorithm does with task embeddings; `Units` are one task's."""

    init: Callable[[Key, dict[str, int], torch.dtype], EmbeddingsState]
    # (state) -> the scale of the gates at this step
    scale: Callable[[EmbeddingsState], Scalar]
    # (embedding, state) -> the embedding within its bounds
    constrain: Callable[[Units, EmbeddingsState], Units]
    # (embedding, state) -> the mask that it leaves
    masks: Callable[[Units, EmbeddingsState], Units]
    # the hooks of an algorithm, on params and this state
    begin_task: Callable[[Params, EmbeddingsState, Task], tuple[Params, EmbeddingsState]]
    end_task: Callable[[Params, EmbeddingsState], tuple[Params, EmbeddingsState]]
    metrics: Callable[[Units, EmbeddingsState], Metrics]
    bank: Bank  # of the group "embedding"
    settings: Settings


def task_embeddings(
    num_tasks: int, s_max: Number, gating: Gating, no_sum: bool = False
) -> Embeddings:
    """Embeddings of tasks.

    Args:
        num_tasks: Number of tasks, >= 1.
        s_max: Largest scale of the gates, > 0.
        gating: How the gates start, harden and act.
        no_sum: `claims` count all tasks trained, rather than the tasks that use the unit.

    Raises:
        ValueError: A number out of range, an unknown mode.
    """
    init_mode = gating.task_embedding_init_mode
    anneal = gating.anneal
    test_mask = gating.test_mask
    if not isinstance(num_tasks, int) or num_tasks < 1:
        raise ValueError(f"num_tasks must be a whole number of at least 1, given {num_tasks}")
    choice(init_mode, "task_embedding_init_mode", attention.INIT_MODES)
    choice(anneal, "anneal", attention.ANNEALS)
    choice(test_mask, "test_mask", attention.TEST_MASKS)
    numbers = {
        "s_max": scalar(s_max, "s_max", 0, above=True),
        "clamp_threshold": scalar(gating.clamp_threshold, "clamp_threshold", 0, above=True),
        "embedding_clamp": scalar(gating.embedding_clamp, "embedding_clamp", 0, above=True),
    }

    def init(key: Key, units: dict[str, int], dtype: torch.dtype) -> EmbeddingsState:
        rows = attention.draw_embedding(init_mode, key, units, num_tasks, dtype)
        none = {group: torch.zeros_like(every[0]) for group, every in rows.items()}
        zero = torch.zeros((), dtype=torch.int64, device=key.device)
        return EmbeddingsState(
            **numbers,
            bank=filed({"embedding": rows}),
            met=torch.zeros(num_tasks, dtype=torch.bool, device=key.device),
            used=none,
            claims=tree.clone(none),
            step=zero,
            steps_per_epoch=zero + 1,
        )

    def scale(state: EmbeddingsState) -> Scalar:
        return attention.gate_scale(anneal, state.step, state.steps_per_epoch, state.s_max)

    def constrain(embedding: Units, state: EmbeddingsState) -> Units:
        return tree.map(lambda e: attention.clamped(e, state.embedding_clamp), embedding)

    def masks(embedding: Units, state: EmbeddingsState) -> Units:
        return attention.masks(test_mask, embedding, state.s_max)

    def claims(rows: Units, met: Tensor, state: EmbeddingsState) -> Units:
        def claimed(every: Tensor) -> Tensor:
            counted = torch.ones_like(every) if no_sum else every
            return torch.where(met[:, None], counted, 0.0).sum(0)

        return tree.map(claimed, masks(rows, state))

    def begin_task(
        params: Params, state: EmbeddingsState, task: Task
    ) -> tuple[Params, EmbeddingsState]:
        working = params["embedding"]
        params, state = bank.begin_task(params, state, task.id)
        if init_mode == "last":
            row = params["embedding"]
            stays = tree.take(state.met, task.id) | ~state.met.any()
            params = params | {"embedding": tree.where(stays, row, working)}
        return params, state._replace(
            step=torch.zeros_like(state.step),
            steps_per_epoch=task.steps_per_epoch.to(torch.int64),
        )

    def end_task(params: Params, state: EmbeddingsState) -> tuple[Params, EmbeddingsState]:
        params, state = bank.end_task(params, state)
        ended = torch.arange(num_tasks, device=state.met.device) == state.current
        met = state.met | ended
        used = tree.map(torch.maximum, state.used, masks(params["embedding"], state))
        return params, state._replace(met=met, used=used, claims=claims(state.rows, met, state))

    def restore(
        params: Params, state: EmbeddingsState, rows: Params, forgotten: Tensor
    ) -> tuple[Params, EmbeddingsState]:
        params, state = rows_only.restore(params, state, rows, forgotten)
        met = state.met & ~forgotten

        def largest(every: Tensor) -> Tensor:
            return torch.where(met[:, None], every, 0.0).amax(0)

        used = tree.map(largest, masks(state.rows, state))
        return params, state._replace(met=met, used=used, claims=claims(state.rows, met, state))

    def metrics(working: Units, state: EmbeddingsState) -> Metrics:
        shares = {f"used.{group}": used.mean() for group, used in state.used.items()}
        return shares | {"sharpness": attention.sharpness(working, state.s_max)}

    rows_only = in_fields({"bank": parked(("embedding",), _no_start)})
    bank = rows_only._replace(restore=restore)
    settings: Settings = {
        "num_tasks": num_tasks,
        "task_embedding_init_mode": init_mode,
        "anneal": anneal,
        "test_mask": test_mask,
        "no_sum": no_sum,
    }
    return Embeddings(
        init=init,
        scale=scale,
        constrain=constrain,
        masks=masks,
        begin_task=begin_task,
        end_task=end_task,
        metrics=metrics,
        bank=bank,
        settings=settings | numbers,
    )


def _no_start(key: Key, params: Params) -> Params:
    raise TypeError("the state of embeddings is made by their own init")


def gated(model: Model, embeddings: Embeddings, gate_position: str) -> Callable[..., Output]:
    """The network behind a task's own gates and head.

    Returns:
        `forward(params, state, x, task) -> Output`, where `state` has the fields `head` and `attention`.
    """

    def forward(params: Params, state: State, x: Inputs, task: TaskId) -> Output:
        params = embeddings.bank.lookup(params, state.attention, task)
        params = model.head.bank.lookup(params, state.head, task)
        gates = embeddings.masks(params["embedding"], state.attention)
        return model.apply(params, x, task, gates=gates, gate_position=gate_position)

    return forward


def check_gates(
    model: Model, num_tasks: int, gate_position: str, freeze_head_after: int | None
) -> None:
    """Raise ValueError, in one line, for a model whose earlier tasks gates cannot protect; warn of a head that they share."""
    choice(gate_position, "gate_position", attention.POSITIONS)
    head = model.head
    if head.spec.together:
        raise ValueError(
            "hat needs batches of one task, given an mtl head, whose batches mix tasks: use til, cil or dil"
        )
    if head.num_tasks > num_tasks:
        raise ValueError(
            f"num_tasks must be at least the head's {head.num_tasks}, given {num_tasks}"
        )
    if freeze_head_after is not None and (freeze_head_after < 1 or "head" in head.owns):
        raise ValueError(
            f"freeze_head_after must be at least 1, for a head that tasks share (cil, dil), given {freeze_head_after}"
            f" and a {head.paradigm} head"
        )
    if "head" not in head.owns and head.num_tasks > 1 and freeze_head_after is None:
        said = f"hat does not protect the {head.paradigm} head, which tasks share: it forgets"
        warnings.warn(said + "; freeze_head_after=1 freezes it after the first task", stacklevel=3)
    if gate_position == "pre_act" and model.settings.get("activation") == "sigmoid":
        raise ValueError(
            "gate_position='pre_act' leaves a shut unit at sigmoid(0) = 0.5: use post_act"
        )
    shared = [
        wire.path for wire in model.wires if wire.reset == "one" and wire.path[0] not in head.owns
    ]
    if shared:
        raise ValueError(
            f"hat cannot protect normalisation that tasks share ({'.'.join(shared[0])}): give each task its own by"
            " per_task_norm=True, or none by norm=None"
        )
