"""The laws: what holds for every algorithm. Each is a function of a `Case` that raises AssertionError where it is broken.

`laws` run in eager mode, in seconds; `compiled_laws` compile, in tens of seconds. Numbers follow the design's list; the ones
missing here are tested where they live (HAT's freezing, each paper's transcription).
"""

import contextlib
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clfunc import datasets, scenarios, tree
from clfunc.algorithms import finetuning
from clfunc.driver.evaluate import bare, over_runs, with_runs
from clfunc.driver.run import run
from clfunc.engine.programs import programs
from clfunc.engine.scan import scan
from clfunc.engine.sweep import sweep
from clfunc.models import mlp
from clfunc.random import key, split
from clfunc.scenarios import Scenario, epoch_entries
from clfunc.testing.play import play, toy_stream
from clfunc.transforms import sgd
from clfunc.types import Algorithm, Keys, Model, Task, Transform

Make = Callable[[Model, Transform], Algorithm]
TOLERANCE = {
    torch.float32: 1e-6,
    torch.float64: 1e-12,
}  # per step, relative to the largest entry if that is above 1


def _same(scenario: Scenario) -> Scenario:
    return scenario


class Case(NamedTuple):
    """An algorithm as the laws take it."""

    name: str
    make: Make  # at a strength that matters
    neutral: Make | None = None  # at zero strength, where it is finetuning bit for bit
    vary: Make | None = None  # with other numbers: another member of the same program
    arrange: Callable[[Scenario], Scenario] = (
        _same  # scenarios.joint for an algorithm that mixes tasks
    )
    is_finetuning: bool = False  # by definition, so it need not differ
    learns: bool = True

    def scenario(self, paradigm: str = "til", keys: Keys | None = None) -> Scenario:
        return self.arrange(toy_stream(keys, paradigm=paradigm))

    def build(
        self, make: Make, tx: Transform, dtype: torch.dtype = torch.float32, paradigm: str = "til"
    ) -> Algorithm:
        scenario = self.scenario(paradigm)
        return make(mlp(scenario.inputs, (8, 6), scenario.head(), dtype=dtype), tx)

    def members(
        self, dtype: torch.dtype = torch.float32, momentum: float | None = 0.9
    ) -> list[Algorithm]:
        """Three of one program: other learning rates, and other numbers of its own where it has any."""
        makes = (self.make, self.vary or self.make, self.make)
        rates = (0.1, 0.05, 0.01)
        return [
            self.build(make, sgd(lr, momentum), dtype)
            for make, lr in zip(makes, rates, strict=True)
        ]


def leaves_are_tensors_of_constant_shape(case: Case) -> None:
    """Law 1: tensors only, no gradient, one device; shapes, dtypes and structure never change."""
    seen: dict[str, Any] = {}
    start = key(1)

    def call(name: str, f: Callable[..., Any], *args: Any) -> Any:
        result = f(*args)
        for leaf in tree.leaves(result):
            assert isinstance(leaf, Tensor), f"{name} returned {leaf!r}, not a tensor"
            assert not leaf.requires_grad, (
                f"{name} returned a leaf that requires a gradient: detach it"
            )
            assert leaf.device == start.device, (
                f"{name} returned a leaf on {leaf.device}, the key is on {start.device}"
            )
        if name == "predict":
            return result
        shape = {n: (leaf.shape, leaf.dtype) for n, leaf in tree.items(result[:2])}
        assert seen.setdefault("carry", shape) == shape, f"{name} changed the carry's shapes"
        if name == "step":
            metrics = {n: (m.shape, m.dtype) for n, m in result[2].items()}
            assert all(size == () for size, _ in metrics.values()), (
                f"metrics must be 0-d, given {metrics}"
            )
            assert seen.setdefault("metrics", metrics) == metrics, "the metrics changed"
        return result

    for paradigm in ("til", "cil", "dil"):
        seen.clear()
        play(
            case.build(case.make, sgd(0.1, 0.9), paradigm=paradigm),
            case.scenario(paradigm),
            start,
            call,
        )


def calls_are_pure(case: Case) -> None:
    """Law 2: inputs unmodified, the same inputs give the same bits, torch's own random state untouched."""

    def call(name: str, f: Callable[..., Any], *args: Any) -> Any:
        before, state = tree.clone(args), torch.get_rng_state()
        first, second = f(*args), f(*args)
        assert identical(before, args), f"{name} wrote to its inputs"
        assert identical(first, second), f"{name} gave two results for the same inputs"
        assert torch.equal(state, torch.get_rng_state()), (
            f"{name} used torch's global random numbers"
        )
        return first

    play(case.build(case.make, sgd(0.1, 0.9)), case.scenario(), key(1), call)


def members_of_a_sweep_equal_themselves_alone(case: Case) -> None:
    """Law 3: each member of a sweep, in every call, is what it would be alone."""
    for dtype, tolerance in TOLERANCE.items():
        alone = case.members(dtype)

        def call(
            name: str,
            f: Callable[..., Any],
            *args: Any,
            alone: list[Algorithm] = alone,
            tolerance: float = tolerance,
        ) -> Any:
            result = f(*args)
            for i, member in enumerate(alone):
                own = getattr(member, name)(*tree.index(args, i))
                far = distance(tree.index(result, i), own)
                assert far <= tolerance, f"{name}: member {i} is {far:.1e} from itself alone"
            return result

        keys = split(key(2), len(alone))
        play(sweep(alone), case.scenario(keys=split(key(3), len(alone))), keys, call)


def members_share_one_program(case: Case) -> None:
    """Law 4: any member's functions, on any member's state, give that member's result, bit for bit."""
    first, *others = case.members()

    def call(name: str, f: Callable[..., Any], *args: Any) -> Any:
        result = f(*args)
        if name != "init":
            for other in others:
                assert identical(getattr(other, name)(*args), result), (
                    f"{name} closes over a number"
                )
        return result

    play(first, case.scenario(), key(1), call)


def neutral_is_finetuning(case: Case) -> None:
    """Law 7: at zero strength bit for bit finetuning; at the strength given, not."""
    final = {}
    makes = {"finetuning": finetuning, "neutral": case.neutral, "made": case.make}
    for name, make in makes.items():
        if make is not None:
            final[name] = play(case.build(make, sgd(0.1, 0.9)), case.scenario(), key(1))[0]
    if "neutral" in final:
        assert identical(final["neutral"], final["finetuning"]), (
            "at zero strength it is not finetuning"
        )
    if not case.is_finetuning:
        assert not identical(final["made"], final["finetuning"]), "it changes nothing"


def learns_two_real_tasks(case: Case) -> None:
    """Law 12: beats chance by far on two small real tasks within 300 steps."""
    scenario = case.arrange(scenarios.permuted(datasets.load("digits"), 2, key(4)))
    algorithm = case.make(mlp(scenario.inputs, (64,), scenario.head()), sgd(0.1, 0.9))
    result = run(
        algorithm, scenario, key(5), epochs=5, batch_size=64, engine="eager", progress=False
    )
    assert result.steps <= 300
    trained = result.accuracy.diagonal() if len(scenario.phases) > 1 else result.accuracy[-1]
    good = bool((trained > 0.5).all())
    assert good == case.learns, f"accuracy {trained.tolist()} where chance is 0.1"


def tracing_changes_no_bit(case: Case) -> None:
    """Law 5: the operations that are found in a step give what the step does, alone and as a sweep, to the bit."""
    for members in (None, case.members()[:2]):
        algorithm = case.members()[0] if members is None else sweep(members)
        keys = key(6) if members is None else split(key(6), 2)
        how: Any = {"epochs": 1, "batch_size": 8, "progress": False}
        eager, traced = (
            run(algorithm, case.scenario(), keys, engine=e, **how) for e in ("eager", "trace")
        )
        assert identical((eager.params, eager.state), (traced.params, traced.state)), (
            "tracing changes parameters or state"
        )
        assert identical(eager.training, traced.training), "tracing changes metrics"


class Stopped(Exception):
    """What law 6 stops a run with."""


def a_resumed_run_is_the_run_never_stopped(case: Case) -> None:
    """Law 6: stop in the middle of a task, go on from the checkpoint: the same bits, in a sweep, with what is unlearned."""
    _resume(case, "step", 8, "eager")


def a_resumed_compiled_run_is_the_run_never_stopped(case: Case) -> None:
    """Law 6, compiled: stopped where an epoch ends."""
    _resume(case, "end_epoch", 3, "compile")


def _resume(case: Case, name: str, calls: int, engine: str) -> None:
    algorithm, scenario, keys = (
        sweep(case.members()[:2]),
        case.scenario(keys=split(key(3), 2)),
        split(key(5), 2),
    )
    requests: Any = (
        {2: [1]}
        if algorithm.unlearn is not None and not scenario.mixed and scenario.num_tasks > 1
        else {}
    )
    how: Any = {
        "epochs": 2,
        "batch_size": 16,
        "engine": engine,
        "progress": False,
        "requests": requests,
    }
    function, seen = getattr(algorithm, name), []

    def stopping(*args: Any) -> Any:
        seen.append(1)
        if len(seen) == calls:
            raise Stopped
        return function(*args)

    whole = run(algorithm, scenario, keys, checkpoint_every=3, **how)
    with tempfile.TemporaryDirectory() as out:
        how |= {"checkpoint_every": 3, "out": out}
        with contextlib.suppress(Stopped):
            fields: dict[str, Any] = {name: stopping}
            run(algorithm._replace(**fields), scenario, keys, **how)
        assert len(seen) == calls, "it was not stopped"
        resumed = run(algorithm, scenario, keys, resume=True, **how)
    for field in (
        "params",
        "state",
        "accuracy",
        "training",
        "validation",
        "probes",
        "pictures",
        "snapshots",
        "diverged",
    ):
        assert identical(getattr(resumed, field), getattr(whole, field)), (
            f"{field} is not what it was"
        )


def engines_agree(case: Case) -> None:
    """Law 5: a compiled step, alone, as a sweep of one and of many, with and without momentum, is the eager one."""
    for momentum, some, unroll in ((None, 0, 2), (0.9, 1, 1), (0.9, 3, 2)):
        members = case.members(momentum=momentum)
        _compare_engines(case, members[:some] or None, members[0], unroll)


def engines_agree_in_every_way(case: Case) -> None:
    """Law 5, for every one of those with and without momentum."""
    for momentum in (None, 0.9):
        members = case.members(momentum=momentum)
        for some in (0, 1, 3):
            _compare_engines(case, members[:some] or None, members[0], 1 if momentum else 2)


def one_program_for_all_tasks(case: Case) -> None:
    """Law 9: `torch.compile(fullgraph=True)` traces the step; a run compiles it once for all tasks, epochs and steps."""
    torch.compiler.reset()
    members = case.members()[:2]

    def call(name: str, f: Callable[..., Any], *args: Any) -> Any:
        first = name == "step" and name not in seen
        seen.add(name)
        return (torch.compile(f, fullgraph=True, backend="eager") if first else f)(*args)

    seen: set[str] = set()
    play(members[0], case.scenario(), key(6), call)

    programs.clear()
    before = programs.made["compile"]
    keys = split(key(6), 2)
    run(
        sweep(members),
        case.scenario(),
        keys,
        epochs=2,
        batch_size=8,
        engine="compile",
        progress=False,
    )
    found = programs.made["compile"] - before
    assert found == 1, f"compiled {found} programs"


def _compare_engines(
    case: Case, members: list[Algorithm] | None, alone: Algorithm, unroll: int
) -> None:
    runs = None if members is None else len(members)
    algorithm = alone if members is None else sweep(members)
    keys = key(2) if runs is None else split(key(2), runs)
    scenario = case.scenario()
    make = over_runs(scenario.batch, runs, (None, 0, 0))

    def step(carry: Any, entries: Tensor) -> tuple[Any, Any]:
        params, state, data, stream = carry
        params, state, metrics = algorithm.step(params, state, make(data, stream, entries))
        return (params, state, data, stream), metrics

    params, state = algorithm.init(keys)
    for phase in range(len(scenario.phases)):
        stream = with_runs(scenario, scenario.train(phase), runs)
        task = Task(stream.task, *(torch.full_like(stream.task, 4) for _ in range(2)))
        params, state = algorithm.begin_task(params, state, task)
        draw = over_runs(lambda k, s: epoch_entries(k, s, 32).reshape(4, 8), runs)
        entries = draw(keys, stream)
        entries = entries if runs is None else entries.movedim(1, 0).contiguous()
        for chunk in entries.split(unroll):
            carry = (params, state, scenario.data, bare(stream))
            before = tree.clone(carry)
            eager, compiled = (
                scan(step, carry, chunk, engine=e, unroll=unroll) for e in ("eager", "compile")
            )
            assert identical(before, carry), "the compiled engine wrote to its caller's carry"
            far = distance(eager, compiled)
            assert far <= unroll * TOLERANCE[torch.float32], (
                f"runs={runs}: compiled is {far:.1e} from eager"
            )
            params, state = eager[0][:2]
        params, state = algorithm.end_task(params, state)


def identical(a: Any, b: Any) -> bool:
    """Whether two trees have the same structure and the same bits."""
    if tree.structure(a) != tree.structure(b):
        return False
    pairs = zip(tree.leaves(a), tree.leaves(b), strict=True)
    return all(
        x.dtype == y.dtype and x.shape == y.shape and torch.equal(_bits(x), _bits(y))
        for x, y in pairs
    )


def _bits(x: Tensor) -> Tensor:
    whole = {8: torch.int64, 4: torch.int32, 2: torch.int16}
    return x.contiguous().view(whole[x.element_size()]) if x.is_floating_point() else x


def distance(a: Any, b: Any) -> float:
    """The largest difference between two trees, relative to the largest entry of its leaf if that is above 1."""
    worst = 0.0
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape, (
            f"{x.dtype} {list(x.shape)} beside {y.dtype} {list(y.shape)}"
        )
        x, y = x.to(torch.float64), y.to(torch.float64)
        assert torch.equal(x.isfinite(), y.isfinite()), "one is finite where the other is not"
        x, y = (torch.where(v.isfinite(), v, 0.0) for v in (x, y))
        if x.numel():
            worst = max(worst, float((x - y).abs().max() / x.abs().max().clamp(min=1.0)))
    return worst


Law = Callable[[Case], None]
laws: tuple[Law, ...] = (
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
long_laws: tuple[Law, ...] = (engines_agree_in_every_way,)
