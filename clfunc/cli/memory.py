"""The least memory that a job takes, compared with what there is before any is taken."""

import math

import torch

from clfunc import tree
from clfunc.experiments.device_memory import total
from clfunc.random import key
from clfunc.scenarios import Scenario
from clfunc.settings import find
from clfunc.types import Algorithm

MOST_RUNS = 100_000  # of one program
_ACCURACY_BYTES = 8  # a float64
_INDEX_BYTES = 8  # an int64
_NUMBER_BYTES = 4  # a float32


def check_counts(tasks: int, runs: int, device: torch.device) -> None:
    """Raise ValueError if the table of accuracies does not fit: a number for each run and each pair
    of tasks."""
    if runs > MOST_RUNS:
        raise ValueError(
            f"--seeds and --grid must ask for at most {MOST_RUNS} runs, given {runs}:"
            " run them apart"
        )
    table = _ACCURACY_BYTES * tasks**2 * runs
    _refuse_more_than_there_is(table, device, f"--tasks {tasks} with {runs} run(s)")


def check_fits(
    algorithm: Algorithm, scenario: Scenario, runs: int, batch_size: int, device: torch.device
) -> None:
    """Raise ValueError if the parameters, states, lists of examples and one batch of all runs do
    not fit.

    `algorithm` is the algorithm of one run. Its tensors are made on the device `meta`, where they
    take no memory.
    """
    stored = _memory_bytes(algorithm, scenario)
    # a memory alone may be too large for torch to compute its size on `meta`
    _refuse_more_than_there_is(runs * stored, device, f"{runs} run(s) with a memory of examples")
    lists = _INDEX_BYTES * len(scenario.data.y)
    example = _INDEX_BYTES + _NUMBER_BYTES * math.prod(scenario.inputs)
    examples = lists + batch_size * example
    if runs * (_upper_bound(algorithm, scenario) + examples) < total(device):
        return
    leaves = tree.leaves(algorithm.init(key(0, "meta")))
    learner = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    asked = f"{runs} run(s) of {learner / 1e9:.3g} GB each in batches of {batch_size}"
    _refuse_more_than_there_is(runs * (learner + examples), device, asked)


def _upper_bound(algorithm: Algorithm, scenario: Scenario) -> int:
    """More bytes than params and state take: eight copies a task, and as many again for each term,
    of a network in which a kernel leads from each unit to each; and twice what a memory stores.

    Where even these fit, nothing needs to be computed on `meta`, for which torch 2.13 imports
    modules for two seconds.
    """
    model = find(algorithm.settings, "model")
    channels = sum(model.get("channels", ())) * 2 * model.get("blocks", 1)
    inputs = math.prod(scenario.inputs)
    units = inputs + sum(scenario.classes) + sum(model["hidden"]) + channels
    kernel = max(3, model.get("kernel", 3)) ** 2
    copies = 8 * (1 + len(find(algorithm.settings, "terms") or {}))
    network = copies * _NUMBER_BYTES * scenario.num_tasks * kernel * units**2
    return network + 2 * _memory_bytes(algorithm, scenario, noted=sum(scenario.classes))


def _memory_bytes(algorithm: Algorithm, scenario: Scenario, noted: int = 0) -> int:
    """The bytes of the examples that a memory stores, each with its label, task, row and weight and
    `noted` other numbers; 0 without a memory.
    """
    memory = find(algorithm.settings, "memory") or {}
    numbers = math.prod(scenario.inputs) + 1 + noted
    example = _NUMBER_BYTES * numbers + 3 * _INDEX_BYTES
    return memory.get("capacity", 0) * example


def _refuse_more_than_there_is(size: int, device: torch.device, asked: str) -> None:
    there_is = total(device)
    if size > there_is:
        raise ValueError(
            f"{asked} would take at least {size / 1e9:.3g} GB of memory, and {device.type} has"
            f" {there_is / 1e9:.3g} GB: ask for less"
        )
