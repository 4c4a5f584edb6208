"""Shrink and perturb: a wrapper that draws all weights towards 0 and adds noise, at each step or at
each new task.

    params <- (1 - shrink) * params + sigma * noise

| published form                       | every  | noise    | shrink     | sigma      | the inner algorithm's optimiser      |
|--------------------------------------|--------|----------|------------|------------|--------------------------------------|
| [1] at new data                      | `task` | `normal` | 1 - lambda | its sigma  | any                                  |
| [2] after each step                  | `step` | `normal` | 0          | its sigma  | sgd(lr, weight_decay=its decay)      |
| [3] after each step                  | `step` | `init`   | its shrink | its sigma  | any                                  |
| [4] with the gradient, at each step  | `step` | `normal` | 0          | lr * sigma | sgd(lr, weight_decay=its decay)      |

So sigma means three things: of the weights (`normal`), of a fresh network (`init`, the network
drawn anew), and of the gradient ([4], hence lr * sigma). It is a wrapper of algorithms, not a
transform of updates, because it acts on the parameters, whatever moved them, and between tasks no
update is under way. It moves every weight, so it refuses algorithms that hold some still.

[1] Ash & Adams 2020, arXiv:1910.08475   [2] Dohare et al. 2024, Nature 632   [3] Kumar et al. 2023,
arXiv:2308.11958
[4] Elsayed & Mahmood 2024, arXiv:2404.00781
"""

from typing import NamedTuple

import torch
from torch import Tensor

from clfunc import tree
from clfunc.compose import lift
from clfunc.random import fold_in, normal_like
from clfunc.settings import declares, of_part
from clfunc.types import (
    Algorithm,
    Batch,
    Key,
    Metrics,
    Number,
    Params,
    Scalar,
    State,
    Task,
    choice,
    scalar,
)

_NOISES = ("normal", "init")
_TIMES = ("task", "step")


class ShrinkState(NamedTuple):
    inner: State
    shrink: Scalar
    sigma: Scalar
    key: Key
    times: Tensor  # how often noise was added: steps, or tasks, so far


def shrink_and_perturb(
    inner: Algorithm,
    shrink: Number = 0.4,
    sigma: Number = 0.01,
    *,
    noise: str = "normal",
    every: str = "task",
) -> Algorithm:
    """`inner`, its parameters shrunk and perturbed at each `task` but the first, or after each
    `step`.

    Args:
        inner: Any algorithm but those that promise to leave weights alone (`hat`, `fix`) or record
            their moves (`amnesiac`).
        shrink: Share of each parameter taken off, in [0, 1]; 0 takes nothing off.
        sigma: Scale of the noise, >= 0; 0 adds none, and with shrink=0 this is `inner`.
        noise: `normal`, N(0, 1), or `init`, the parameters of a network drawn afresh (slow to
            compile at each step).
        every: `task` or `step`. A head that waits for its task is not touched.

    Raises:
        ValueError: A number out of its range, another noise or time, an `inner` that freezes
            weights or can unlearn.

    >>> from clfunc import finetuning, mlp, sgd, shrink_and_perturb, til
    >>> inner = finetuning(mlp(64, (16,), til(5, classes=10)), sgd(0.1))
    >>> algorithm = shrink_and_perturb(inner, shrink=0.4, sigma=0.01)
    """
    share = scalar(shrink, "shrink", 0, 1)
    scale = scalar(sigma, "sigma", 0)
    choice(noise, "noise", _NOISES)
    choice(every, "every", _TIMES)
    _check(inner)
    lifted = lift(inner)

    def init(key: Key) -> tuple[Params, ShrinkState]:
        params, state = inner.init(key)
        return params, ShrinkState(
            inner=state,
            shrink=share,
            sigma=scale,
            key=fold_in(key, 0),
            times=torch.zeros((), dtype=torch.int64, device=key.device),
        )

    def shaken(params: Params, state: ShrinkState) -> tuple[Params, ShrinkState]:
        if noise == "init":
            drawn = inner.init(fold_in(state.key, state.times))[0]
        else:
            drawn = normal_like(state.key, params, at=state.times)
        shrunk = tree.map(lambda p, n: (1 - state.shrink) * p + state.sigma * n, params, drawn)
        return shrunk, state._replace(times=state.times + 1)

    def step(
        params: Params, state: ShrinkState, batch: Batch
    ) -> tuple[Params, ShrinkState, Metrics]:
        params, state, metrics = lifted.step(params, state, batch)
        if every == "step":
            params, state = shaken(params, state)
        return params, state, metrics

    def begin_task(params: Params, state: ShrinkState, task: Task) -> tuple[Params, ShrinkState]:
        if every == "task":
            shrunk, after = shaken(params, state)
            params, state = tree.where(state.times > 0, shrunk, params), after
        return lifted.begin_task(params, state, task)

    settings = {
        "name": "shrink_and_perturb",
        "inner": of_part(inner, inner.step),
        "shrink": share,
        "sigma": scale,
        "noise": noise,
        "every": every,
    }
    return lifted._replace(init=init, step=step, begin_task=begin_task, settings=settings)


def _check(inner: Algorithm) -> None:
    """Raise ValueError for an algorithm whose promise noise would break."""
    freezing = declares(inner.settings, "freezes")
    if freezing is not None:
        raise ValueError(
            f"shrink_and_perturb moves every weight, and {freezing} freezes some: wrap another"
        )
    if inner.unlearn is not None:
        raise ValueError(
            "shrink_and_perturb moves what amnesiac would have no record of:"
            " wrap amnesiac around it"
        )
