"""The cases, and a job: a case at a number of runs, the state from which all contenders start.

Images are synthetic, of the size of Fashion-MNIST's, and permuted anew for each run and task. Task
0 begins and ends without training, so that `hat` starts task 1 with half of its units used. The
data `bits` are slowly changing regression.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

import clfunc as cl
from clfunc.driver.evaluate import with_runs
from clfunc.scenarios import Scenario, Stream
from clfunc.types import Algorithm, Model, Params, State, Task

IMAGES = 60_000


class Case(NamedTuple):
    """One row of the benchmark. Every optimiser is plain SGD.

    Fields:
        name: Name of the case.
        method: `finetuning`, `hat`, `cbp`, or one of `OPENED`.
        hidden: Units of each hidden layer.
        batch: Examples of a step.
        runs: The numbers of runs that are measured unless others are asked for.
        steps: Steps of one repetition.
        lr: Learning rate.
        channels: Channels of a convolutional network's blocks; none for a multi-layer perceptron.
        data: `images` or `bits`.
        init: How weights are drawn; see `cl.mlp`.
    """

    name: str
    method: str
    hidden: tuple[int, ...]
    batch: int
    runs: tuple[int, ...]
    steps: int
    lr: float
    channels: tuple[int, ...] = ()
    data: str = "images"
    init: str = "torch"


WIDE: dict[str, Any] = {
    "hidden": (256, 256),
    "batch": 128,
    "runs": (1, 4, 16, 64),
    "steps": 32,
    "lr": 0.05,
}
TINY: dict[str, Any] = {
    "hidden": (5,),
    "batch": 1,
    "runs": (100,),
    "steps": 1024,
    "lr": 0.01,
    "data": "bits",
    "init": "kaiming",
}
REPLAYED = 32  # examples that a term or a projection draws at each step
# Methods of terms, memories and projections, and how many examples each adds to a step.
OPENED = {"er": REPLAYED, "ewc": 0, "a_gem": REPLAYED, "derpp": 2 * REPLAYED}
OPENED_RUNS = (1, 16, 64)
_ROWS = (
    Case("finetuning", "finetuning", **WIDE),
    Case("hat", "hat", **WIDE),
    Case("cbp", "cbp", **WIDE),
    Case("tiny", "finetuning", **TINY),
    Case("tiny_cbp", "cbp", **TINY),
    Case("online", "finetuning", (100, 100), 1, (32,), 256, 0.01, init="kaiming"),
    Case("convnet", "finetuning", (128,), 64, (8,), 4, 0.05, channels=(32, 64)),
    *[Case(name, name, **(WIDE | {"runs": OPENED_RUNS})) for name in OPENED],
)
CASES = {case.name: case for case in _ROWS}


class Job(NamedTuple):
    """A case at a number of runs. Trees have an axis of runs, unless there is one run."""

    case: Case
    runs: int
    scenario: Scenario
    stream: Stream
    model: Model
    algorithm: Algorithm
    params: Params
    state: State

    def many(self, tree: Any) -> Any:
        """A tree of this job with an axis of runs, also if there is one run."""
        if self.runs > 1:
            return tree
        return cl.tree.map(lambda leaf: leaf[None], tree)


def job(case: Case, runs: int, device: str, tasks: int = 2, **model: Any) -> Job:
    """A case at its start: weights are drawn, task 0 has ended untrained, and task 1 has begun.

    Args:
        case: A row of the benchmark.
        runs: Number of runs.
        device: Where to train.
        tasks: Number of tasks of the scenario.
        model: Other settings of the network.
    """
    key = torch.stack([cl.random.key(seed) for seed in range(runs)]).to(device)
    if runs == 1:
        key = key[0]
    scenario = _scenario(case, key, tasks).to(device)
    network = _model(case, scenario, **model)
    algorithm = _algorithm(case, network, tasks)
    if runs > 1:
        algorithm = cl.sweep([algorithm] * runs)
    params, state = cl.tree.to(algorithm.init(key), device)
    count = None if runs == 1 else runs
    for phase in (0, 1):
        stream = with_runs(scenario, scenario.train(phase), count)
        steps = -(-stream.train.shape[-1] // case.batch)
        task = Task(
            id=stream.task,
            steps_per_epoch=torch.full_like(stream.task, steps),
            epochs=torch.ones_like(stream.task),
        )
        params, state = algorithm.begin_task(params, state, task)
        if phase == 0:
            params, state = algorithm.end_task(params, state)
    return Job(case, runs, scenario, stream, network, algorithm, params, state)


def entries(job: Job, steps: int, seed: int) -> Tensor:
    """The examples of some steps, as the driver lists them.

    They are `[steps, runs, batch]`, or `[steps, batch]` if there is one run.
    """
    batch = (job.case.batch,) if job.runs == 1 else (job.runs, job.case.batch)
    generator = torch.Generator().manual_seed(seed)
    most = job.stream.train.shape[-1]
    drawn = torch.randint(most, (steps, *batch), generator=generator)
    return drawn.to(job.stream.train.device)


def hurried(state: State) -> State:
    """The state of continual backprop with numbers at which units are reset every other step."""
    opt = state.opt
    widest = max(units.age.shape[-1] for units in opt.units.values())
    hurried_opt = opt._replace(
        replacement_rate=torch.full_like(opt.replacement_rate, 0.6 / widest),
        maturity_threshold=torch.full_like(opt.maturity_threshold, 2.0),
    )
    return state._replace(opt=hurried_opt)


def _scenario(case: Case, key: Tensor, tasks: int) -> Scenario:
    if case.data == "bits":
        return cl.scenarios.slowly_changing_regression(tasks, key)
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(256, (IMAGES, 1, 28, 28), dtype=torch.uint8, generator=draw)
    y = torch.randint(10, (IMAGES,), generator=draw)
    data = cl.datasets.Dataset("synthetic", x, y, IMAGES, 10, 127.5, 73.9)
    paradigm = "dil" if case.method in OPENED else "til"
    return cl.scenarios.permuted(data, tasks, key, paradigm=paradigm)


def _model(case: Case, scenario: Scenario, **more: Any) -> Model:
    if case.channels:
        return cl.convnet(
            scenario.inputs, case.hidden, scenario.head(), channels=case.channels, **more
        )
    return cl.mlp(scenario.inputs, case.hidden, scenario.head(), weight_init=case.init, **more)


def _algorithm(case: Case, model: Model, tasks: int) -> Algorithm:
    tx = cl.sgd(case.lr)
    if case.method == "hat":
        return cl.hat(model, tx, num_tasks=tasks)
    if case.method == "cbp":
        return cl.cbp(model, tx, slots=1)
    if case.method == "er":
        return cl.er(model, tx, capacity=500, batch=REPLAYED)
    if case.method == "ewc":
        return cl.ewc(model, tx, strength=10.0)
    if case.method == "a_gem":
        return cl.a_gem(model, tx, capacity=500, batch=REPLAYED)
    if case.method == "derpp":
        return cl.derpp(model, tx, capacity=500, batch=REPLAYED)
    return cl.finetuning(model, tx)
