"""`play` makes every call of an algorithm on a few steps of every task, so that a law can watch.

A hook makes each call. A law is such a hook, with assertions about what goes in and comes out.
"""

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
from clfunc.types import Algorithm, Batch, Key, Keys, Params, State, Task

# (name of the algorithm's function, the function, *its arguments) -> the function's result
Call = Callable[..., Any]
BATCH_SIZE = 8


def call_directly(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The hook that adds nothing to a call."""
    return function(*arguments)


def toy_data(classes: int = 3, seed: int = 0) -> Dataset:
    """Images of 4x4 pixels, each the mean of its class plus noise.

    Each class has 20 training and 10 test images.

    Args:
        classes: Number of classes, >= 1.
        seed: Draws the means and the noise.

    >>> from clfunc.testing.play import toy_data
    >>> toy_data().x.shape
    torch.Size([90, 1, 4, 4])
    """
    generator = np.random.default_rng(seed)
    means = generator.normal(size=(classes, 4, 4))

    def images(labels: np.ndarray) -> np.ndarray:
        noise = generator.normal(size=(len(labels), 4, 4))
        return (means[labels] + 0.5 * noise).astype(np.float32)

    train_y = np.repeat(np.arange(classes), 20)
    train_x = images(train_y)
    test_y = np.repeat(np.arange(classes), 10)
    test_x = images(test_y)
    return datasets.from_arrays("toy", train_x, train_y, test_x, test_y)


def toy_stream(
    keys: Keys | None = None,
    num_tasks: int = 3,
    paradigm: str = "til",
) -> Scenario:
    """Permutations of `toy_data`, small enough to train on in every test.

    Args:
        keys: `[2]` or `[runs, 2]`: draws the permutations; `key(0)` if not given.
        num_tasks: Number of tasks, >= 1.
        paradigm: `til`, `cil` or `dil`.

    >>> from clfunc.testing import toy_stream
    >>> toy_stream(paradigm="cil").head().classes
    9
    """
    if keys is None:
        keys = key(0)
    return scenarios.permuted(toy_data(), num_tasks, keys, paradigm=paradigm)


def play(
    algorithm: Algorithm,
    scenario: Scenario,
    keys: Keys,
    call: Call = call_directly,
    *,
    epochs: int = 3,
    steps: int = 2,
) -> tuple[Params, State]:
    """Train on every phase of a scenario for a few steps, and make every call through a hook.

    The calls of a phase are `begin_task`, then `step` and `end_epoch` for every epoch, `predict`,
    `review` if there is one, `end_task` and `predict` again. At the end, an algorithm that can unlearn forgets task 0, which
    the result of this function does not show.

    Args:
        algorithm: An algorithm; a sweep if `keys` is `[runs, 2]`.
        scenario: The tasks, of which a step takes 8 examples.
        keys: `[2]` or `[runs, 2]`: for the algorithm, and for the order of its examples.
        call: `(name, function, *arguments) -> result`: makes each call, and returns the result of
            the function.
        epochs: Number of epochs of a phase, >= 1.
        steps: Number of steps of an epoch, >= 1.

    Returns:
        Parameters and state after the last task.

    >>> import clfunc as cl
    >>> from clfunc.testing import play, toy_stream
    >>> scenario = toy_stream()
    >>> model = cl.mlp(scenario.inputs, (8,), scenario.head())
    >>> params, state = play(cl.finetuning(model, cl.sgd(0.1)), scenario, cl.random.key(0))
    >>> sorted(params)
    ['head', 'hidden1']
    """
    runs = keys.shape[0] if keys.ndim == 2 else None
    params, state = call("init", algorithm.init, keys)
    for phase in range(len(scenario.phases)):
        stream = with_runs(scenario, scenario.train(phase), runs)
        task = Task(
            id=stream.task,
            steps_per_epoch=torch.full_like(stream.task, steps),
            epochs=torch.full_like(stream.task, epochs),
        )
        params, state = call("begin_task", algorithm.begin_task, params, state, task)
        for epoch in range(epochs):
            order = _epoch_keys(keys, phase, epoch)
            for batch in _batches(scenario, stream, order, steps, runs):
                params, state, metrics = call("step", algorithm.step, params, state, batch)
            loss = metrics["loss"]
            validation = {"loss": loss, "accuracy": torch.zeros_like(loss)}
            params, state = call("end_epoch", algorithm.end_epoch, params, state, validation)
        call("predict", algorithm.predict, params, state, batch.x, stream.task)
        if algorithm.review is not None:
            state = call("review", algorithm.review, params, state, _half(batch))
        params, state = call("end_task", algorithm.end_task, params, state)
        call("predict", algorithm.predict, params, state, batch.x, stream.task)
    if algorithm.unlearn is not None:
        forgotten = torch.arange(scenario.num_tasks, device=keys.device) == 0
        if runs is not None:
            forgotten = forgotten.expand(runs, -1)
        call("unlearn", algorithm.unlearn, params, state, forgotten)
    return params, state


def _half(batch: Batch) -> Batch:
    """The batch with weight 0 for its second half, as padding has."""
    size = batch.weight.shape[-1]
    counts = torch.arange(size, device=batch.weight.device) < size // 2
    return batch._replace(weight=torch.where(counts, batch.weight, 0.0))


def _epoch_keys(keys: Keys, phase: int, epoch: int) -> Keys:
    """The keys that draw the order of an epoch's examples."""
    runs = keys.shape[0] if keys.ndim == 2 else None
    return over_runs(lambda one: fold_in(one, 7, phase, epoch), runs)(keys)


def _batches(
    scenario: Scenario,
    stream: Stream,
    keys: Keys,
    steps: int,
    runs: int | None,
) -> Iterator[Batch]:
    """The batches of an epoch: `[*runs, 8]` examples each."""

    def draw(key: Key, stream: Stream) -> Tensor:
        return epoch_entries(key, stream, BATCH_SIZE * steps)

    make = over_runs(scenario.batch, runs, (None, 0, 0))
    every_entry = over_runs(draw, runs)(keys, stream)
    for entries in every_entry.split(BATCH_SIZE, -1):
        yield make(scenario.data, bare(stream), entries)
