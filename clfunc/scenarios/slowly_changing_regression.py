"""Slowly changing regression: a network of threshold units to be imitated, on inputs of which most bits hardly ever change.

An input is `slow` bits, of which one flips from each task to the next, and bits drawn anew for each example. The target is

    y = sum_i v_i [w_i . x + b_i >= beta (inputs + 1) - s_i] + c

with all weights drawn from {-1, +1} and s_i = (inputs - sum_j w_ij + b_i) / 2 (Dohare et al. 2024, Nature 632, Methods;
https://doi.org/10.1038/s41586-024-07711-7; the text has s_i count the -1 among the weights, which is the code's s_i but for
half the bias: the code made the figures). One pass in batches of one is what the paper runs: a learner must keep adapting.

Within a task the target sees 2^(inputs - slow) different inputs, so a task is a table of them and a list of rows of it.
"""

import torch
from torch import Tensor

from clfunc.random import bits, fold_in, randint
from clfunc.scenarios.base import Examples, Scenario, Stream, View, per_run
from clfunc.types import Key, Keys, choice


def slowly_changing_regression(
    num_tasks: int,
    key: Keys,
    *,
    inputs: int = 20,
    slow: int = 15,
    period: int = 10_000,
    features: int = 100,
    beta: float = 0.7,
    flip: str = "one",
) -> Scenario:
    """A stream of `num_tasks` tasks, which differ in one slow bit from each to the next.

    Args:
        num_tasks: >= 1.
        key: `[2]`, or `[runs, 2]` for a target and a stream of each run's own.
        inputs: Bits of an input.
        slow: Those that change between tasks only; at most 12 may be left to change within.
        period: Examples of a task, >= 1.
        features: Threshold units of the target, >= 1.
        beta: Share of the weights that must agree for a unit to fire, in [0, 1].
        flip: `one` slow bit flips from task to task, or `all` are drawn anew.

    Raises:
        ValueError: A number out of range.
    """
    most = {"inputs": 10**4, "period": 10**8, "features": 10**4}
    for name, number in (
        ("tasks", num_tasks),
        ("inputs", inputs),
        ("period", period),
        ("features", features),
    ):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, given {number}")
        if number > most.get(name, number) or not isinstance(number, int):
            raise ValueError(
                f"{name} must be a whole number of at most {most.get(name)}, given {number}"
            )
    if not max(0, inputs - 12) <= slow <= inputs:
        raise ValueError(
            f"slow must be in {max(0, inputs - 12)}..{inputs} for {inputs} inputs, given {slow}"
        )
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], given {beta}")
    choice(flip, "flip", ("one", "all"))
    fast = inputs - slow

    def make(key: Key, task: int) -> Stream:
        patterns = torch.arange(2**fast, device=key.device)
        quick = (patterns[:, None] >> torch.arange(fast, device=key.device)) & 1
        slowly = _slow_bits(fold_in(key, 1), task, num_tasks, slow, flip)
        x = torch.cat([slowly.expand(2**fast, slow), quick], 1).to(torch.float32)
        drawn = bits(fold_in(key, 2, task), (period,)) % 2**fast
        view = {
            "x": x,
            "y": _target(fold_in(key, 0), x, features, beta),
            "rows": torch.cat([drawn, patterns]),
        }
        rows = torch.arange(period + 2**fast, device=key.device)
        sizes = torch.tensor([period, 0, 2**fast], device=key.device)
        return Stream(
            torch.tensor(task, device=key.device),
            view,
            rows[:period],
            rows[:0],
            rows[period:],
            sizes,
        )

    def view_of(view: View, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        rows = view["rows"][x]
        return view["x"][rows], view["y"][rows]

    stream, runs = per_run(make, key)
    rows = torch.arange(period + 2**fast, device=key.device)
    settings = {
        "name": "slowly_changing_regression",
        "inputs": inputs,
        "slow": slow,
        "period": period,
    }
    settings |= {"features": features, "beta": beta, "flip": flip}
    return Scenario(
        "slowly_changing_regression", "bits", "regression", num_tasks, (1,) * num_tasks, (inputs,), Examples(rows, rows),
        stream, stream, view_of, tuple(range(1, num_tasks + 1)), runs=runs, settings=settings,
    )  # fmt: skip


def _slow_bits(key: Key, task: int, num_tasks: int, slow: int, flip: str) -> Tensor:
    """The slow bits of a task, `[slow]`."""
    if flip == "all":
        return randint(fold_in(key, task), (slow,), 0, 2)
    chosen = randint(fold_in(key, num_tasks), (num_tasks,), 0, max(slow, 1))[:task]
    flips = (chosen[:, None] == torch.arange(slow, device=key.device)).sum(0)
    return (randint(fold_in(key, 0), (slow,), 0, 2) + flips) % 2


def _target(key: Key, x: Tensor, features: int, beta: float) -> Tensor:
    """The target's outputs `[rows, 1]`."""
    inputs = x.shape[1]

    def signs(at: int, *shape: int) -> Tensor:
        return (2 * randint(fold_in(key, at), shape, 0, 2) - 1).to(x.dtype)

    weight, bias = signs(0, features, inputs), signs(1, features)
    negative = (inputs - weight.sum(1) + bias) / 2
    fires = (x @ weight.T + bias >= beta * (inputs + 1) - negative).to(x.dtype)
    return fires @ signs(2, features, 1) + signs(3, 1)
