"""The nouns. Everything in clfunc is one of these, or a pure function between them.

An algorithm is a step, `(params, state, batch) -> (params, state, metrics)`; a transform rewrites
updates; a run is a scan of steps; a sweep is a run whose state has one more axis.
"""

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from clfunc import tree

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
    notes: dict[str, Tensor] = {}  # what a memory noted beside each example, [batch, ...]


class Task(NamedTuple):
    """A task as `begin_task` gets it."""

    id: Int[Tensor, ""]
    steps_per_epoch: Int[Tensor, ""]
    epochs: Int[Tensor, ""]


class Output(NamedTuple):
    """What a model computes.

    `features` are post-activation, one entry per unit group, in forward order.
    """

    logits: Float[Tensor, "batch classes"]
    features: dict[str, Tensor]
    # by unit group, [units] or [batch, units]: what units were multiplied by; set by who gated
    gates: dict[str, Tensor] = {}
    statistics: dict[str, Tensor] = {}  # what a norm with running statistics saw

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
    linear: bool = False  # the layer is weight @ flat features of `pre` (or flat input) + bias


def keep_state(state: State, *_: Any) -> State:
    """A hook of a transform or a term that changes nothing."""
    return state


def keep(params: Params, state: State, *_: Any) -> tuple[Params, State]:
    """A hook of an algorithm or a bank that changes nothing."""
    return params, state


def no_metrics(_: State) -> Metrics:
    """The metrics of a transform that measures nothing."""
    return {}


def follows_nothing(state: State) -> Any:
    """A transform's `follows` where no leaf of its state follows a parameter."""
    return tree.map(lambda _: "", state)


def no_rows(params: Params, state: State) -> Params:
    """The rows of a bank that keeps nothing."""
    return {}


def same_params(params: Params, state: State, task: TaskId) -> Params:
    """The lookup of a bank that keeps nothing."""
    return params


class Bank(NamedTuple):
    """What each task has for itself: one row a task.

    The row of the task that trains is in `params`, and the others are in the bank's state `s`.
    `clfunc.bank` makes banks.
    """

    # (key, params) -> s
    init: Callable[[Key, Params], State]
    # (params, s, task) -> params with the row of the task, and the new s
    begin_task: Callable[[Params, State, Tensor], tuple[Params, State]] = keep
    # (params, s) -> params, and s with the row of the task that ends
    end_task: Callable[[Params, State], tuple[Params, State]] = keep
    # (params, s, task) -> params with the row of the task, which may be any task
    lookup: Callable[[Params, State, TaskId], Params] = same_params
    # (params, s) -> rows of all tasks by group, leaves [tasks, ...]
    rows: Callable[[Params, State], Params] = no_rows
    # (params, s, rows, forgotten: Bool[tasks]) -> params and s with `rows` in their place, and
    # the forgotten tasks as if they had not been trained
    restore: Callable[[Params, State, Params, Tensor], tuple[Params, State]] = keep
    # top-level names in params; None for all of them
    groups: tuple[str, ...] | None = ()


class HeadSpec(NamedTuple):
    """What a head is: static."""

    paradigm: str
    classes: tuple[int, ...]  # of each task; outputs of each task for regression
    width: int  # of the logits: the largest class count, or all classes in CIL
    together: bool = False  # a batch may mix tasks: no group of the params is parked
    rows: tuple[str, ...] = ()  # groups of params that have a row for each task, [tasks, ...]


class Head(NamedTuple):
    """The last layer, and what it owes to the task: which head trains, where the others wait, which
    classes count.

    The working head lives in `params["head"]`. The heads that wait and the classes seen are the
    state of its `bank`.
    """

    spec: HeadSpec
    # (key, units, dtype) -> working head
    init: Callable[..., Params]
    # (working head, last features, task) -> logits
    apply: Callable[[Params, Tensor, TaskId], Logits]
    # (state, logits, task) -> logits with -inf where a class is not the task's, or not yet seen
    mask: Callable[[State, Logits, TaskId], Logits]
    # (logits, y, weight) -> 0-d: the loss that the head is trained by
    loss: Callable[..., Tensor]
    # (logits, y, weight) -> metrics of their quality, such as the accuracy
    measure: Callable[..., Metrics]
    bank: Bank
    settings: Settings = {}

    @property
    def paradigm(self) -> str:
        """`til`, `cil`, `dil`, `mtl`, `stl` or `regression`."""
        return self.spec.paradigm

    @property
    def num_tasks(self) -> int:
        """The number of tasks that the head serves."""
        return len(self.spec.classes)

    @property
    def classes(self) -> int:
        """The width of the logits."""
        return self.spec.width

    @property
    def owns(self) -> tuple[str, ...]:
        """The groups of params that each task has for itself, and that wait in the bank."""
        return self.bank.groups or ()

    @property
    def per_task(self) -> tuple[str, ...]:
        """The groups of params that each task has for itself, parked or side by side."""
        return (*self.owns, *self.spec.rows)


class InputSpec(NamedTuple):
    """The shape and dtype of one example, as a model takes it. Static."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


class Model(NamedTuple):
    """A network as two pure functions and the tables that describe it."""

    # a flat dict of groups; algorithms add top-level keys beside them, never nest
    init: Callable[[Key], Params]
    # (params, x, task, *, gates, gate_position, key); key given = training (dropout)
    apply: Callable[..., Output]
    wires: tuple[Wire, ...]
    units: dict[str, int]  # unit group -> width, in forward order
    head: Head
    stochastic: bool = (
        False  # True where apply draws random numbers in training, so a step must hand it a key
    )
    settings: Settings = {}
    inputs: InputSpec | None = None  # what a memory stores; None: the model cannot have one


class Memory(NamedTuple):
    """Remembered examples, in static shapes. It changes no step by itself: terms and transforms
    read it.
    """

    # (key, blank: a Batch of one row of zeros) -> s
    init: Callable[[Key, Batch], State]
    # (s, batch) -> s, after each step; x as stored, task [n], rows [n] or (), notes
    add: Callable[[State, Batch], State]
    # (s) -> Batch [capacity, ...]; weight 0 where a slot is empty
    rows: Callable[[State], Batch]
    # (s, forgotten: Bool[tasks]) -> s without the examples of these tasks
    forget: Callable[[State, Tensor], State] | None = None
    settings: Settings = {}  # `capacity`, and what decides which examples are kept


class Term(NamedTuple):
    """Adds to what a step minimises, and owns what it must know for that. It never moves a
    parameter. It sees only the groups of params that tasks share.
    """

    name: str  # its metric, unique in an algorithm; its settings are keyed by it
    # (key, params, model) -> s
    init: Callable[[Key, Params, Model], State]
    # (s, params, context) -> 0-d, of what the network puts out; it is differentiated
    loss: "Callable[[State, Params, Context], Scalar] | None" = None
    # (s, params) -> 0-d, of the parameters alone; it is differentiated apart
    penalty: Callable[[State, Params], Scalar] | None = None
    # (s, params, task) -> s
    begin_task: Callable[..., State] = keep_state
    # (s, before, after, gradient, context) -> s; `after` is what the step made of `before`, and
    # `gradient` is of everything but the penalties
    after_step: "Callable[[State, Params, Params, Params, Context], State] | None" = None
    # (s, params, context) -> s, for each batch of the review of a task
    review: "Callable[[State, Params, Context], State] | None" = None
    # (s, params) -> s
    end_task: Callable[..., State] = keep_state
    # (s, forgotten: Bool[tasks]) -> s as if these tasks had taught it nothing
    forget: Callable[[State, Tensor], State] | None = None
    settings: Settings = {}


_UNKNOWN: Any = ()  # an entry of a context that was made by hand, or for a review


def _absent(name: str) -> Callable[..., Any]:
    """The function `name` of a context that was made by hand."""

    def absent(*_: Any, **__: Any) -> Any:
        raise ValueError(f"this context has no {name}: only a step of an algorithm gives one")

    return absent


class Context(NamedTuple):
    """What a step knows that a transform or a term may need.

    An entry that nobody uses costs nothing. In the `loss` of a term, `output` and `value` are
    differentiated; elsewhere they are detached, and in a review `value` is ().
    """

    features: dict[str, Tensor]
    task: Int[Tensor, "*batch"]
    used: dict[str, Tensor]  # [units]: 1 where earlier tasks own the unit, zeros where none masks
    claims: dict[str, Tensor] = {}  # [units]: how many earlier tasks use the unit; zeros likewise
    # [units] or [batch, units]: what the unit's output was multiplied by; ones where nothing gates
    gates: dict[str, Tensor] = {}
    batch: Batch = _UNKNOWN
    output: Output = _UNKNOWN
    value: Tensor = _UNKNOWN  # the batch's own loss, without regularisers
    # (params, batch) -> Output: the network as the algorithm runs it, each example under its own
    # task's gates and head
    forward: Callable[..., Output] = _absent("forward")
    # (params, batch) -> logits, -inf where a class does not count
    logits: Callable[..., Tensor] = _absent("logits")
    # (params, batch) -> 0-d: the weighted mean of the examples' losses
    loss: Callable[..., Tensor] = _absent("loss")
    # (batch) -> the gradient of `loss` at the step's params, without dropout
    gradient: Callable[[Batch], Params] = _absent("gradient")
    # (key, n, earlier=False) -> Batch of n examples from the memory, without replacement; weight 0
    # where there is none. `earlier` leaves out the batch's own task
    draw: Callable[..., Batch] = _absent("memory to draw from")
    remembered: Callable[[], Batch] = _absent("memory")  # () -> all of the memory
    wires: tuple[Wire, ...] = ()  # the model's


class Transform(NamedTuple):
    """Rewrites updates, and owns the state that it needs to do so (optax's protocol, the context
    always passed).
    """

    init: Callable[[Key, Params], State]
    update: Callable[[Updates, State, Params, Context], tuple[Updates, State]]
    begin_task: Callable[[State, Params], State] = keep_state
    settings: Settings = {}
    # () -> the same transform with its counts kept element by element (Adam's steps), for a
    # wrapper that resets single units; None where there is nothing to count
    per_element: "Callable[[], Transform] | None" = None
    # (state) -> a tree of the state's structure; each leaf is the dotted name of the parameter
    # that it follows ("hidden1.weight"), or "" where it follows none. A leaf that follows a
    # parameter has its shape, and is cleared where that is reset or belongs to another task
    follows: Callable[[State], Any] = follows_nothing
    # (state, params, context) -> state, for each batch of the review of a task
    review: Callable[[State, Params, Context], State] | None = None
    # (state, params) -> state
    end_task: Callable[[State, Params], State] = keep_state
    # (state) -> what the last update is measured by, 0-d
    metrics: Callable[[State], Metrics] = no_metrics


class Algorithm(NamedTuple):
    """A continual-learning method: a pure step, and what happens between tasks and epochs."""

    init: Callable[[Key], tuple[Params, State]]
    step: Callable[[Params, State, Batch], tuple[Params, State, Metrics]]
    predict: Callable[[Params, State, Inputs, TaskId], Logits]
    begin_task: Callable[[Params, State, Task], tuple[Params, State]] = keep
    # the metrics are of the validation part, or of training where there is none
    end_epoch: Callable[[Params, State, Metrics], tuple[Params, State]] = keep
    # (params, state, batch) -> state. After a task's last epoch every example of the task is shown
    # once, and a review cannot move a parameter; None where nothing looks
    review: Callable[[Params, State, Batch], State] | None = None
    end_task: Callable[[Params, State], tuple[Params, State]] = keep
    probe: Callable[[Params, State, Batch], dict[str, Tensor]] | None = None
    # (params, state, forgotten: Bool[tasks + forget sets]) -> params and state without them
    unlearn: Callable[[Params, State, Tensor], tuple[Params, State]] | None = None
    settings: Settings = {}
    # the input of the head in `predict`, [batch, units]
    features: Callable[[Params, State, Inputs, TaskId], Tensor] | None = None
    # what each task has for itself; acts on the whole state of the algorithm; None where tasks
    # share all
    bank: Bank | None = None


def choice(value: str, name: str, options: Iterable[str]) -> str:
    """`value`, if it is one of the options; ValueError lists those there are."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(options)}, given {value!r}")
    return value


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

    float64 loses nothing and, being 0-d, does not widen the tensors it meets. A tensor passes
    unchecked, so a number may itself be under `vmap`.

    Raises:
        ValueError: `value` is not a finite number in [low, high]; `above` and `below` leave out the
            ends.
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
