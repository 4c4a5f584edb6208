"""The arguments of each command as a dataclass, and how they are written to JSON and read back.

The docstrings of the fields are the texts that `clfunc run --help` prints.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Repeated = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Run:
    """Train an algorithm on a stream of tasks, for one seed or for many in one program."""

    algorithm: str = "finetuning"
    """The algorithm; `clfunc list` prints all of them."""
    dataset: str = "digits"
    """The data set; `clfunc list` prints all of them. A combined scenario takes several, joined by
    commas."""
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
    """Number of runs, with the seeds that follow --seed; all run in one program."""
    seed: int = 0
    """The seed of the first run. It draws the network, the tasks and the order of the examples."""
    scenario_seed: int | None = None
    """Give all runs the tasks of this seed. If not given, each run draws its tasks by its seed."""
    set: Repeated = ()
    """NAME=VALUE: any setting that `clfunc list` prints. May be repeated."""
    term: Repeated = ()
    """NAME or NAME=VALUE: a term to minimise beside the loss, such as ewc=1000 or replay=32. The
    value is that of its first setting. May be repeated."""
    memory: str | None = None
    """NAME=VALUE: a memory that terms draw examples from, such as reservoir=500 for one of 500."""
    wrap: Repeated = ()
    """A wrapper around the algorithm, such as reduce_on_plateau. May be repeated, the outermost
    last."""
    optimizer: str = "adam"
    """sgd, adam, adamw or upgd."""
    carry: bool = False
    """Keep the optimizer's state across tasks. If not given, it restarts with each task."""
    model: str = "mlp"
    """The network; `clfunc list` prints all of them."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the network's hidden layers."""
    task: int = 1
    """The task that `--algorithm single` trains; tasks count from 1."""
    evaluate: str = "seen"
    """What to test after each task: all tasks `seen`, the `current` one, `none`, or a number N to
    test all seen tasks every N tasks."""
    probe_every: int | None = None
    """Record the algorithm's probes about every so many steps, not just after each task."""
    engine: Literal["auto", "eager", "trace", "compile", "cudagraph"] = "auto"
    """How steps are run; auto chooses, and says what it chose. cudagraph needs a CUDA device."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    data_root: Path | None = None
    """Folder of the data set: IDX files, or the folder where torchvision keeps its files."""
    out: Path | None = None
    """Folder for results and figures; nothing is written without it."""
    resume: bool = False
    """Continue from the newest checkpoint in --out, if there is one; the results are the same as
    those of a run that never stopped."""
    resume_anyway: bool = False
    """Continue even though torch, the device or the number of threads has changed, which may
    change the last bits of the results."""
    checkpoint_every: int | None = None
    """Save a checkpoint about every so many steps; if not given, when a task ends and once a
    minute."""
    progress: bool = True
    """Show a progress bar."""
    runs_at_once: str = "auto"
    """Cut the runs into chunks of so many; auto measures what fits in memory, and says so."""
    devices: str = ""
    """Share the chunks among these devices, joined by commas: a process for each. If not given,
    --device is used."""


@dataclasses.dataclass(frozen=True)
class Sweep(Run):
    """Train every combination of settings, each with every seed, in one program."""

    grid: Repeated = ()
    """NAME=V1,V2,...: numbers to try for a setting. Repeat for a grid."""
    halving: bool = False
    """Stop the worse configurations after some of the tasks: at each rung one in --eta goes on."""
    eta: int = 3
    """With --halving: one in so many configurations goes on at each rung."""
    until_ci: float | None = None
    """Add --seeds seeds at a time to each configuration, until the 95% confidence interval of its
    average accuracy is narrower than so many percentage points from end to end."""
    max_seeds: int = 64
    """With --until-ci: the most seeds for a configuration."""
    cluster: Literal["none", "ray"] = "none"
    """Run the chunks as tasks of a Ray cluster: the one of --cluster-address or RAY_ADDRESS, or a
    cluster of this machine alone."""
    cluster_address: str | None = None
    """HOST:PORT of the Ray cluster, or auto."""


@dataclasses.dataclass(frozen=True)
class Unlearn(Run):
    """Train, forget tasks on request, and compare with the original and with networks retrained
    without them."""

    request: Repeated = ()
    """AFTER:TASKS: 2:1 forgets task 1 after task 2, 4:2,3 tasks 2 and 3 after task 4, 2:few the set
    few. May be repeated."""
    forget_rows: Repeated = ()
    """NAME=TASK:ROWS declares examples that may be forgotten: few=2:0-99,150 are 101 rows of task
    2. May be repeated.
    """
    forget_classes: Repeated = ()
    """NAME=TASK:CLASSES declares classes that may be forgotten: threes=1:3 is class 3 of task 1.
    May be repeated.
    """
    # an audit runs all members at once and keeps no checkpoints, so these flags are hidden
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
    """Name the first step, run and leaf at which two runs differ. The exit code is 1 where they
    differ, and else 0."""

    a: Annotated[Path, tyro.conf.Positional]
    """Folder that `clfunc run --out` left."""
    b: Annotated[Path, tyro.conf.Positional]
    """Another such folder."""


@dataclasses.dataclass(frozen=True)
class List:
    """Print algorithms, wrappers, terms, memories, optimizers, models, scenarios and data sets, with
    their settings and papers."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """Print only what has this name, in full."""


_KINDS: dict[str, type[Run]] = {"Run": Run, "Sweep": Sweep, "Unlearn": Unlearn}
_PATHS = ("out", "data_root")


def to_json(args: Run) -> dict[str, Any]:
    """The arguments as JSON can hold them; config.json records them so.

    >>> to_json(Run(tasks=2, out=Path("results")))["out"]
    'results'
    """
    words = {}
    for name, value in dataclasses.asdict(args).items():
        words[name] = str(value) if isinstance(value, Path) else value
    return words


def from_json(words: dict[str, Any]) -> Run:
    """The arguments that `to_json` wrote, perhaps with the name of their class as `command`.

    >>> from_json(to_json(Run(tasks=2, hidden=(8,)))) == Run(tasks=2, hidden=(8,))
    True
    """
    kind = _KINDS[words.get("command", _command_of(words))]
    fields: dict[str, Any] = {}
    for name, value in words.items():
        if name == "command":
            continue
        if name in _PATHS and value is not None:
            value = Path(value)
        fields[name] = tuple(value) if isinstance(value, list) else value
    return kind(**fields)


def _command_of(words: dict[str, Any]) -> str:
    """The class that has these fields."""
    if "request" in words:
        return "Unlearn"
    return "Sweep" if "grid" in words else "Run"
