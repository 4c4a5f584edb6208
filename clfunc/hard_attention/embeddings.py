"""Task embeddings of hard attention, as `heads` are heads: one task's trains, the rest wait, and each leaves its mask.

The working embedding lives in `params["embedding"]`; the state here keeps all the others, what the tasks use between them, and
how far the gates have hardened.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.hard_attention import gates as attention
from clfunc.hard_attention.gates import Units
from clfunc.models.heads import checked_out
from clfunc.types import (
    Head,
    Inputs,
    Key,
    Metrics,
    Model,
    Number,
    Output,
    Params,
    Scalar,
    Settings,
    Task,
    TaskId,
    choice,
    scalar,
)


class EmbeddingsState(NamedTuple):
    s_max: Scalar
    clamp_threshold: Scalar
    embedding_clamp: Scalar
    bank: Units  # [tasks, units]; the entry of the task being trained is out of date
    met: Tensor  # Bool[tasks]: has been trained
    current: Tensor  # task of the working embedding; -1 before the first
    used: Units  # [units], in [0, 1]: the largest mask of the tasks trained
    claims: Units  # [units]: the sum of their masks
    step: Tensor  # of the task, from 0
    steps_per_epoch: Tensor


class Embeddings(NamedTuple):
    """What an algorithm does with task embeddings; `Units` without a leading axis are one task's."""

    init: Callable[[Key, dict[str, int], torch.dtype], EmbeddingsState]
    scale: Callable[[EmbeddingsState], Scalar]  # of the gates, at this step
    constrain: Callable[[Units, EmbeddingsState], Units]
    masks: Callable[[Units, EmbeddingsState], Units]
    lookup: Callable[
        [Units, EmbeddingsState, TaskId], Units
    ]  # (working, state, task): the task's own
    begin_task: Callable[[Units, EmbeddingsState, Task], tuple[Units, EmbeddingsState]]
    end_task: Callable[[Units, EmbeddingsState], EmbeddingsState]
    own: Callable[[Units, EmbeddingsState], Units]  # of all tasks, `[tasks, units]`
    restore: Callable[
        [Units, EmbeddingsState, Tensor], EmbeddingsState
    ]  # (of all tasks, state, those gone)
    metrics: Callable[[Units, EmbeddingsState], Metrics]
    settings: Settings


def task_embeddings(
    num_tasks: int,
    s_max: Number,
    clamp_threshold: Number,
    embedding_clamp: Number,
    init_mode: str,
    anneal: str,
    test_mask: str,
    no_sum: bool = False,
) -> Embeddings:
    """Embeddings for `num_tasks` (>= 1) tasks.

    Args:
        s_max, clamp_threshold, embedding_clamp: Largest scale of the gates; bounds on |s e| and on |e|; all above 0.
        init_mode, anneal, test_mask: See `attention.draw_embedding`, `.gate_scale`, `.masks`.
        no_sum: Let `claims` count all tasks trained, rather than those that use the unit.

    Raises:
        ValueError: A number out of range, an unknown mode.
    """
    if not isinstance(num_tasks, int) or num_tasks < 1:
        raise ValueError(f"num_tasks must be a whole number of at least 1, given {num_tasks}")
    choice(init_mode, "task_embedding_init_mode", attention.INIT_MODES)
    choice(anneal, "anneal", attention.ANNEALS)
    choice(test_mask, "test_mask", attention.TEST_MASKS)
    given = {"s_max": s_max, "clamp_threshold": clamp_threshold, "embedding_clamp": embedding_clamp}
    numbers: dict[str, Any] = {
        name: scalar(number, name, 0, above=True) for name, number in given.items()
    }

    def init(key: Key, units: dict[str, int], dtype: torch.dtype) -> EmbeddingsState:
        bank = attention.draw_embedding(init_mode, key, units, num_tasks, dtype)
        none = {group: torch.zeros_like(e[0]) for group, e in bank.items()}
        met = torch.zeros(num_tasks, dtype=torch.bool, device=key.device)
        zero = torch.zeros((), dtype=torch.int64, device=key.device)
        rest: dict[str, Any] = {
            "met": met,
            "current": zero - 1,
            "step": zero,
            "steps_per_epoch": zero + 1,
        }
        return EmbeddingsState(**numbers, **rest, bank=bank, used=none, claims=tree.clone(none))

    def scale(state: EmbeddingsState) -> Scalar:
        return attention.gate_scale(anneal, state.step, state.steps_per_epoch, state.s_max)

    def constrain(embedding: Units, state: EmbeddingsState) -> Units:
        return tree.map(lambda e: attention.clamped(e, state.embedding_clamp), embedding)

    def masks(embedding: Units, state: EmbeddingsState) -> Units:
        return attention.masks(test_mask, embedding, state.s_max)

    def lookup(working: Units, state: EmbeddingsState, task: TaskId) -> Units:
        return tree.where(task == state.current, working, tree.take(state.bank, task))

    def begin_task(
        working: Units, state: EmbeddingsState, task: Task
    ) -> tuple[Units, EmbeddingsState]:
        own = tree.take(state.bank, task.id)
        if init_mode == "last":
            own = tree.where(tree.take(state.met, task.id) | ~state.met.any(), own, working)
        current, steps = task.id.to(torch.int64), task.steps_per_epoch.to(torch.int64)
        return own, state._replace(
            current=current, step=torch.zeros_like(state.step), steps_per_epoch=steps
        )

    def end_task(working: Units, state: EmbeddingsState) -> EmbeddingsState:
        bank = tree.put(state.bank, state.current, working)
        met = state.met | (torch.arange(num_tasks, device=state.met.device) == state.current)
        used = tree.map(torch.maximum, state.used, masks(working, state))
        return state._replace(bank=bank, met=met, used=used, claims=claims(bank, met, state))

    def claims(bank: Units, met: Tensor, state: EmbeddingsState) -> Units:
        def claimed(every: Tensor) -> Tensor:
            return torch.where(met[:, None], torch.ones_like(every) if no_sum else every, 0.0).sum(
                0
            )

        return tree.map(claimed, masks(bank, state))

    def own(working: Units, state: EmbeddingsState) -> Units:
        return tree.put(state.bank, state.current, working)

    def restore(bank: Units, state: EmbeddingsState, gone: Tensor) -> EmbeddingsState:
        met = state.met & ~gone
        used = tree.map(
            lambda every: torch.where(met[:, None], every, 0.0).amax(0), masks(bank, state)
        )
        return state._replace(bank=bank, met=met, used=used, claims=claims(bank, met, state))

    def metrics(working: Units, state: EmbeddingsState) -> Metrics:
        shares = {f"used.{group}": used.mean() for group, used in state.used.items()}
        return shares | {"sharpness": attention.sharpness(working, state.s_max)}

    settings: Settings = {
        "num_tasks": num_tasks,
        "task_embedding_init_mode": init_mode,
        "anneal": anneal,
    }
    settings |= {"test_mask": test_mask, "no_sum": no_sum} | numbers
    hooks = (begin_task, end_task, own, restore, metrics)
    return Embeddings(init, scale, constrain, masks, lookup, *hooks, settings)


def own_and_restore(head: Head, embeddings: Embeddings) -> dict[str, Any]:
    """What tasks have for themselves under hard attention, as `Algorithm` has it: the head's groups, and the embedding."""

    def own(params: Params, state: Any) -> Params:
        return head.own(params, state.head) | {
            "embedding": embeddings.own(params["embedding"], state.attention)
        }

    def restore(params: Params, state: Any, own: Params, gone: Tensor) -> tuple[Params, Any]:
        params, parked = head.restore(params, state.head, own, gone)
        params = checked_out(params, state.attention.current, {"embedding": own["embedding"]})
        attend = embeddings.restore(own["embedding"], state.attention, gone)
        return params, state._replace(head=parked, attention=attend)

    return {"own": own, "restore": restore}


def gated(model: Model, embeddings: Embeddings, gate_position: str) -> Callable[..., Output]:
    """`forward(params, state, x, task)`: the network behind the task's own gates and head; state has `head`, `attention`."""

    def forward(params: Params, state: Any, x: Inputs, task: TaskId) -> Output:
        own = embeddings.lookup(params["embedding"], state.attention, task)
        gates = embeddings.masks(own, state.attention)
        params = model.head.lookup(params, state.head, task)
        return model.apply(params, x, task, gates=gates, gate_position=gate_position)

    return forward


def check_gates(
    model: Model, num_tasks: int, gate_position: str, freeze_head_after: int | None
) -> None:
    """Raise ValueError, in one line, for a model whose earlier tasks gates cannot protect; warn of a head that they share."""
    choice(gate_position, "gate_position", ("post_act", "pre_act"))
    head = model.head
    if head.paradigm == "mtl":
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
