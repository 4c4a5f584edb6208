"""What `run` cannot do is refused at its entrance, in one line."""

from clfunc.driver.algorithm_record import (
    AlgorithmRecord,
    HeadRecord,
    head_record,
    read_algorithm,
)
from clfunc.driver.options import RunOptions
from clfunc.engine import scan as engines
from clfunc.scenarios import Scenario
from clfunc.types import Algorithm, Keys


def refuse_impossible(
    algorithm: Algorithm, scenario: Scenario, key: Keys, options: RunOptions
) -> None:
    """Raise ValueError, in one line, for what `run` cannot do."""
    refuse_unfit(read_algorithm(algorithm), scenario, key, options)


def refuse_unfit(
    record: AlgorithmRecord, scenario: Scenario, key: Keys, options: RunOptions
) -> None:
    """`refuse_impossible`, for an algorithm that was read before."""
    _refuse_numbers(options)
    engines.check_engine(options.engine, key.device)
    _refuse_evaluate(options.evaluate)
    _refuse_key(record, scenario, key)
    if record.num_tasks is not None and record.num_tasks < scenario.num_tasks:
        raise ValueError(
            f"the scenario has {scenario.num_tasks} tasks,"
            f" given an algorithm for num_tasks={record.num_tasks}"
        )
    if record.head is not None:
        _refuse_head(record.head, scenario)


def _refuse_numbers(options: RunOptions) -> None:
    numbers = {
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "probe_every": options.probe_every,
        "checkpoint_every": options.checkpoint_every,
    }
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, given {number}")


def _refuse_evaluate(evaluate: str | int) -> None:
    is_number = isinstance(evaluate, int) and evaluate >= 1
    if not is_number and evaluate not in ("seen", "current", "none"):
        raise ValueError(
            f"evaluate must be 'seen', 'current', 'none' or a number of tasks, given {evaluate!r}"
        )


def _refuse_key(record: AlgorithmRecord, scenario: Scenario, key: Keys) -> None:
    """Raise ValueError unless the key has the shape that the algorithm and the scenario ask for."""
    given = list(key.shape)
    if key.shape[-1:] != (2,) or key.ndim > 2:
        raise ValueError(f"key must be [2], or [runs, 2] for a sweep, given {given}")
    runs = key.shape[0] if key.ndim == 2 else None
    members = record.members
    if members and members != runs:
        raise ValueError(f"a sweep of {members} needs a key of shape [{members}, 2], given {given}")
    if scenario.runs not in (None, runs):
        raise ValueError(
            f"the scenario has {scenario.runs} runs,"
            f" so key must be [{scenario.runs}, 2], given {given}"
        )


def _refuse_head(head: HeadRecord, scenario: Scenario) -> None:
    """Raise ValueError unless the algorithm's head can learn the scenario's tasks."""
    fitting = head_record(scenario.head().settings)
    assert fitting is not None
    if scenario.mixed and head.name not in ("mtl", "stl"):
        raise ValueError(
            "a joint scenario mixes tasks in a batch and needs an mtl or stl head,"
            f" given a {head.label}"
        )
    fits = head.name in (scenario.paradigm, fitting.name)
    fits = fits or (head.name == "mtl" and fitting.name == "til")  # the same heads, side by side
    if not scenario.mixed and not fits:
        raise ValueError(
            f"a {scenario.paradigm} scenario needs a {fitting.name} head,"
            f" given a {head.label}: use scenario.head()"
        )
    is_per_task = head.name in ("til", "cil", "mtl")
    if is_per_task and len(head.classes) < scenario.num_tasks:
        raise ValueError(
            f"the scenario has {scenario.num_tasks} tasks,"
            f" given a {head.label}: use scenario.head()"
        )
    needed = fitting.width
    if head.width < needed:
        raise ValueError(
            f"the scenario needs {needed} classes in a head,"
            f" given {head.width}: use scenario.head()"
        )
