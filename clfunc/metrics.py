"""Continual-learning metrics as pure functions of the accuracy array.

`acc[n, t]` is the accuracy on task t after training task n, `[trained, tested, *runs]`; only tested <= trained is read. Each
function returns one value for each trained task, `[trained, *runs]`, NaN where the definition has none. With n and N
counting tasks from 1, a[n, t] = acc[n - 1, t - 1]:

    average_accuracy[N]  = 1/N     sum_{t <= N} a[N, t]
    backward_transfer[N] = 1/(N-1) sum_{t < N}  a[N, t] - a[t, t]
    forgetting[N]        = 1/(N-1) sum_{t < N}  max_{t <= n < N} a[n, t] - a[N, t]
    forward_transfer[N]  = 1/(N-1) sum_{2 <= t <= N} a[t, t] - independent[t]
    forgetting_ratio[N]  = 1/N     sum_{t <= N} (a[N, t] - random[t]) / (joint[t] - random[t]) - 1

`compat="clarena"` gives the value where the reference framework prints one and NaN where it prints none: its backward
transfer starts at the third task, and its forgetting ratio has the last task's value only. Its accuracies are means of
batch means, which weigh the examples of a smaller last batch more; that is not reproduced.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Accuracy = Float[Tensor, "trained tested *runs"]
PerTask = Float[Tensor, "trained *runs"]
Compat = Literal["clarena"] | None


def average_accuracy(acc: Accuracy, *, compat: Compat = None) -> PerTask:
    """Mean accuracy over the tasks seen so far, in [0, 1]."""
    seen = _below(acc, 0)
    return torch.where(seen, acc, 0.0).sum(1) / seen.sum(1)


def backward_transfer(acc: Accuracy, *, compat: Compat = None) -> PerTask:
    """Mean change in accuracy on earlier tasks since each was trained, in [-1, 1]; below 0 is forgetting.

    Lopez-Paz & Ranzato 2017, arXiv:1706.08840. NaN for the first task.
    """
    change = acc - _diagonal(acc)
    value = _mean(change, _below(acc, -1))
    return _from(value, 2) if compat == "clarena" else value


def forgetting(acc: Accuracy) -> PerTask:
    """Mean drop from the best accuracy that an earlier task ever had, in [-1, 1].

    Chaudhry et al. 2018, arXiv:1801.10112, eq. 3. NaN for the first task.
    """
    allowed = _below(acc, 0)
    best = torch.where(allowed, acc, -torch.inf).cummax(0).values
    before = torch.cat([torch.full_like(best[:1], -torch.inf), best[:-1]])
    return _mean(before - acc, _below(acc, -1))


def forward_transfer(
    acc: Accuracy, independent: Float[Tensor, "tested *runs"], *, compat: Compat = None
) -> PerTask:
    """Mean gain on each task, when it was trained, over a network of its own, in [-1, 1].

    `independent[t]` is the accuracy of that network (`independent`'s diagonal). The first task has nothing to transfer
    from and is left out; NaN for it. Lopez-Paz & Ranzato 2017, with the independent network for the untrained one.
    """
    gain = (_diagonal(acc)[0] - independent)[None].expand(acc.shape).clone()
    counted = _below(acc, 0)
    counted[:, 0] = False
    return _mean(gain, counted)


def forgetting_ratio(
    acc: Accuracy,
    joint: Float[Tensor, "tested *runs"],
    random: Float[Tensor, "tested *runs"],
    *,
    compat: Compat = None,
) -> PerTask:
    """0 where joint training is matched, -1 at the level of an untrained network. Serra et al. 2018, arXiv:1801.01423.

    `joint[t]`, `random[t]`: accuracy on task t of `joint` and of `random`. The paper's joint is trained on the first N
    tasks only; give one trained on all, as the reference framework does, or the paper's, one N at a time.
    """
    value = _mean((acc - random) / (joint - random), _below(acc, 0)) - 1
    return _from(value, len(value) - 1) if compat == "clarena" else value


def _below(acc: Accuracy, offset: int) -> Tensor:
    """Bool like `acc`: tested <= trained + offset."""
    trained, tested = (torch.arange(n, device=acc.device) for n in acc.shape[:2])
    inside = tested <= trained[:, None] + offset
    return inside.reshape(inside.shape + (1,) * (acc.ndim - 2)).expand(acc.shape).clone()


def _diagonal(acc: Accuracy) -> Tensor:
    """`acc[t, t]` as `[1, tested, *runs]`; NaN where no such task was trained."""
    found = torch.full_like(acc[:1], torch.nan)
    for task in range(min(acc.shape[:2])):
        found[0, task] = acc[task, task]
    return found


def _mean(values: Tensor, counted: Tensor) -> PerTask:
    """Mean over tested of the entries counted; NaN (0 / 0) where there are none."""
    return torch.where(counted, values, 0.0).sum(1) / counted.sum(1)


def _from(values: PerTask, first: int) -> PerTask:
    """NaN before row `first`."""
    kept = values.clone()
    kept[:first] = torch.nan
    return kept
