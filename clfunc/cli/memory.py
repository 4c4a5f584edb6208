"""How much memory a job takes at the least, told before any is taken."""

import math

import torch

from clfunc import tree
from clfunc.experiments.device_memory import total
from clfunc.random import key
from clfunc.scenarios import Scenario
from clfunc.settings import find
from clfunc.types import Algorithm

MOST_RUNS = 100_000  # of one program


def check_counts(tasks: int, runs: int, device: torch.device) -> None:
    """Raise ValueError if the table of accuracies, a number for each run and pair of tasks, does not fit."""
    if runs > MOST_RUNS:
        raise ValueError(
            f"--seeds and --grid must ask for at most {MOST_RUNS} runs, given {runs}: run them apart"
        )
    _check(8 * tasks**2 * runs, device, f"--tasks {tasks} with {runs} run(s)")


def check_fits(
    algorithm: Algorithm, scenario: Scenario, runs: int, batch_size: int, device: torch.device
) -> None:
    """Raise ValueError if the parameters, states, lists of examples and one batch of all runs do not fit.

    `algorithm` is that of one run. Its tensors are made without their memory, on the device `meta`.
    """
    others = 8 * len(scenario.data.y) + batch_size * (8 + 4 * math.prod(scenario.inputs))
    if runs * (_generous(algorithm, scenario) + others) < total(device):
        return
    learner = sum(
        leaf.numel() * leaf.element_size() for leaf in tree.leaves(algorithm.init(key(0, "meta")))
    )
    asked = f"{runs} run(s) of {learner / 1e9:.3g} GB each in batches of {batch_size}"
    _check(runs * (learner + others), device, asked)


def _generous(algorithm: Algorithm, scenario: Scenario) -> int:
    """More bytes than a learner needs: eight copies a task of a network in which each unit feeds each other by a kernel.

    Where even these fit, the two seconds are saved that torch 2.13 takes to import what computes on `meta`.
    """
    model = find(algorithm.settings, "model")
    channels = sum(model.get("channels", ())) * 2 * model.get("blocks", 1)
    units = math.prod(scenario.inputs) + sum(scenario.classes) + sum(model["hidden"]) + channels
    return 8 * 4 * scenario.num_tasks * max(3, model.get("kernel", 3)) ** 2 * units**2


def _check(size: int, device: torch.device, asked: str) -> None:
    there = total(device)
    if size > there:
        what = f"at least {size / 1e9:.3g} GB of memory, and {device.type} has {there / 1e9:.3g} GB"
        raise ValueError(f"{asked} would take {what}: ask for less")
