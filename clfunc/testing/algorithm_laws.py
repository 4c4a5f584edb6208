"""The laws that every algorithm obeys.

A law is a function of a `Case`. It raises AssertionError if the algorithm breaks the law, and its
docstring says the law in one sentence. `algorithm_laws` run without a compiler, in seconds. The
laws about compiled steps, `compiled_laws` and `long_laws`, are in `engine_laws.py` and take tens of seconds.
"""

import contextlib
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clfunc import datasets, scenarios, tree
from clfunc.algorithms import finetuning
from clfunc.driver.run import run
from clfunc.engine.sweep import sweep
from clfunc.models import mlp
from clfunc.random import key, split
from clfunc.testing.case import Case
from clfunc.testing.compare import TOLERANCE, distance, identical
from clfunc.testing.engine_laws import (
    engines_agree,
    engines_agree_in_every_way,
    one_program_for_all_tasks,
    tracing_changes_no_bit,
    tracing_changes_no_bit_of_a_run_alone,
)
from clfunc.testing.play import play
from clfunc.transforms import sgd
from clfunc.types import Algorithm
from clfunc.unlearning.forget_sets import ForgetSet

Law = Callable[[Case], None]
PARADIGMS = ("til", "cil", "dil")
# After the second task, the run forgets the first one.
FORGET_THE_FIRST_TASK = {1: [ForgetSet(task=0)]}
# What a resumed run must have in common with a run that was never stopped.
RESULTS = (
    "params",
    "state",
    "accuracy",
    "training",
    "validation",
    "probes",
    "pictures",
    "snapshots",
    "diverged",
)


def leaves_are_tensors_of_constant_shape(case: Case) -> None:
    """Parameters, state and metrics are detached tensors on the key's device, and no call changes
    their structure, shapes or dtypes.
    """
    start = key(1)
    for paradigm in PARADIGMS:
        seen: dict[str, Any] = {}

        def call(
            name: str,
            function: Callable[..., Any],
            *arguments: Any,
            seen: dict[str, Any] = seen,
        ) -> Any:
            result = function(*arguments)
            for leaf in tree.leaves(result):
                _assert_is_plain_tensor(name, leaf, start.device)
            if name == "predict":
                return result
            both = (arguments[0], result) if name == "review" else result[:2]
            carry = {n: (leaf.shape, leaf.dtype) for n, leaf in tree.items(both)}
            assert seen.setdefault("carry", carry) == carry, f"{name} changed the carry's shapes"
            if name == "step":
                metrics = {n: (leaf.shape, leaf.dtype) for n, leaf in result[2].items()}
                are_scalars = all(shape == () for shape, _ in metrics.values())
                assert are_scalars, f"metrics must be 0-d, given {metrics}"
                assert seen.setdefault("metrics", metrics) == metrics, "the metrics changed"
            return result

        algorithm = case.build(case.make, sgd(0.1, 0.9), paradigm=paradigm)
        play(algorithm, case.scenario(paradigm), start, call, epochs=1)


def _assert_is_plain_tensor(name: str, leaf: Any, device: torch.device) -> None:
    assert isinstance(leaf, Tensor), f"{name} returned {leaf!r}, not a tensor"
    assert not leaf.requires_grad, f"{name} returned a leaf that requires a gradient: detach it"
    assert leaf.device == device, f"{name} returned a leaf on {leaf.device}, the key is on {device}"


def calls_are_pure(case: Case) -> None:
    """A call never writes to its inputs, never draws torch's global random numbers, and returns the
    same bits for the same inputs.
    """

    def call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        inputs = tree.clone(arguments)
        random_state = torch.get_rng_state()
        first = function(*arguments)
        second = function(*arguments)
        assert identical(inputs, arguments), f"{name} wrote to its inputs"
        assert identical(first, second), f"{name} gave two results for the same inputs"
        is_untouched = torch.equal(random_state, torch.get_rng_state())
        assert is_untouched, f"{name} used torch's global random numbers"
        return first

    algorithm = case.build(case.make, sgd(0.1, 0.9))
    play(algorithm, case.scenario(), key(1), call, epochs=2)


def members_of_a_sweep_equal_themselves_alone(case: Case) -> None:
    """In every call, each member of a sweep computes what it computes alone, to rounding."""
    for dtype, tolerance in TOLERANCE.items():
        members = case.members(dtype)

        def call(
            name: str,
            function: Callable[..., Any],
            *arguments: Any,
            members: list[Algorithm] = members,
            tolerance: float = tolerance,
        ) -> Any:
            together = function(*arguments)
            for i, member in enumerate(members):
                alone = getattr(member, name)(*tree.index(arguments, i))
                far = distance(tree.index(together, i), alone)
                assert far <= tolerance, f"{name}: member {i} is {far:.1e} from itself alone"
            return together

        keys = split(key(2), len(members))
        scenario = case.scenario(keys=split(key(3), len(members)))
        epochs = 2 if dtype == torch.float64 else 1  # the sharper comparison is the longer one
        play(sweep(members), scenario, keys, call, epochs=epochs)


def members_share_one_program(case: Case) -> None:
    """The functions of any member of a sweep, on any member's state, give that member's bits."""
    first, *others = case.members()

    def call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        result = function(*arguments)
        if name == "init":  # the numbers of a member enter its state here
            return result
        for other in others:
            of_other = getattr(other, name)(*arguments)
            assert identical(of_other, result), f"{name} closes over a number"
        return result

    play(first, case.scenario(), key(1), call, epochs=2)


def neutral_is_finetuning(case: Case) -> None:
    """At zero strength an algorithm is finetuning bit for bit; at its own strength it is not."""

    def trained(make: Callable[..., Algorithm]) -> Any:
        params, _ = play(case.build(make, sgd(0.1, 0.9)), case.scenario(), key(1))
        return params

    reference = trained(finetuning)
    if case.neutral is not None:
        is_neutral = identical(trained(case.neutral), reference)
        assert is_neutral, "at zero strength it is not finetuning"
    if not case.is_finetuning:
        assert not identical(trained(case.make), reference), "it changes nothing"


def learns_two_real_tasks(case: Case) -> None:
    """An algorithm learns two small real tasks within 300 steps, far above chance."""
    scenario = case.arrange(scenarios.permuted(datasets.load("digits"), 2, key(4)))
    model = mlp(scenario.inputs, (64,), scenario.head(together=case.together))
    algorithm = case.make(model, sgd(0.1, 0.9))
    settings: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 64,
        "engine": "eager",
        "progress": False,
    }
    result = run(algorithm, scenario, key(5), **settings)
    assert result.steps <= 300
    # Each task counts when it has just been trained; a mixture trains all tasks in one phase.
    is_mixed = len(scenario.phases) == 1
    accuracy = result.accuracy[-1] if is_mixed else result.accuracy.diagonal()
    is_good = bool((accuracy > 0.5).all())
    assert is_good == case.learns, f"accuracy {accuracy.tolist()} where chance is 0.1"


def a_resumed_run_is_the_run_never_stopped(case: Case) -> None:
    """A sweep that stops in the middle of a task and resumes from its checkpoint ends with the bits
    of a sweep that never stops, also where it unlearns a task.
    """
    _stop_and_resume(case, "step", 6, "eager")


def a_resumed_compiled_run_is_the_run_never_stopped(case: Case) -> None:
    """A compiled sweep that stops where an epoch ends and resumes from its checkpoint ends with the
    bits of a sweep that never stops, also where it unlearns a task.
    """
    _stop_and_resume(case, "end_epoch", 3, "compile")


class Stopped(Exception):
    """The exception by which the law of resumed runs stops a run."""


def _stop_and_resume(case: Case, name: str, calls: int, engine: str) -> None:
    """Assert the law for a run that stops at the `calls`-th call of the function `name`."""
    algorithm = sweep(case.members()[:2])
    scenario = case.scenario(keys=split(key(3), 2))
    keys = split(key(5), 2)
    has_tasks = scenario.num_tasks > 1 and not scenario.mixed
    can_forget = algorithm.unlearn is not None and has_tasks
    settings: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 20,  # 3 steps an epoch, 6 a task
        "engine": engine,
        "progress": False,
        "checkpoint_every": 2,
        "requests": FORGET_THE_FIRST_TASK if can_forget else {},
    }
    function = getattr(algorithm, name)
    seen = 0

    def stopping(*arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == calls:
            raise Stopped
        return function(*arguments)

    whole = run(algorithm, scenario, keys, **settings)
    with tempfile.TemporaryDirectory() as out:
        fields: dict[str, Any] = {name: stopping}
        stopped = algorithm._replace(**fields)
        with contextlib.suppress(Stopped):
            run(stopped, scenario, keys, out=out, **settings)
        assert seen == calls, "it was not stopped"
        resumed = run(algorithm, scenario, keys, out=out, resume=True, **settings)
    for field in RESULTS:
        is_same = identical(getattr(resumed, field), getattr(whole, field))
        assert is_same, f"{field} is not what it was"


algorithm_laws: tuple[Law, ...] = (
    leaves_are_tensors_of_constant_shape,
    calls_are_pure,
    members_of_a_sweep_equal_themselves_alone,
    members_share_one_program,
    neutral_is_finetuning,
    learns_two_real_tasks,
    tracing_changes_no_bit,
    a_resumed_run_is_the_run_never_stopped,
)
compiled_laws: tuple[Law, ...] = (engines_agree, one_program_for_all_tasks)
long_laws: tuple[Law, ...] = (engines_agree_in_every_way, tracing_changes_no_bit_of_a_run_alone)


def algorithm(case: Case) -> None:
    """Every law of algorithms that needs no compiler.

    >>> from clfunc import finetuning
    >>> algorithm(Case("finetuning", finetuning, is_finetuning=True))
    """
    for law in algorithm_laws:
        law(case)
