"""Slowly changing regression: a learner imitates a network of threshold units.

Most bits of the inputs change only from task to task. An input has `slow` bits, of which one flips
from each task to the next; its other bits are drawn anew for each example. The target is

    y = sum_i v_i [w_i . x + b_i >= beta (inputs + 1) - s_i] + c

with all weights drawn from {-1, +1} and s_i = (inputs - sum_j w_ij + b_i) / 2 (Dohare et al. 2024,
Nature 632, Methods; https://doi.org/10.1038/s41586-024-07711-7). In the text of the paper, s_i
counts the weights that are -1; in its code, which made the figures, s_i differs from that by half
the bias, as it does here. The paper runs one pass in batches of one: a learner must keep adapting.

Within a task the target sees 2^(inputs - slow) different inputs, so a task is a table of them and a
list of rows of that table.
"""

import torch
from torch import Tensor

from clfunc.random import bits, fold_in, randint
from clfunc.scenarios.base import Examples, Scenario, Stream, ViewTables, streams_of_keys
from clfunc.types import Key, Keys, choice

_MOST_FAST_BITS = 12  # a task has a table of 2^12 inputs at most
_MOST = {"inputs": 10**4, "period": 10**8, "features": 10**4}


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
    """`num_tasks` tasks, each of which differs from the one before in one slow bit.

    The defaults are those of Dohare et al. 2024.

    Args:
        num_tasks: Number of tasks, >= 1.
        key: `[2]`; or `[runs, 2]`, for a target and a stream of each run's own.
        inputs: Number of bits of an input, >= 1.
        slow: Number of bits that change between tasks only, from `inputs - 12` to `inputs`.
        period: Number of examples of a task, >= 1.
        features: Number of threshold units of the target, >= 1.
        beta: Share of the weights that must agree for a unit to fire, in [0, 1].
        flip: `one` slow bit flips from task to task, or `all` slow bits are drawn anew.

    Raises:
        ValueError: A number is out of range.

    >>> import clfunc as cl
    >>> scenario = cl.scenarios.slowly_changing_regression(3, cl.random.key(0), period=50)
    >>> stream = scenario.train(0)
    >>> batch = scenario.batch(scenario.data, stream, stream.train)
    >>> batch.x.shape, batch.y.shape
    (torch.Size([50, 20]), torch.Size([50, 1]))
    """
    sizes = {"tasks": num_tasks, "inputs": inputs, "period": period, "features": features}
    _require_possible_sizes(sizes)
    _require_possible_bits(inputs, slow, beta)
    choice(flip, "flip", ("one", "all"))
    fast = inputs - slow
    num_patterns = 2**fast

    def make(key: Key, task: int) -> Stream:
        patterns = torch.arange(num_patterns, device=key.device)
        slow_bits = _slow_bits(fold_in(key, 1), task, num_tasks, slow, flip)
        x = _inputs_of(patterns, slow_bits, fast)
        drawn = bits(fold_in(key, 2, task), (period,)) % num_patterns
        tables = {
            "x": x,
            "y": _target(fold_in(key, 0), x, features, beta),
            "rows": torch.cat([drawn, patterns]),  # training examples, then each pattern once
        }
        return _stream(task, tables, period)

    stream, runs = streams_of_keys(make, key)
    rows = torch.arange(period + num_patterns, device=key.device)
    settings = {
        "name": "slowly_changing_regression",
        "inputs": inputs,
        "slow": slow,
        "period": period,
        "features": features,
        "beta": beta,
        "flip": flip,
    }
    return Scenario(
        name="slowly_changing_regression",
        dataset="bits",
        paradigm="regression",
        num_tasks=num_tasks,
        classes=(1,) * num_tasks,
        inputs=(inputs,),
        data=Examples(rows, rows),
        train=stream,
        test=stream,
        view=_view,
        phases=tuple(range(1, num_tasks + 1)),
        runs=runs,
        settings=settings,
    )


def _require_possible_sizes(sizes: dict[str, int]) -> None:
    for name, number in sizes.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, given {number}")
        most = _MOST.get(name, 2**31)
        if number > most or not isinstance(number, int):
            raise ValueError(f"{name} must be a whole number of at most {most}, given {number}")


def _require_possible_bits(inputs: int, slow: int, beta: float) -> None:
    fewest = max(0, inputs - _MOST_FAST_BITS)
    if not fewest <= slow <= inputs:
        raise ValueError(f"slow must be in {fewest}..{inputs} for {inputs} inputs, given {slow}")
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], given {beta}")


def _view(tables: ViewTables, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    rows = tables["rows"][x]
    return tables["x"][rows], tables["y"][rows]


def _stream(task: int, tables: ViewTables, period: int) -> Stream:
    """The stream of a task: the first `period` rows are for training, the rest for testing."""
    device = tables["rows"].device
    rows = torch.arange(len(tables["rows"]), device=device)
    return Stream(
        task=torch.tensor(task, device=device),
        view=tables,
        train=rows[:period],
        valid=rows[:0],
        test=rows[period:],
        sizes=torch.tensor([period, 0, len(rows) - period], device=device),
    )


def _inputs_of(patterns: Tensor, slow_bits: Tensor, fast: int) -> Tensor:
    """The input of every pattern: the slow bits, then the binary digits of its number."""
    digit = torch.arange(fast, device=patterns.device)
    fast_bits = (patterns[:, None] >> digit) & 1
    repeated = slow_bits.expand(len(patterns), len(slow_bits))
    return torch.cat([repeated, fast_bits], 1).to(torch.float32)


def _slow_bits(key: Key, task: int, num_tasks: int, slow: int, flip: str) -> Tensor:
    """The slow bits of a task, `[slow]`."""
    if flip == "all":
        return randint(fold_in(key, task), (slow,), 0, 2)
    flipped = randint(fold_in(key, num_tasks), (num_tasks,), 0, max(slow, 1))[:task]
    bit = torch.arange(slow, device=key.device)
    times_flipped = (flipped[:, None] == bit).sum(0)
    start = randint(fold_in(key, 0), (slow,), 0, 2)
    return (start + times_flipped) % 2


def _target(key: Key, x: Tensor, features: int, beta: float) -> Tensor:
    """The outputs of the target for inputs `[rows, inputs]`: `[rows, 1]`."""
    inputs = x.shape[1]

    def signs(number: int, *shape: int) -> Tensor:
        return (2 * randint(fold_in(key, number), shape, 0, 2) - 1).to(x.dtype)

    weight = signs(0, features, inputs)
    bias = signs(1, features)
    negative = (inputs - weight.sum(1) + bias) / 2
    fires = (x @ weight.T + bias >= beta * (inputs + 1) - negative).to(x.dtype)
    return fires @ signs(2, features, 1) + signs(3, 1)
