"""Continual-learning metrics as pure functions of the accuracy array.

`acc[n, t]` is the accuracy on task t after training task n, `[trained, tested, *runs]`; only
entries with t <= n are read. Each function returns one value for each trained task,
`[trained, *runs]`, and NaN if the definition has no value. In these equations n, t and N count
tasks from 1, so a[n, t] = acc[n - 1, t - 1]:

    average_accuracy[N]  = 1/N     sum_{t <= N} a[N, t]
    backward_transfer[N] = 1/(N-1) sum_{t < N}  a[N, t] - a[t, t]
    forgetting[N]        = 1/(N-1) sum_{t < N}  max_{t <= n < N} a[n, t] - a[N, t]
    forward_transfer[N]  = 1/(N-1) sum_{2 <= t <= N} a[t, t] - independent[t]
    forgetting_ratio[N]  = 1/N     sum_{t <= N} (a[N, t] - random[t]) / (joint[t] - random[t]) - 1

`compat="clarena"` gives the values that the reference framework prints, and NaN in place of all
others: its backward transfer starts at the third task, and its forgetting ratio has the last task's
value only. Its accuracies are means of batch means, which weigh the examples of a smaller last
batch more; this is not reproduced.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Accuracy = Float[Tensor, "trained tested *runs"]
PerTask = Float[Tensor, "trained *runs"]
Compat = Literal["clarena"] | None


def average_accuracy(acc: Accuracy, *, compat: Compat = None) -> PerTask:
    """The mean accuracy over the tasks seen so far, in [0, 1].

    Args:
        acc: Accuracies in [0, 1], `[trained, tested, *runs]`.
        compat: `clarena` or None, which give the same here.

    >>> average_accuracy(torch.tensor([[1.0, torch.nan], [0.5, 1.0]]))
    tensor([1.0000, 0.7500])
    """
    seen = _below(acc, 0)
    return torch.where(seen, acc, 0.0).sum(1) / seen.sum(1)


def backward_transfer(acc: Accuracy, *, compat: Compat = None) -> PerTask:
    """The mean change in accuracy on earlier tasks since each was trained, in [-1, 1].

    Below 0 is forgetting. Lopez-Paz & Ranzato 2017, arXiv:1706.08840.

    Args:
        acc: Accuracies in [0, 1], `[trained, tested, *runs]`.
        compat: `clarena` gives NaN for the second task too.

    Returns:
        One value a trained task; NaN for the first.

    >>> backward_transfer(torch.tensor([[1.0, torch.nan], [0.5, 1.0]]))
    tensor([    nan, -0.5000])
    """
    change = acc - _diagonal(acc)
    value = _mean(change, _below(acc, -1))
    return _from(value, 2) if compat == "clarena" else value


def forgetting(acc: Accuracy) -> PerTask:
    """The mean drop from the best accuracy that an earlier task ever had, in [-1, 1].

    Chaudhry et al. 2018, arXiv:1801.10112, eq. 3.

    Args:
        acc: Accuracies in [0, 1], `[trained, tested, *runs]`.

    Returns:
        One value a trained task; NaN for the first.

    >>> forgetting(torch.tensor([[1.0, torch.nan], [0.5, 1.0]]))
    tensor([   nan, 0.5000])
    """
    allowed = _below(acc, 0)
    best = torch.where(allowed, acc, -torch.inf).cummax(0).values
    before = torch.cat([torch.full_like(best[:1], -torch.inf), best[:-1]])
    return _mean(before - acc, _below(acc, -1))


def forward_transfer(
    acc: Accuracy,
    independent: Float[Tensor, "tested *runs"],
    *,
    compat: Compat = None,
) -> PerTask:
    """The mean gain on each task, when it was trained, over a network of its own, in [-1, 1].

    The first task has nothing to transfer from and is left out. Lopez-Paz & Ranzato 2017, with the
    independent network in place of the untrained one.

    Args:
        acc: Accuracies in [0, 1], `[trained, tested, *runs]`.
        independent: The accuracy on each task of a network that trains on this task alone: the
            diagonal of the accuracies of `clfunc.independent`.
        compat: `clarena` or None, which give the same here.

    Returns:
        One value a trained task; NaN for the first.

    >>> acc = torch.tensor([[1.0, torch.nan], [0.5, 1.0]])
    >>> forward_transfer(acc, torch.tensor([0.9, 0.75]))
    tensor([   nan, 0.2500])
    """
    gain = (_diagonal(acc)[0] - independent)[None].expand(acc.shape)
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
    """0 if joint training is matched, -1 at the level of an untrained network.

    Serra et al. 2018, arXiv:1801.01423.

    Args:
        acc: Accuracies in [0, 1], `[trained, tested, *runs]`.
        joint: The accuracy on each task of joint training. The paper trains it on the first N
            tasks only, which needs a call for each N; the reference framework trains it on all.
        random: The accuracy on each task of an untrained network.
        compat: `clarena` gives NaN for all tasks but the last.

    >>> acc = torch.tensor([[1.0, torch.nan], [0.5, 1.0]])
    >>> forgetting_ratio(acc, torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0]))
    tensor([ 0.0000, -0.2500])
    """
    share = (acc - random) / (joint - random)
    value = _mean(share, _below(acc, 0)) - 1
    return _from(value, len(value) - 1) if compat == "clarena" else value


def _below(acc: Accuracy, offset: int) -> Tensor:
    """Bool like `acc`: tested <= trained + offset."""
    trained = torch.arange(acc.shape[0], device=acc.device)
    tested = torch.arange(acc.shape[1], device=acc.device)
    inside = tested <= trained[:, None] + offset
    return inside.reshape(inside.shape + (1,) * (acc.ndim - 2)).expand(acc.shape).clone()


def _diagonal(acc: Accuracy) -> Tensor:
    """`acc[t, t]` as `[1, tested, *runs]`; NaN for a task that was not trained."""
    found = torch.full_like(acc[:1], torch.nan)
    for task in range(min(acc.shape[:2])):
        found[0, task] = acc[task, task]
    return found


def _mean(values: Tensor, counted: Tensor) -> PerTask:
    """The mean over the tested tasks that are counted; NaN, which is 0 / 0, if none is."""
    return torch.where(counted, values, 0.0).sum(1) / counted.sum(1)


def _from(values: PerTask, first: int) -> PerTask:
    """NaN before row `first`."""
    kept = values.clone()
    kept[:first] = torch.nan
    return kept
