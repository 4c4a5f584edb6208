"""From arguments to the library's nouns. Everything that can be wrong with them is found here, before anything runs."""

import dataclasses
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from clfunc import datasets, scenarios
from clfunc.cli import memory, registry
from clfunc.cli.requests import declaring, forgetting
from clfunc.driver.run import check
from clfunc.engine.sweep import sweep
from clfunc.experiments.audit import plan
from clfunc.random import key
from clfunc.results.files import check_writable
from clfunc.scenarios import Scenario
from clfunc.transforms import carry
from clfunc.types import Algorithm, Keys

_MOST = 10**9  # of anything that is counted
Repeated = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Run:
    """Train an algorithm on a stream of tasks, for one seed or many in one program."""

    algorithm: str = "finetuning"
    """See `clfunc list`."""
    dataset: str = "digits"
    """See `clfunc list`; for a combined scenario several, joined by commas."""
    scenario: str = "permuted"
    """permuted, split, rotated, combined, or slowly_changing_regression, which needs no dataset."""
    paradigm: str = "til"
    """til (a head a task), cil (one head over all classes) or dil (one head that tasks share)."""
    tasks: int | None = None
    """Number of tasks: 5 if not given, or as many as there are datasets to combine."""
    epochs: int = 1
    """Passes over each task."""
    batch_size: int = 64
    """Examples in a step."""
    valid: float = 0.0
    """Share of the training examples held out for validation."""
    seeds: int = 1
    """Runs, with the seeds that follow --seed; all in one program."""
    seed: int = 0
    """Of the first run: its network, its tasks and the order of its examples."""
    scenario_seed: int | None = None
    """Give all runs the tasks of this seed, rather than each its own."""
    set: Repeated = ()
    """NAME=VALUE: any setting that `clfunc list` prints. May be repeated."""
    wrap: Repeated = ()
    """A wrapper around the algorithm, such as reduce_on_plateau. May be repeated, the outermost last."""
    optimizer: str = "adam"
    """sgd, adam, adamw or upgd."""
    carry: bool = False
    """Keep the optimizer's memory across tasks, rather than restart it at each."""
    model: str = "mlp"
    """The network."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of its hidden layers."""
    task: int = 1
    """The task that `--algorithm single` trains, from 1."""
    evaluate: str = "seen"
    """After each task, test all tasks seen, the current one, or all seen every N tasks."""
    probe_every: int | None = None
    """Look inside the network about every so many steps, not just after each task."""
    engine: Literal["auto", "eager", "trace", "compile", "cudagraph"] = "auto"
    """How steps are run; auto chooses, and says what it chose. cudagraph needs a CUDA device."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    data_root: Path | None = None
    """Folder of the data set: IDX files, or where torchvision keeps its own."""
    out: Path | None = None
    """Folder for results and figures; nothing is written without."""
    resume: bool = False
    """Go on from the newest checkpoint in --out, if there is one; the results are those of a run never stopped."""
    resume_anyway: bool = False
    """The same, though torch, the device or the number of threads are others, which the last bits may show."""
    checkpoint_every: int | None = None
    """Save a checkpoint about every so many steps; if not given, when a task ends and once a minute."""
    progress: bool = True
    """Show a progress bar."""
    runs_at_once: str = "auto"
    """Cut the runs into chunks of so many; auto measures what fits in memory, and says so."""
    devices: str = ""
    """Share the chunks among these devices, joined by commas: a process for each. --device is used if not given."""


@dataclasses.dataclass(frozen=True)
class Sweep(Run):
    """Train every combination of settings, each with every seed, in one program."""

    grid: Repeated = ()
    """NAME=V1,V2,...: numbers to try for a setting. Repeat for a grid."""
    halving: bool = False
    """Stop the worse configurations after some of the tasks: at each rung one in --eta goes on."""
    eta: int = 3
    """Of --halving."""
    until_ci: float | None = None
    """Add --seeds seeds at a time to each configuration, until the 95% confidence interval of its average accuracy is
    narrower than so many percentage points from end to end."""
    max_seeds: int = 64
    """Of --until-ci: the most seeds for a configuration."""
    cluster: Literal["none", "ray"] = "none"
    """Run the chunks as tasks of a Ray cluster: that of --cluster-address or RAY_ADDRESS, or one of this machine alone."""
    cluster_address: str | None = None
    """HOST:PORT of the Ray cluster, or auto."""


@dataclasses.dataclass(frozen=True)
class Unlearn(Run):
    """Train, forget tasks on request, and compare with the original and with networks retrained without them."""

    request: Repeated = ()
    """AFTER:TASKS: 2:1 forgets task 1 after task 2, 4:2,3 tasks 2 and 3 after task 4, 2:few the set few. May be repeated."""
    forget_rows: Repeated = ()
    """NAME=TASK:ROWS declares examples that may be forgotten: few=2:0-99,150 are 101 rows of task 2. May be repeated."""
    forget_classes: Repeated = ()
    """NAME=TASK:CLASSES declares classes that may be forgotten: threes=1:3 is class 3 of task 1. May be repeated."""
    # all members run at once, without checkpoints
    runs_at_once: tyro.conf.Suppress[str] = "auto"
    devices: tyro.conf.Suppress[str] = ""
    resume: tyro.conf.Suppress[bool] = False
    resume_anyway: tyro.conf.Suppress[bool] = False
    checkpoint_every: tyro.conf.Suppress[int | None] = None


@dataclasses.dataclass(frozen=True)
class Report:
    """Print tables of finished runs side by side, and draw them in one figure."""

    results: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders that `clfunc run --out` left."""
    out: Path | None = None
    """Folder for the figure: `report`, beside the results, if not given."""


@dataclasses.dataclass(frozen=True)
class Diff:
    """Name the first step, run and leaf at which two runs differ. Exit code 0: they do not; 1: they do."""

    a: Annotated[Path, tyro.conf.Positional]
    """Folder that `clfunc run --out` left."""
    b: Annotated[Path, tyro.conf.Positional]
    """Another."""


@dataclasses.dataclass(frozen=True)
class List:
    """Print algorithms, wrappers, optimizers, models, scenarios and data sets, with their settings and papers."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A run with everything it needs."""

    algorithm: Algorithm
    scenario: Scenario
    key: Keys
    device: torch.device
    evaluate: Any


def job(args: Run) -> Job:
    """What the arguments ask for.

    Raises:
        ValueError: Anything wrong with them, in one line.
    """
    for name, number in (
        ("--seeds", args.seeds),
        ("--epochs", args.epochs),
        ("--batch-size", args.batch_size),
    ):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, given {number}")
        if number > _MOST:
            raise ValueError(f"{name} must be at most {_MOST}, given {number}")
    factories = {
        "algorithm": registry.named("algorithm", args.algorithm, registry.ALGORITHMS),
        **{f"wrap {name}": registry.named("wrap", name, registry.WRAPPERS) for name in args.wrap},
        "optimizer": registry.named("optimizer", args.optimizer, registry.OPTIMIZERS),
        "model": registry.named("model", args.model, registry.MODELS),
        "scenario": registry.named("scenario", args.scenario, registry.SCENARIOS),
    }
    pairs = [registry.parsed(pair, "--set") for pair in args.set]
    grids = [_grid(pair) for pair in getattr(args, "grid", ())]
    names = [name for name, _ in (*pairs, *grids)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"{name} is set {names.count(name)} times: give it once, by --set or by --grid"
            )
    settings = {name: registry.literal(value) for name, value in pairs}
    routed = registry.route(settings, factories)
    for name in registry.route({name: values[0] for name, values in grids}, factories)["scenario"]:
        raise ValueError(
            f"--grid {name}: a scenario is one for all runs of a sweep; run them apart"
        )
    if (args.resume or args.resume_anyway) and args.out is None:
        raise ValueError("--resume needs --out, the folder of the run to go on with")
    if args.out is not None:
        if args.out == Path():
            raise ValueError("--out must name a folder of its own, given the current one")
        check_writable(args.out)
    where = device(args.device)
    seeds = _seeds(args)
    members = [
        dict(point) for point in product(*([(name, v) for v in values] for name, values in grids))
    ]
    runs = len(members) * seeds
    many, at_once = runs > 1, args.runs_at_once
    memory.check_counts(args.tasks or 5, runs, where)
    keys = torch.stack([key(args.seed + i, where) for _ in members for i in range(seeds)])
    scenario = _scenario(args, routed["scenario"], keys if many else keys[0], where)
    made = [
        _algorithm(args, scenario, factories, registry.route(settings | member, factories))
        for member in members
    ]
    memory.check_fits(
        made[0],
        scenario,
        min(runs, int(at_once)) if at_once.isdigit() else 1,
        args.batch_size,
        where,
    )
    if isinstance(args, Unlearn):
        tasks = scenario.num_tasks
        forgets = forgetting(args.request, args.forget_rows, args.forget_classes, tasks)
        made[0] = declaring(made[0], forgets, tasks)
    alone = isinstance(args, Unlearn) or not many
    algorithm = made[0] if alone else sweep([m for m in made for _ in range(seeds)])
    evaluate = int(args.evaluate) if args.evaluate.isdigit() else args.evaluate
    asked = Job(algorithm, scenario, keys if many else keys[0], where, evaluate)
    numbers = (
        args.epochs,
        args.batch_size,
        args.engine,
        evaluate,
        args.probe_every,
        args.checkpoint_every,
    )
    check(algorithm, scenario, asked.key, *numbers)
    if isinstance(args, Unlearn):
        plan(algorithm, scenario, asked.key, forgets.requests)
    return asked


def _seeds(args: Run) -> int:
    """How many seeds each configuration may have."""
    if not isinstance(args, Sweep) or args.until_ci is None:
        return args.seeds
    if args.max_seeds < args.seeds:
        raise ValueError(
            f"--max-seeds must be at least --seeds, which is {args.seeds}, given {args.max_seeds}"
        )
    return args.max_seeds


def _scenario(args: Run, settings: Mapping[str, Any], keys: Keys, device: torch.device) -> Scenario:
    if args.scenario_seed is not None:
        keys = key(args.scenario_seed, device)
    names = args.dataset.split(",")
    if args.tasks is not None and args.tasks < 1:
        raise ValueError(f"--tasks must be at least 1, given {args.tasks}")
    if args.scenario == "slowly_changing_regression":
        if args.valid or args.algorithm in ("joint", "single"):
            raise ValueError(
                f"--scenario {args.scenario} is one stream without validation: leave out --valid, joint, single"
            )
        return scenarios.slowly_changing_regression(args.tasks or 5, keys, **settings)
    loaded = [datasets.load(name.strip(), args.data_root) for name in names]
    common = dict(settings) | {"paradigm": args.paradigm, "valid": args.valid}
    if args.scenario == "combined":
        if args.tasks not in (None, len(names)):
            raise ValueError(
                f"--tasks is {args.tasks}, but --dataset names {len(names)} to combine: leave --tasks out"
            )
        scenario = scenarios.combined(loaded, keys, **common)
    elif len(names) > 1:
        raise ValueError(
            f"--dataset names {len(names)}, which only --scenario combined takes, given {args.scenario}"
        )
    else:
        scenario = registry.SCENARIOS[args.scenario](loaded[0], args.tasks or 5, keys, **common)
    if args.algorithm == "joint":
        return scenarios.joint(scenario)
    if args.algorithm == "single":
        if not 1 <= args.task <= scenario.num_tasks:
            raise ValueError(f"--task must be in 1..{scenario.num_tasks}, given {args.task}")
        return scenarios.single(scenario, args.task - 1)
    return scenario


def _algorithm(
    args: Run,
    scenario: Scenario,
    factories: Mapping[str, Any],
    routed: Mapping[str, dict[str, Any]],
) -> Algorithm:
    tx = factories["optimizer"](**routed["optimizer"])
    model = factories["model"](scenario.inputs, args.hidden, scenario.head(), **routed["model"])

    def made(kind: str, *parts: Any) -> Algorithm:
        needs = "num_tasks" in factories[kind].__annotations__
        fixed = {"num_tasks": scenario.num_tasks} if needs else {}
        return factories[kind](*parts, **fixed, **routed[kind])

    algorithm = made("algorithm", model, carry(tx) if args.carry else tx)
    for name in args.wrap:
        algorithm = made(f"wrap {name}", algorithm)
    return algorithm


def _grid(pair: str) -> tuple[str, list[Any]]:
    name, values = registry.parsed(pair, "--grid")
    found = [registry.literal(value) for value in values.split(",")]
    if len(set(map(str, found))) < len(found):
        raise ValueError(f"--grid {name} repeats a value, given {values}")
    return name, found


def device(name: str, flag: str = "--device") -> torch.device:
    """The device of this name; ValueError where torch cannot use it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{flag} must be auto, cpu or a device that torch can use, given {name!r}: {reason}"
        ) from error
    return found
