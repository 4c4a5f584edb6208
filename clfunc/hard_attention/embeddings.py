"""Task embeddings of hard attention, as `heads` are heads: one task's trains, the rest wait, and
each leaves its mask.

The working embedding is `params["embedding"]`. The state here keeps all the others, the units that
the tasks use between them, and how far the gates have hardened.
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
    """The embeddings of all tasks, as an algorithm uses them: their static settings, and functions
    of params and state.
    """

    num_tasks: int
    gating: Gating
    no_sum: bool
    numbers: dict[str, Scalar]  # s_max, clamp_threshold, embedding_clamp

    def init(self, key: Key, units: dict[str, int], dtype: torch.dtype) -> EmbeddingsState:
        """The state before the first task."""
        mode = self.gating.task_embedding_init_mode
        rows = attention.draw_embedding(mode, key, units, self.num_tasks, dtype)
        none = {group: torch.zeros_like(every[0]) for group, every in rows.items()}
        zero = torch.zeros((), dtype=torch.int64, device=key.device)
        return EmbeddingsState(
            **self.numbers,
            bank=filed({"embedding": rows}),
            met=torch.zeros(self.num_tasks, dtype=torch.bool, device=key.device),
            used=none,
            claims=tree.clone(none),
            step=zero,
            steps_per_epoch=zero + 1,
        )

    def scale(self, state: EmbeddingsState) -> Scalar:
        """The scale of the gates at this step."""
        steps = state.steps_per_epoch
        return attention.gate_scale(self.gating.anneal, state.step, steps, state.s_max)

    def constrain(self, embedding: Units, state: EmbeddingsState) -> Units:
        """The embedding within its bounds."""
        return tree.map(lambda e: attention.clamped(e, state.embedding_clamp), embedding)

    def masks(self, embedding: Units, state: EmbeddingsState) -> Units:
        """What a task with this embedding uses; with rows `[tasks, units]`, what each task uses."""
        return attention.masks(self.gating.test_mask, embedding, state.s_max)

    def begin_task(
        self, params: Params, state: EmbeddingsState, task: Task
    ) -> tuple[Params, EmbeddingsState]:
        """The hook of an algorithm: the embedding of the task is the working one, and its steps
        count from 0.
        """
        last = params["embedding"]
        params, state = _ROWS.begin_task(params, state, task.id)
        if self.gating.task_embedding_init_mode == "last":
            keeps = tree.take(state.met, task.id) | ~state.met.any()
            embedding = tree.where(keeps, params["embedding"], last)
            params = params | {"embedding": embedding}
        return params, state._replace(
            step=torch.zeros_like(state.step),
            steps_per_epoch=task.steps_per_epoch.to(torch.int64),
        )

    def end_task(self, params: Params, state: EmbeddingsState) -> tuple[Params, EmbeddingsState]:
        """The hook of an algorithm: the task leaves its mask."""
        params, state = _ROWS.end_task(params, state)
        number = torch.arange(self.num_tasks, device=state.met.device)
        mask = self.masks(params["embedding"], state)
        state = state._replace(
            met=state.met | (number == state.current),
            used=tree.map(torch.maximum, state.used, mask),
        )
        return params, state._replace(claims=self.claims(state))

    def claims(self, state: EmbeddingsState) -> Units:
        """How many tasks that have been trained use each unit."""

        def claimed(mask: Tensor) -> Tensor:
            counted = torch.ones_like(mask) if self.no_sum else mask
            return torch.where(state.met[:, None], counted, 0.0).sum(0)

        return tree.map(claimed, self.masks(state.rows, state))

    def metrics(self, working: Units, state: EmbeddingsState) -> Metrics:
        """The share of each group in use, and how decided the gates are."""
        shares = {f"used.{group}": used.mean() for group, used in state.used.items()}
        return shares | {"sharpness": attention.sharpness(working, state.s_max)}

    @property
    def bank(self) -> Bank:
        """The bank of the group `embedding`, on this state."""

        def restore(
            params: Params, state: EmbeddingsState, rows: Params, forgotten: Tensor
        ) -> tuple[Params, EmbeddingsState]:
            params, state = _ROWS.restore(params, state, rows, forgotten)
            met = state.met & ~forgotten

            def largest(mask: Tensor) -> Tensor:
                return torch.where(met[:, None], mask, 0.0).amax(0)

            used = tree.map(largest, self.masks(state.rows, state))
            state = state._replace(met=met, used=used)
            return params, state._replace(claims=self.claims(state))

        return _ROWS._replace(restore=restore)

    @property
    def settings(self) -> Settings:
        """Everything that decides a result, by value."""
        words: Settings = {
            "num_tasks": self.num_tasks,
            "task_embedding_init_mode": self.gating.task_embedding_init_mode,
            "anneal": self.gating.anneal,
            "test_mask": self.gating.test_mask,
            "no_sum": self.no_sum,
        }
        return words | self.numbers


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
    if not isinstance(num_tasks, int) or num_tasks < 1:
        raise ValueError(f"num_tasks must be a whole number of at least 1, given {num_tasks}")
    init_mode = gating.task_embedding_init_mode
    choice(init_mode, "task_embedding_init_mode", attention.INIT_MODES)
    choice(gating.anneal, "anneal", attention.ANNEALS)
    choice(gating.test_mask, "test_mask", attention.TEST_MASKS)
    numbers = {
        "s_max": scalar(s_max, "s_max", 0, above=True),
        "clamp_threshold": scalar(gating.clamp_threshold, "clamp_threshold", 0, above=True),
        "embedding_clamp": scalar(gating.embedding_clamp, "embedding_clamp", 0, above=True),
    }
    return Embeddings(num_tasks=num_tasks, gating=gating, no_sum=no_sum, numbers=numbers)


def _no_start(key: Key, params: Params) -> Params:
    raise TypeError("the state of embeddings is made by their own init")


_ROWS = in_fields({"bank": parked(("embedding",), _no_start)})


def gated(model: Model, embeddings: Embeddings, gate_position: str) -> Callable[..., Output]:
    """The network behind a task's own gates and head.

    Returns:
        `forward(params, state, x, task) -> Output`, where `state` has the fields `head` and
        `attention`.
    """

    def forward(params: Params, state: State, x: Inputs, task: TaskId) -> Output:
        params = embeddings.bank.lookup(params, state.attention, task)
        params = model.head.bank.lookup(params, state.head, task)
        gates = embeddings.masks(params["embedding"], state.attention)
        return model.apply(params, x, task, gates=gates, gate_position=gate_position)

    return forward


def check_gates(
    model: Model,
    num_tasks: int,
    gate_position: str,
    freeze_head_after: int | None,
    *,
    has_memory: bool = False,
) -> None:
    """Raise ValueError, in one line, for a model whose earlier tasks gates cannot protect.

    Warn of a head that they share. With a memory, examples of earlier tasks train their heads.
    """
    choice(gate_position, "gate_position", attention.POSITIONS)
    head = model.head
    if "head" in head.spec.rows and not has_memory:
        raise ValueError(
            "hat needs batches of one task, given an mtl head, whose batches mix tasks: use"
            " til, cil or dil"
        )
    if head.num_tasks > num_tasks:
        raise ValueError(
            f"num_tasks must be at least the head's {head.num_tasks}, given {num_tasks}"
        )
    if freeze_head_after is not None and (freeze_head_after < 1 or "head" in head.per_task):
        raise ValueError(
            "freeze_head_after must be at least 1, for a head that tasks share (cil, dil),"
            f" given {freeze_head_after}"
            f" and a {head.paradigm} head"
        )
    if "head" not in head.per_task and head.num_tasks > 1 and freeze_head_after is None:
        said = f"hat does not protect the {head.paradigm} head, which tasks share: it forgets"
        warnings.warn(said + "; freeze_head_after=1 freezes it after the first task", stacklevel=3)
    if gate_position == "pre_act" and model.settings.get("activation") == "sigmoid":
        raise ValueError(
            "gate_position='pre_act' leaves a shut unit at sigmoid(0) = 0.5: use post_act"
        )
    shared = [
        wire.path
        for wire in model.wires
        if wire.reset == "one" and wire.path[0] not in head.per_task
    ]
    if shared:
        raise ValueError(
            f"hat cannot protect normalisation that tasks share ({'.'.join(shared[0])}): give"
            " each task its own by"
            " per_task_norm=True, or none by norm=None"
        )
