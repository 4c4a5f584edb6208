"""From arguments to the library's nouns. Whatever is wrong with the arguments is found here, before
anything runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, TypedDict

import torch

from clfunc import datasets, memories
from clfunc.cli import memory, parts, registry
from clfunc.cli.arguments import Run, Sweep, Unlearn, to_json
from clfunc.cli.requests import Forgetting, declaring, forgetting
from clfunc.driver.options import RunOptions
from clfunc.driver.run import refuse_impossible
from clfunc.engine.sweep import sweep
from clfunc.experiments.audit import plan
from clfunc.random import key
from clfunc.results.files import check_writable
from clfunc.scenarios import Scenario
from clfunc.transforms import carry
from clfunc.types import Algorithm, Head, Keys

_LARGEST_COUNT = 10**9
_DEFAULT_TASKS = 5

Factories = Mapping[str, registry.Factory]
Settings = dict[str, Any]
Grid = dict[str, list[Any]]


@dataclasses.dataclass(frozen=True)
class Job:
    """A run, or many as one program, with everything that it needs."""

    algorithm: Algorithm  # of one run, or a sweep
    scenario: Scenario
    key: Keys  # [2], or [runs, 2]
    device: torch.device
    options: RunOptions

    @property
    def inputs(self) -> tuple[Algorithm, Scenario, Keys]:
        """The positional arguments of `run`."""
        return self.algorithm, self.scenario, self.key


class Keywords(TypedDict):
    """The options that a command line sets.

    It hands requests to `audit` apart, trains every task, and makes the keys on the device that it
    wants, so `requests`, `skip` and `device` are not among them.
    """

    epochs: int
    batch_size: int
    engine: str
    evaluate: str | int
    probe_every: int | None
    checkpoint_every: int | None
    progress: bool
    config: dict[str, Any] | None


def job(args: Run) -> Job:
    """What the arguments ask for.

    Raises:
        ValueError: Something is wrong with the arguments; one line says what.
    """
    _refuse_counts(args)
    factories = _factories(args)
    given = parts.given(args)
    factories |= parts.factories(given)
    settings, grid = _settings(args, given)
    parts.refuse_unset(given, [*settings, *grid])
    scenario_settings = registry.route(settings, factories)["scenario"]
    _refuse_grid_of_scenarios(grid, factories)
    _refuse_folder(args)

    device = named_device(args.device)
    points = _points(grid)
    seeds = _most_seeds(args)
    runs = len(points) * seeds
    memory.check_counts(args.tasks or _DEFAULT_TASKS, runs, device)

    keys = _keys(args, len(points), seeds, device)
    scenario = _scenario(args, scenario_settings, keys)
    configurations = []
    for point in points:
        routed = registry.route(settings | point, factories)
        configurations.append(_algorithm(args, scenario, given, factories, routed))
    forgets = None
    if isinstance(args, Unlearn):
        forgets = wanted_forgetting(args, scenario)
        configurations[0] = declaring(configurations[0], forgets, scenario.num_tasks)
    at_once = _fewest_at_once(args, runs)
    memory.check_fits(configurations[0], scenario, at_once, args.batch_size, device)

    made = Job(
        algorithm=_together(args, configurations, seeds),
        scenario=scenario,
        key=keys,
        device=device,
        options=run_options(args),
    )
    refuse_impossible(*made.inputs, made.options)
    if forgets is not None:
        # the plan refuses requests that cannot be met
        plan(*made.inputs, forgets.requests)
    return made


def wanted_forgetting(args: Unlearn, scenario: Scenario) -> Forgetting:
    """What is to be forgotten and when, as the arguments say it."""
    return forgetting(args.request, args.forget_rows, args.forget_classes, scenario.num_tasks)


def run_options(args: Run) -> RunOptions:
    """The options of `run`, whatever the runs are and wherever they are done.

    >>> run_options(Run(epochs=3, evaluate="2")).evaluate
    2
    """
    return RunOptions(
        epochs=args.epochs,
        batch_size=args.batch_size,
        engine=args.engine,
        evaluate=int(args.evaluate) if args.evaluate.isdecimal() else args.evaluate,
        probe_every=args.probe_every,
        checkpoint_every=args.checkpoint_every,
        progress=args.progress,
        config={"arguments": to_json(args)},
    )


def keywords(options: RunOptions) -> Keywords:
    """The options as keywords of `run_chunks`, `halve`, `run_until` and `audit`."""
    return Keywords(
        epochs=options.epochs,
        batch_size=options.batch_size,
        engine=options.engine,
        evaluate=options.evaluate,
        probe_every=options.probe_every,
        checkpoint_every=options.checkpoint_every,
        progress=options.progress,
        config=options.config,
    )


def named_device(name: str, flag: str = "--device") -> torch.device:
    """The device of this name; `auto` is CUDA where there is a CUDA device, and else the CPU.

    Raises:
        ValueError: torch cannot use such a device; the message begins with `flag`.
    """
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


def _refuse_counts(args: Run) -> None:
    counts = {"--seeds": args.seeds, "--epochs": args.epochs, "--batch-size": args.batch_size}
    for flag, count in counts.items():
        if count < 1:
            raise ValueError(f"{flag} must be at least 1, given {count}")
        if count > _LARGEST_COUNT:
            raise ValueError(f"{flag} must be at most {_LARGEST_COUNT}, given {count}")


def _factories(args: Run) -> dict[str, registry.Factory]:
    """The factories that the arguments name. A setting goes to the first that takes it."""
    named = registry.named
    factories = {"algorithm": named("algorithm", args.algorithm, registry.ALGORITHMS)}
    for name in args.wrap:
        factories[f"wrap {name}"] = named("wrap", name, registry.WRAPPERS)
    factories["optimizer"] = named("optimizer", args.optimizer, registry.OPTIMIZERS)
    factories["model"] = named("model", args.model, registry.MODELS)
    factories["scenario"] = named("scenario", args.scenario, registry.SCENARIOS)
    return factories


def _settings(args: Run, given: Sequence[parts.Part]) -> tuple[Settings, Grid]:
    """The settings of all runs, and the values of those that a grid varies."""
    of_parts = parts.settings(given)
    pairs = of_parts + [registry.parsed(pair, "--set") for pair in args.set]
    grids = []
    if isinstance(args, Sweep):
        grids = [_grid_values(pair) for pair in args.grid]
    names = [name for name, _ in (*pairs, *grids)]
    for name in names:
        times = names.count(name)
        if times > 1:
            ways = "--term, --memory, --set or --grid"
            if name not in dict(of_parts):
                ways = "--set or by --grid"
            raise ValueError(f"{name} is set {times} times: give it once, by {ways}")
    settings = {name: registry.literal(text) for name, text in pairs}
    return settings, dict(grids)


def _grid_values(pair: str) -> tuple[str, list[Any]]:
    name, text = registry.parsed(pair, "--grid")
    values = [registry.literal(value) for value in text.split(",")]
    if len(set(map(str, values))) < len(values):
        raise ValueError(f"--grid {name} repeats a value, given {text}")
    return name, values


def _refuse_grid_of_scenarios(grid: Grid, factories: Factories) -> None:
    """Raise ValueError for a grid over a setting that nothing takes, or that the scenario takes."""
    examples = {name: values[0] for name, values in grid.items()}
    for name in registry.route(examples, factories)["scenario"]:
        raise ValueError(
            f"--grid {name}: a scenario is one for all runs of a sweep; run them apart"
        )


def _refuse_folder(args: Run) -> None:
    if args.out is None:
        if args.resume or args.resume_anyway:
            raise ValueError("--resume needs --out, the folder of the run to go on with")
        return
    if args.out == Path():
        raise ValueError("--out must name a folder of its own, given the current one")
    check_writable(args.out)


def _points(grid: Grid) -> list[Settings]:
    """Every combination of the grid's values; one empty combination where there is no grid."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def _most_seeds(args: Run) -> int:
    """How many seeds each configuration may have."""
    if not isinstance(args, Sweep) or args.until_ci is None:
        return args.seeds
    if args.max_seeds < args.seeds:
        raise ValueError(
            f"--max-seeds must be at least --seeds, which is {args.seeds}, given {args.max_seeds}"
        )
    return args.max_seeds


def _keys(args: Run, configurations: int, seeds: int, device: torch.device) -> Keys:
    """A key for each run, all seeds of a configuration side by side; `[2]` for one run alone."""
    of_seeds = [key(args.seed + number, device) for number in range(seeds)]
    keys = torch.stack(of_seeds * configurations)
    return keys if len(keys) > 1 else keys[0]


def _scenario(args: Run, settings: Settings, keys: Keys) -> Scenario:
    if args.scenario_seed is not None:
        keys = key(args.scenario_seed, keys.device)
    if args.tasks is not None and args.tasks < 1:
        raise ValueError(f"--tasks must be at least 1, given {args.tasks}")
    factory = registry.SCENARIOS[args.scenario]
    takes = registry.first_parameter(factory)
    arrange = registry.ARRANGEMENTS.get(args.algorithm)
    if takes == "num_tasks":
        if args.valid or arrange is not None:
            without = "--valid, and joint and single as --algorithm"
            raise ValueError(
                f"--scenario {args.scenario} is one stream without validation: leave out {without}"
            )
        return factory(args.tasks or _DEFAULT_TASKS, keys, **settings)
    names = args.dataset.split(",")
    loaded = [datasets.load(name.strip(), args.data_root) for name in names]
    both = settings | {"paradigm": args.paradigm, "valid": args.valid}
    if takes == "datasets":
        if args.tasks not in (None, len(names)):
            raise ValueError(
                f"--tasks is {args.tasks}, but --dataset names {len(names)} to combine:"
                " leave --tasks out"
            )
        scenario = factory(loaded, keys, **both)
    elif len(names) > 1:
        raise ValueError(
            f"--dataset names {len(names)}, which only --scenario combined takes,"
            f" given {args.scenario}"
        )
    else:
        scenario = factory(loaded[0], args.tasks or _DEFAULT_TASKS, keys, **both)
    return scenario if arrange is None else arrange(scenario, args.task)


def _algorithm(
    args: Run,
    scenario: Scenario,
    given: Sequence[parts.Part],
    factories: Factories,
    settings: Mapping[str, Settings],
) -> Algorithm:
    """The algorithm of one configuration, with its terms and its memory, in its wrappers.

    What does not go with a head of one task at a time, as memories and distillation do not, gets
    one with the heads of all tasks in it.
    """
    about = (args, scenario, given, factories, settings)
    try:
        return _with_head(*about, scenario.head())
    except ValueError:
        return _with_head(*about, scenario.head(together=True))


def _with_head(
    args: Run,
    scenario: Scenario,
    given: Sequence[parts.Part],
    factories: Factories,
    settings: Mapping[str, Settings],
    head: Head,
) -> Algorithm:
    """The algorithm of one configuration, of a network with this head."""
    model = factories["model"](scenario.inputs, args.hidden, head, **settings["model"])
    tx = factories["optimizer"](**settings["optimizer"])
    if args.carry:
        tx = carry(tx)

    tasks = scenario.num_tasks
    can_forget = _can_forget(args)

    def made(name: str, *inner: Any, **keywords: Any) -> Algorithm:
        own = registry.with_tasks(factories[name], settings[name], tasks, can_forget)
        return factories[name](*inner, **own, **keywords)

    of_parts = parts.made(given, settings, tasks, can_forget=can_forget)
    if "memory" in of_parts and scenario.pixels is not None:
        of_parts["memory"] = memories.pixels(of_parts["memory"], *scenario.pixels)
    algorithm = made("algorithm", model, tx, **of_parts)
    for name in args.wrap:
        algorithm = made(f"wrap {name}", algorithm)
    return algorithm


def _can_forget(args: Run) -> bool:
    """Whether tasks may have to be forgotten: an audit wraps in `amnesiac` what cannot forget."""
    return "amnesiac" in args.wrap or isinstance(args, Unlearn)


def _fewest_at_once(args: Run, runs: int) -> int:
    """The number of runs that must fit in memory together."""
    if args.runs_at_once.isdecimal():
        return min(runs, int(args.runs_at_once))
    return 1  # auto cuts them as small as it has to


def _together(args: Run, configurations: list[Algorithm], seeds: int) -> Algorithm:
    """One algorithm for all runs; an audit takes the algorithm of one run, and sweeps by itself."""
    if isinstance(args, Unlearn) or len(configurations) * seeds == 1:
        return configurations[0]
    return sweep([one for one in configurations for _ in range(seeds)])
