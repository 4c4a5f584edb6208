"""The config of a run: everything that decides its result, as JSON can hold it."""

from typing import Any

import torch

from clfunc import tree
from clfunc.driver.algorithm_record import AlgorithmRecord
from clfunc.driver.checkpoint import digest
from clfunc.driver.options import RunOptions
from clfunc.driver.timeline import Timeline
from clfunc.results import result as results
from clfunc.scenarios import Scenario, Stream
from clfunc.settings import described, plain, shown
from clfunc.types import Keys, Settings

_ROUNDING = (
    2**12
)  # computed floats count to three digits: threads and devices may differ in the last ones


def run_config(
    record: AlgorithmRecord,
    scenario: Scenario,
    key: Keys,
    options: RunOptions,
    timeline: Timeline,
    *,
    on_disk: bool,
) -> dict[str, Any]:
    """The config of a run.

    Args:
        record: The algorithm's record.
        scenario: The scenario.
        key: `[*runs, 2]`, on the device of the run.
        options: How the run trains, tests and reports.
        timeline: The events of the run.
        on_disk: Whether the config is to be compared with another process's. Then it has a digest
            of the data, and every function in it must have a description.

    Raises:
        ValueError: `on_disk`, and a setting is a function that no description tells apart.
    """
    keys = key.reshape(-1, 2).tolist()
    config: dict[str, Any] = {
        "algorithm": record.name,
        "scenario": scenario.name,
        "dataset": scenario.dataset,
        "paradigm": scenario.paradigm,
        "tasks": scenario.num_tasks,
        "phases": list(scenario.phases),
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "engine": options.engine,
        "threads": torch.get_num_threads(),
        "keys": keys,
        "seeds": [int(low + (high << 32)) for low, high in keys],
        "settings": saved_settings(record.settings, on_disk),
        "scenario_settings": saved_settings(scenario.settings, on_disk),
        "versions": results.versions(),
        **timeline.plain(),
        "evaluate": options.evaluate,
        "probe_every": options.probe_every,
        "checkpoint_every": options.checkpoint_every,
        "device": _device_name(key.device),
    }
    if on_disk:
        config["data_sha256"] = data_digest(scenario)
    return config


def saved_settings(settings: Settings, must_tell_apart: bool) -> Any:
    """Settings as JSON can hold them: a function becomes its description.

    Raises:
        ValueError: A function that no description tells apart, if that matters. Else its name
            stands for it.
    """
    return _saved(settings, must_tell_apart, "")


def _saved(setting: Any, must_tell_apart: bool, name: str) -> Any:
    if isinstance(setting, dict):
        saved = {}
        for key, value in setting.items():
            saved[str(key)] = _saved(value, must_tell_apart, f"{name}.{key}".lstrip("."))
        return saved
    if isinstance(setting, list | tuple):
        entries = []
        for position, value in enumerate(setting):
            entries.append(_saved(value, must_tell_apart, f"{name}.{position}".lstrip(".")))
        return entries
    if not callable(setting):
        return plain(setting)
    try:
        return described(setting)
    except ValueError as error:
        if must_tell_apart:
            raise ValueError(f"cannot save the setting {name}: {error}") from error
        return shown(setting)


def data_digest(scenario: Scenario) -> str:
    """SHA-256 of the stored examples and of every task, so that a run does not go on with others.

    Of a task it takes the view and the sizes. Of the first and the last task it takes the lists of
    examples too.
    """
    parts: list[Any] = []
    for phase in range(len(scenario.phases)):
        parts.append(_identity(scenario.train(phase)))
    for task in range(scenario.num_tasks):
        parts.append(_identity(scenario.test(task)))
    parts.append((scenario.train(0), scenario.test(scenario.num_tasks - 1)))
    leaves = tree.leaves(scenario.data)
    for leaf in tree.leaves(parts):
        if leaf.is_floating_point():
            leaf = leaf.mul(_ROUNDING).round().to(torch.int64)
        leaves.append(leaf)
    return digest(leaves)


def _identity(stream: Stream) -> Any:
    return stream.task, stream.view, stream.sizes


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
