"""The nouns. Everything in clfunc is one of these, or a pure function between them.

An algorithm is a step, `(params, state, batch) -> (params, state, metrics)`; a transform rewrites updates; a run is a
scan of steps; a sweep is a run whose state has one more axis.
"""

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

Params: TypeAlias = Any  # pytrees of tensors, nothing else; "no state" is (), never None
State: TypeAlias = Any
Updates: TypeAlias = Any
Key: TypeAlias = Int[
    Tensor, "2"
]  # a counter-based key: two uint32 words held in int64; a leaf like any other
Keys: TypeAlias = Int[Tensor, "*runs 2"]  # a key, or one for each run
Scalar: TypeAlias = Num[Tensor, ""]
Number: TypeAlias = float | Tensor  # what a factory takes where a sweep may vary it; see `scalar`
Metrics: TypeAlias = dict[str, Tensor]  # the same names at every step, 0-d, detached
Inputs: TypeAlias = Num[Tensor, "batch *features"]
TaskId: TypeAlias = Int[Tensor, "*batch"]  # 0-d: one task for the whole batch; [batch]: mixed
Logits: TypeAlias = Float[Tensor, "batch classes"]
Settings: TypeAlias = dict[
    str, Any
]  # a tensor is a number that may differ within a sweep; anything else is static


class Batch(NamedTuple):
    """Examples to learn from. `weight` 0 ignores an example; means divide by `weight.sum()`."""

    x: Num[Tensor, "batch *features"]
    y: Num[
        Tensor, "batch ..."
    ]  # class id: local to the task in TIL, DIL, MTL and STL, global in CIL; or a target
    task: Int[Tensor, "*batch"]
    weight: Float[Tensor, " batch"]
    rows: (
        Int[Tensor, " batch"] | tuple[()]
    ) = ()  # rows of the data set, where a batch is made of one


class Task(NamedTuple):
    """What `begin_task` is told."""

    id: Int[Tensor, ""]
    steps_per_epoch: Int[Tensor, ""]
    epochs: Int[Tensor, ""]


class Output(NamedTuple):
    """What a model computes. `features` are post-activation, one entry per unit group, in forward order."""

    logits: Float[Tensor, "batch classes"]
    features: dict[str, Tensor]

    @property
    def last(self) -> Float[Tensor, "batch units"]:
        """The last hidden layer's features, all positions and parts side by side."""
        return list(self.features.values())[-1].flatten(1)


class Wire(NamedTuple):
    """One parameter tensor, seen as a bundle of unit-to-unit connections. Static."""

    path: tuple[str, ...]  # where it is in params
    pre: str | None  # unit group that feeds it (None: the input, or a bias)
    post: str | None  # unit group that it feeds (None: the logits)
    pre_axis: int | None = 1
    post_axis: int | None = 0
    spread: int = 1  # inputs per pre unit (H*W where a conv map is flattened)
    reset: Literal["draw", "zero", "one"] = "draw"  # what a reset unit's own entries become
    bound: float = 0.0  # draw from U(-bound, bound), as init does


def keep_state(state: State, params: Params) -> State:
    """A transform's begin_task that changes nothing."""
    return state


def keep(params: Params, state: State, *_: Any) -> tuple[Params, State]:
    """An algorithm's hook that changes nothing."""
    return params, state


def nothing(params: Params, state: State) -> Params:
    """What each task has for itself, where tasks share everything."""
    return {}


def no_rows(params: Params, state: State) -> Params:
    """The rows of a bank that keeps nothing."""
    return {}


def same_params(params: Params, state: State, task: TaskId) -> Params:
    """The lookup of a bank that keeps nothing."""
    return params


class Bank(NamedTuple):
    """What each task has for itself, one row a task: in `params` while the task trains, and parked in a state `s` else."""

    init: Callable[[Key, Params], State]  # (key, params) -> s
    begin_task: Callable[[Params, State, Tensor], tuple[Params, State]] = keep  # check a row out
    end_task: Callable[[Params, State], tuple[Params, State]] = keep  # check it in
    lookup: Callable[[Params, State, TaskId], Params] = same_params  # params with the task's row
    rows: Callable[[Params, State], Params] = no_rows  # of all tasks, `[tasks, ...]`
    # (params, s, rows, forgotten: Bool[tasks]) -> params and s with `rows` in their place, and the forgotten tasks as if
    # they had not been trained
    restore: Callable[[Params, State, Params, Tensor], tuple[Params, State]] = keep
    groups: tuple[str, ...] = ()  # top-level names in params


class Head(NamedTuple):
    """The last layer and what it owes to the task: which head trains, where the others wait, which classes count.

    The working head lives in `params["head"]`; what waits (the parked heads, the classes seen) is the head's state.
    """

    paradigm: str
    classes: int  # width of the logits: the largest class count, or all classes in CIL
    num_tasks: int
    init: Callable[..., Params]  # (key, units, dtype) -> working head
    apply: Callable[
        [Params, Tensor, TaskId], Logits
    ]  # (working head, last features, task) -> logits
    park: Callable[[Key, Params], State]  # (key, params) -> head state, every head freshly drawn
    begin_task: Callable[[Params, State, Tensor], tuple[Params, State]]
    end_task: Callable[[Params, State], tuple[Params, State]]
    lookup: Callable[[Params, State, TaskId], Params]  # params holding the head of this task
    mask: Callable[
        [State, Logits, TaskId], Logits
    ]  # -inf where a class is not the task's, or not yet seen
    settings: Settings
    loss: Callable[..., Tensor]  # (logits, y, weight) -> 0-d: what the head is trained by
    measure: Callable[
        ..., Metrics
    ]  # (logits, y, weight) -> how good they are, in the head's own terms
    owns: tuple[
        str, ...
    ] = ()  # groups of params that a task has for itself: in `params` while it trains, else parked
    own: Callable[[Params, State], Params] = nothing  # those groups, of all tasks: `[tasks, ...]`
    restore: Callable[[Params, State, Params, Tensor], tuple[Params, State]] = (
        keep  # see `Algorithm`
    )


class Model(NamedTuple):
    """A network as two pure functions and the tables that describe it."""

    init: Callable[
        [Key], Params
    ]  # a flat dict of groups; algorithms add top-level keys beside them, never nest
    apply: Callable[
        ..., Output
    ]  # (params, x, task, *, gates, gate_position, key); key given = training (dropout)
    wires: tuple[Wire, ...]
    units: dict[str, int]  # unit group -> width, in forward order
    head: Head
    stochastic: bool = (
        False  # True where apply draws random numbers in training, so a step must hand it a key
    )
    settings: Settings = {}


class Context(NamedTuple):
    """What a step knows that a transform may need."""

    features: dict[str, Tensor]
    task: Int[Tensor, "*batch"]
    used: dict[
        str, Float[Tensor, " units"]
    ]  # 1 where earlier tasks own the unit; zeros where no algorithm masks
    claims: dict[
        str, Float[Tensor, " units"]
    ] = {}  # how many earlier tasks use the unit; zeros likewise
    gates: dict[
        str, Float[Tensor, " units"]
    ] = {}  # what the unit's output was multiplied by; ones where nothing gates


class Transform(NamedTuple):
    """Rewrites updates, and owns the memory it needs to do so (optax's protocol, the context always passed).

    `per_element` makes the same transform with its counts kept element by element (Adam's steps), for a wrapper that lets
    single units start anew; None where there is nothing to count.
    """

    init: Callable[[Key, Params], State]
    update: Callable[[Updates, State, Params, Context], tuple[Updates, State]]
    begin_task: Callable[[State, Params], State] = keep_state
    settings: Settings = {}
    per_element: "Callable[[], Transform] | None" = None


class Algorithm(NamedTuple):
    """A continual-learning method: a pure step, and what happens between tasks and epochs."""

    init: Callable[[Key], tuple[Params, State]]
    step: Callable[[Params, State, Batch], tuple[Params, State, Metrics]]
    predict: Callable[[Params, State, Inputs, TaskId], Logits]
    begin_task: Callable[[Params, State, Task], tuple[Params, State]] = keep
    end_epoch: Callable[[Params, State, Metrics], tuple[Params, State]] = (
        keep  # told the validation metrics
    )
    end_task: Callable[[Params, State], tuple[Params, State]] = keep
    probe: Callable[[Params, State, Batch], dict[str, Tensor]] | None = None
    unlearn: Callable[[Params, State, Tensor], tuple[Params, State]] | None = None
    settings: Settings = {}
    # what the network gives its head in `predict`, [batch, units]
    features: Callable[[Params, State, Inputs, TaskId], Tensor] | None = None
    own: Callable[[Params, State], Params] = (
        nothing  # groups of params that each task has for itself: `[tasks, ...]`
    )
    restore: Callable[[Params, State, Params, Tensor], tuple[Params, State]] = (
        keep  # (params, state, own, gone): `own` in
    )
    # their place, and the tasks of `gone` (Bool[tasks]) as if they had not been trained


def choice(value: str, name: str, options: Iterable[str]) -> str:
    """`value`, if it is one of the options; ValueError lists those there are."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(options)}, given {value!r}")
    return value


def nested(settings: Any, name: str) -> Any:
    """The first setting of this name, however deep in wrappers or in the members of a sweep; None where there is none."""
    if isinstance(settings, dict):
        if name in settings:
            return settings[name]
        settings = list(settings.values())
    found = [nested(value, name) for value in settings] if isinstance(settings, list) else []
    return next((value for value in found if value is not None), None)


def scalar(
    value: Number,
    name: str = "value",
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> Scalar:
    """A number as a 0-d float64 leaf, so that it can differ between the runs of one program.

    float64 loses nothing and, being 0-d, does not widen the tensors it meets. A tensor passes unchecked, so a number may
    itself be under `vmap`.

    Raises:
        ValueError: `value` is not a finite number in [low, high]; `above` and `below` leave out the ends.
    """
    if isinstance(value, Tensor):
        return value.to(torch.float64)
    number = isinstance(value, Real) and not isinstance(value, bool)
    inside = number and math.isfinite(value) and low <= value <= high
    if not inside or (above and value == low) or (below and value == high):
        start, end = (
            "(" if above or math.isinf(low) else "[",
            ")" if below or math.isinf(high) else "]",
        )
        raise ValueError(
            f"{name} must be a number in {start}{low:g}, {high:g}{end}, given {value!r}"
        )
    return torch.tensor(float(value), dtype=torch.float64)
