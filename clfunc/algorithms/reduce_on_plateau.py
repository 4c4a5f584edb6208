"""Reduce on plateau: a wrapper that lowers the learning rate when the validation loss stops falling
(the training loss, in a run without a validation split).

    if loss < best * (1 - threshold): best, waited = loss, 0      else: waited += 1
    if waited > patience:             lr, waited = max(lr * factor, floor), 0

As `torch.optim.lr_scheduler.ReduceLROnPlateau`. It scales every leaf of the inner state that is
named `lr`, so it works on any algorithm with any optimiser, and run by run in a sweep. Each task
starts again from the first rate.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.compose import lift
from clfunc.settings import of_part
from clfunc.types import Algorithm, Key, Metrics, Number, Params, Scalar, State, Task, scalar


class PlateauState(NamedTuple):
    inner: State
    first: dict[str, Scalar]  # the rates that a task starts from
    factor: Scalar
    patience: Scalar
    floor: Scalar
    threshold: Scalar
    best: Scalar
    waited: Scalar


def reduce_on_plateau(
    inner: Algorithm,
    factor: Number = 0.1,
    patience: Number = 10,
    *,
    floor: Number = 0.0,
    threshold: Number = 1e-4,
) -> Algorithm:
    """`inner`, its rates multiplied by `factor` when the validation loss has not improved for more
    than `patience` epochs.

    Args:
        inner: Any algorithm whose state has leaves named `lr`.
        factor: In (0, 1]; 1 changes nothing.
        patience: Epochs without improvement to let pass, >= 0.
        floor: Smallest rate, >= 0.
        threshold: Share of the best loss that counts as an improvement, in [0, 1).

    Raises:
        ValueError: A number out of its range.

    >>> from clfunc import finetuning, mlp, reduce_on_plateau, sgd, til
    >>> inner = finetuning(mlp(64, (16,), til(5, classes=10)), sgd(0.1))
    >>> algorithm = reduce_on_plateau(inner, factor=0.5, patience=3)
    """
    shrink = scalar(factor, "factor", 1e-12, 1)
    wait = scalar(patience, "patience", 0)
    least = scalar(floor, "floor", 0)
    margin = scalar(threshold, "threshold", 0, 1, below=True)
    lifted = lift(inner)

    def init(key: Key) -> tuple[Params, PlateauState]:
        params, state = inner.init(key)
        best = torch.full((), torch.inf, dtype=torch.float64, device=key.device)
        return params, PlateauState(
            inner=state,
            first=_rates(state),
            factor=shrink,
            patience=wait,
            floor=least,
            threshold=margin,
            best=best,
            waited=torch.zeros_like(best),
        )

    def begin_task(params: Params, state: PlateauState, task: Task) -> tuple[Params, PlateauState]:
        params, state = lifted.begin_task(params, state, task)
        new = tree.map_items(lambda name, leaf: state.first.get(name, leaf), state.inner)
        return params, state._replace(
            inner=new,
            best=torch.full_like(state.best, torch.inf),
            waited=torch.zeros_like(state.waited),
        )

    def end_epoch(
        params: Params, state: PlateauState, metrics: Metrics
    ) -> tuple[Params, PlateauState]:
        params, state = lifted.end_epoch(params, state, metrics)
        return params, _waited(state, metrics["loss"].to(torch.float64))

    settings = {
        "name": "reduce_on_plateau",
        "inner": of_part(inner, inner.step),
        "factor": shrink,
        "patience": wait,
        "floor": least,
        "threshold": margin,
    }
    return lifted._replace(init=init, begin_task=begin_task, end_epoch=end_epoch, settings=settings)


def _waited(state: PlateauState, loss: Scalar) -> PlateauState:
    """The state after an epoch with this loss: its rates are lower where it has waited for too
    long.
    """
    better = loss < state.best * (1 - state.threshold)
    waited = torch.where(better, 0.0, state.waited + 1)
    drop = waited > state.patience

    def lower(name: str, leaf: Tensor) -> Tensor:
        if name not in state.first:
            return leaf
        # a rate that starts below the floor stays where it is
        lowered = torch.maximum(leaf * state.factor, torch.minimum(leaf, state.floor))
        return torch.where(drop, lowered, leaf)

    return state._replace(
        inner=tree.map_items(lower, state.inner),
        best=torch.where(better, loss, state.best),
        waited=torch.where(drop, 0.0, waited),
    )


def _rates(state: State) -> dict[str, Scalar]:
    """The leaves of a state that are named `lr`, by dotted name."""
    return {name: leaf for name, leaf in tree.items(state) if name.split(".")[-1] == "lr"}
