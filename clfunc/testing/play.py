"""`play`: an algorithm's whole life in a few steps, every call made by a hook, so that a law is a way of calling."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clfunc import datasets, scenarios
from clfunc.datasets.load import Dataset
from clfunc.driver.evaluate import bare, over_runs, with_runs
from clfunc.random import fold_in, key
from clfunc.scenarios import Scenario, Stream, epoch_entries
from clfunc.types import Algorithm, Key, Keys, Params, State, Task

Call = Callable[
    ..., Any
]  # (name of the algorithm's function, the function, *its arguments) -> its result


def plainly(name: str, f: Callable[..., Any], *args: Any) -> Any:
    """The hook that adds nothing."""
    return f(*args)


def toy_data(classes: int = 3, seed: int = 0) -> Dataset:
    """4x4 images of noisy class means: 20 to train and 10 to test for each class."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(classes, 4, 4))

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.repeat(np.arange(classes), n)
        return (means[y] + 0.5 * rng.normal(size=(len(y), 4, 4))).astype(np.float32), y

    return datasets.from_arrays("toy", *draw(20), *draw(10))


def toy_stream(keys: Keys | None = None, num_tasks: int = 3, paradigm: str = "til") -> Scenario:
    """Permutations of `toy_data`: small enough to play through in every test."""
    return scenarios.permuted(
        toy_data(), num_tasks, key(0) if keys is None else keys, paradigm=paradigm
    )


def play(
    algorithm: Algorithm,
    scenario: Scenario,
    keys: Keys,
    call: Call = plainly,
    *,
    epochs: int = 3,
    steps: int = 2,
) -> tuple[Params, State]:
    """Live through every phase of a scenario: begin, `epochs` of `steps` steps, the task's end, predictions.

    An algorithm that can unlearn is asked for the first task in the end; what is returned is from before.

    Args:
        algorithm: One, or a sweep if `keys` is `[runs, 2]`.
        scenario: What to train on, 8 examples a step.
        keys: Of the algorithm and of the order of its examples.
        call: Makes every call; see `Call`. It must return what the function returns.
        epochs: Of each phase.
        steps: Of each epoch.
    """
    runs = keys.shape[0] if keys.ndim == 2 else None
    params, state = call("init", algorithm.init, keys)
    make = over_runs(scenario.batch, runs, (None, 0, 0))
    for phase in range(len(scenario.phases)):
        stream = with_runs(scenario, scenario.train(phase), runs)
        counts = (torch.full_like(stream.task, n) for n in (steps, epochs))
        params, state = call(
            "begin_task", algorithm.begin_task, params, state, Task(stream.task, *counts)
        )
        for epoch in range(epochs):
            for entries in _entries(keys, stream, phase, epoch, steps, runs):
                batch = make(scenario.data, bare(stream), entries)
                params, state, metrics = call("step", algorithm.step, params, state, batch)
            told = {"loss": metrics["loss"], "accuracy": torch.zeros_like(metrics["loss"])}
            params, state = call("end_epoch", algorithm.end_epoch, params, state, told)
        call("predict", algorithm.predict, params, state, batch.x, stream.task)
        params, state = call("end_task", algorithm.end_task, params, state)
        call("predict", algorithm.predict, params, state, batch.x, stream.task)
    if algorithm.unlearn is not None:
        first = torch.arange(scenario.num_tasks, device=keys.device) == 0
        call(
            "unlearn",
            algorithm.unlearn,
            params,
            state,
            first if runs is None else first.expand(runs, -1),
        )
    return params, state


def _entries(
    keys: Keys, stream: Stream, phase: int, epoch: int, steps: int, runs: int | None
) -> Iterator[Tensor]:
    """Entries of each step of an epoch, `[*runs, 8]`."""

    def draw(key: Key, stream: Stream) -> Tensor:
        return epoch_entries(fold_in(key, 7, phase, epoch), stream, 8 * steps)

    return iter(over_runs(draw, runs)(keys, stream).split(8, -1))
