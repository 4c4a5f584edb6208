"""The cases, and a job: one case at a number of runs, as the state from which all contenders start.

Images are synthetic, of Fashion-MNIST's size, permuted anew by each run and task. Task 0 is begun and ended untrained, so that
`hat` starts task 1 with half of its units used. `bits` is slowly changing regression.
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
    """One row of the benchmark. Every optimiser is plain SGD."""

    name: str
    method: str  # finetuning, hat or cbp
    hidden: tuple[int, ...]
    batch: int
    runs: tuple[int, ...]  # numbers of runs measured unless others are asked for
    steps: int  # of one repetition
    lr: float
    channels: tuple[
        int, ...
    ] = ()  # of a convolutional network's blocks; none is a multi-layer perceptron
    data: str = "images"
    init: str = "torch"


CASES = {
    case.name: case
    for case in (
        Case("finetuning", "finetuning", (256, 256), 128, (1, 4, 16, 64), 32, 0.05),
        Case("hat", "hat", (256, 256), 128, (1, 4, 16, 64), 32, 0.05),
        Case("cbp", "cbp", (256, 256), 128, (1, 4, 16, 64), 32, 0.05),
        Case("tiny", "finetuning", (5,), 1, (100,), 1024, 0.01, data="bits", init="kaiming"),
        Case("tiny_cbp", "cbp", (5,), 1, (100,), 1024, 0.01, data="bits", init="kaiming"),
        Case("online", "finetuning", (100, 100), 1, (32,), 256, 0.01, init="kaiming"),
        Case("convnet", "finetuning", (128,), 64, (8,), 4, 0.05, channels=(32, 64)),
    )
}


class Job(NamedTuple):
    """A case at a number of runs. Trees have an axis of runs unless there is one run, which goes without."""

    case: Case
    runs: int
    scenario: Scenario
    stream: Stream
    model: Model
    algorithm: Algorithm
    params: Params
    state: State

    def many(self, tree: Any) -> Any:
        """A tree of this job with an axis of runs, also where there is one run."""
        return cl.tree.map(lambda leaf: leaf[None], tree) if self.runs == 1 else tree


def job(case: Case, runs: int, device: str, tasks: int = 2, **model: Any) -> Job:
    """The case's start: weights drawn, task 0 passed over, task 1 begun. `model` is what its network is told besides."""
    key = torch.stack([cl.random.key(seed) for seed in range(runs)]).to(device)
    key = key[0] if runs == 1 else key
    scenario = _scenario(case, key, tasks).to(device)
    network = _model(case, scenario, **model)
    algorithm = _algorithm(case, network, tasks)
    algorithm = algorithm if runs == 1 else cl.sweep([algorithm] * runs)
    params, state = cl.tree.to(algorithm.init(key), device)
    count = None if runs == 1 else runs
    for phase in (0, 1):
        stream = with_runs(scenario, scenario.train(phase), count)
        steps = torch.full_like(stream.task, -(-stream.train.shape[-1] // case.batch))
        params, state = algorithm.begin_task(
            params, state, Task(stream.task, steps, torch.ones_like(steps))
        )
        if phase == 0:
            params, state = algorithm.end_task(params, state)
    return Job(case, runs, scenario, stream, network, algorithm, params, state)


def entries(job: Job, steps: int, seed: int) -> Tensor:
    """The examples of `steps` steps, `[steps, runs, batch]` (or `[steps, batch]`), as the driver lists them."""
    shape = (steps, job.case.batch) if job.runs == 1 else (steps, job.runs, job.case.batch)
    drawn = torch.randint(
        job.stream.train.shape[-1], shape, generator=torch.Generator().manual_seed(seed)
    )
    return drawn.to(job.stream.train.device)


def hurried(state: State) -> State:
    """The state, with units of continual backprop that ripen in 2 steps and are reset every other: what a check looks at."""
    numbers = {"replacement_rate": 0.6, "maturity_threshold": 2.0}
    widths = {
        len(units.age.reshape(-1, units.age.shape[-1])[0]) for units in state.opt.units.values()
    }
    numbers["replacement_rate"] /= max(widths)
    return state._replace(
        opt=state.opt._replace(
            **{k: torch.full_like(getattr(state.opt, k), v) for k, v in numbers.items()}
        )
    )


def _scenario(case: Case, key: Tensor, tasks: int) -> Scenario:
    if case.data == "bits":
        return cl.scenarios.slowly_changing_regression(tasks, key)
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(256, (IMAGES, 1, 28, 28), dtype=torch.uint8, generator=draw)
    y = torch.randint(10, (IMAGES,), generator=draw)
    data = cl.datasets.Dataset("synthetic", x, y, IMAGES, 10, 127.5, 73.9)
    return cl.scenarios.permuted(data, tasks, key)


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
    return cl.cbp(model, tx, slots=1) if case.method == "cbp" else cl.finetuning(model, tx)
