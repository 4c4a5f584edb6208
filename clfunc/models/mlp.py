"""A multi-layer perceptron of any depth, widths and activation, with its wires."""

import math
from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor

from clfunc.models.heads import settings_of
from clfunc.models.layers import (
    activation_named,
    check_rate,
    check_widths,
    compute_dtype_named,
    crelu,
    dropout,
    gain_of,
    gated,
    head_wire,
    layer_wires,
    weighted,
)
from clfunc.models.norms import drawing, norm_wires, normalised, of_task, owning_head
from clfunc.types import Head, Inputs, InputSpec, Key, Model, Output, Params, TaskId, Wire


def mlp(
    inputs: int | Sequence[int],
    hidden: Sequence[int],
    head: Head,
    *,
    activation: str = "relu",
    norm: str | None = None,
    per_task_norm: bool = False,
    weight_init: str = "torch",
    dropout_rate: float = 0.0,
    dtype: torch.dtype | None = None,
    compute_dtype: str | None = None,
) -> Model:
    """Hidden layers `hidden1`, `hidden2`, ..., each linear, norm, activation, gate, dropout; then
    the head.

    Args:
        inputs: Number of inputs, or their shape, which is flattened.
        hidden: Width of each hidden layer; at least one.
        head: From `clfunc.models.heads`; its state belongs to the algorithm.
        activation: One of `clfunc.models.layers.activations`, or `crelu` [1]: a unit gives relu(h)
            and relu(-h), so its features are `[batch, units, 2]` and the next layer has twice the
            inputs, a unit's two side by side.
        norm: `layer`, over the units of each hidden layer; None for none. See
            `clfunc.models.norms`.
        per_task_norm: Each task has gains and biases of its own.
        weight_init: Hidden layers start as `torch.nn.Linear` does, weights and biases
            U(-1/sqrt(fan_in), 1/sqrt(fan_in)), or from Kaiming's uniform distribution for the
            activation with biases 0 (`kaiming`). The head starts as torch's.
        dropout_rate: Share of hidden units dropped in training, in [0, 1); 0 drops none.
        dtype: Of the parameters, and so of the computation; torch's default if not given.
        compute_dtype: `bfloat16` multiplies the hidden layers' weights in it, and leaves all else
            (parameters, gates, norms, the head) in `dtype`; None multiplies in `dtype` too.

    [1] Abbas et al. 2023, arXiv:2303.07507; Shang et al. 2016, arXiv:1603.05201, who lay out all
    relu(h), then all relu(-h)

    Raises:
        ValueError: No hidden layer, a width below 1, an unknown activation, norm or compute_dtype,
            a rate out of range.

    >>> from clfunc import mlp, random, til
    >>> model = mlp(64, (32, 16), til(5, classes=10))
    >>> list(model.init(random.key(0)))
    ['hidden1', 'hidden2', 'head']
    """
    act = activation_named(activation, {"crelu": crelu})
    spread = 2 if activation == "crelu" else 1
    gain = gain_of(weight_init, activation)
    check_widths("hidden", hidden)
    check_rate(dropout_rate)
    head = owning_head(head, norm, per_task_norm, ("layer",))
    dtype = dtype or torch.get_default_dtype()
    products = compute_dtype_named(compute_dtype)
    fan_in = inputs if isinstance(inputs, int) else math.prod(inputs)
    units = {f"hidden{i}": width for i, width in enumerate(hidden, 1)}
    shapes = _shapes(units, fan_in, spread)

    settings = {
        "name": "mlp",
        "inputs": fan_in,
        "hidden": list(hidden),
        "activation": activation,
        "norm": norm,
        "per_task_norm": per_task_norm,
        "weight_init": weight_init,
        "dropout_rate": dropout_rate,
        "dtype": str(dtype),
        "compute_dtype": compute_dtype,
        "head": settings_of(head),
    }
    return Model(
        init=drawing(shapes, norm, head, spread * hidden[-1], dtype, gain),
        apply=_forward(units, head, act, products, dropout_rate),
        wires=_wires(shapes, head, spread, gain)
        + norm_wires(norm, {name: name for name in units}, head),
        units=units,
        head=head,
        stochastic=dropout_rate > 0,
        settings=settings,
        inputs=InputSpec((fan_in,), dtype),
    )


def _shapes(units: dict[str, int], fan_in: int, spread: int) -> dict[str, tuple[int, int]]:
    """The shape of each layer's weight, where a unit gives `spread` numbers."""
    shapes = {}
    for name, width in units.items():
        shapes[name] = (width, fan_in)
        fan_in = spread * width
    return shapes


def _forward(
    units: dict[str, int],
    head: Head,
    act: Callable[[Tensor], Tensor],
    products: torch.dtype | None,
    dropout_rate: float,
) -> Callable[..., Output]:
    """The `apply` of an mlp."""

    def apply(
        params: Params,
        x: Inputs,
        task: TaskId,
        *,
        gates: dict[str, Tensor] | None = None,
        gate_position: str = "post_act",
        key: Key | None = None,
    ) -> Output:
        params = of_task(head, params, task)
        features: dict[str, Tensor] = {}
        h = rearrange(x, "batch ... -> batch (...)").to(params["head"]["weight"].dtype)
        for layer, name in enumerate(units):
            gate = None if gates is None else gates[name]
            h = weighted(h, params[name], products)
            h = normalised(params, name, h, gate)
            features[name] = gated(act, h, gate, gate_position)
            h = rearrange(features[name], "batch ... -> batch (...)")
            h = dropout(h, dropout_rate, key, layer)
        return Output(head.apply(params["head"], h, task), features)

    return apply


def _wires(
    shapes: dict[str, tuple[int, int]], head: Head, spread: int, gain: float | None
) -> tuple[Wire, ...]:
    """Wires of all layers, one after the other, and of the head."""
    wires: list[Wire] = []
    pre = None
    width = 0
    for name, shape in shapes.items():
        wires += layer_wires(name, pre, name, shape, spread if pre else 1, gain, linear=True)
        pre = name
        width = shape[0]
    return (*wires, head_wire(head, str(pre), width, spread))
