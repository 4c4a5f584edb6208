"""What is measured while a run trains.

Held-out examples are scored after an epoch, tasks after an event; probes look at the algorithm.
"""

import torch
from torch import Tensor

from clfunc import tree
from clfunc.driver.active import nan_unless
from clfunc.driver.evaluate import bare, over_runs, score
from clfunc.driver.run_state import RunState, extended
from clfunc.driver.schedule import Schedule
from clfunc.results.events import Event
from clfunc.results.result import Curve
from clfunc.scenarios import Stream
from clfunc.types import Algorithm, Metrics

_PROBED_EXAMPLES = 256  # a probe sees the examples of the last steps, about so many


def validated(
    algorithm: Algorithm,
    schedule: Schedule,
    run_state: RunState,
    active: Tensor,
    stream: Stream,
    epoch_curve: Curve,
) -> tuple[RunState, Metrics]:
    """The metrics for `end_epoch`.

    They are the scores of the held-out examples; where there are none, the epoch's mean metrics.
    Metrics of held-out examples are a point of the validation curve.
    """
    device = stream.task.device
    if not stream.valid.shape[-1]:
        return run_state, tree.map(lambda v: v.mean(0).to(device), epoch_curve.values)
    params, state = run_state.params, run_state.state
    scenario, runs = schedule.scenario, schedule.runs
    metrics = score(algorithm, scenario, params, state, stream, "valid", runs)
    point = Curve(
        step=epoch_curve.step[-1:],
        task=epoch_curve.task[-1:],
        values=tree.map(lambda v: v[None].cpu(), nan_unless(active, metrics)),
    )
    return run_state._replace(validation=extended(run_state.validation, point)), metrics


def tested(
    algorithm: Algorithm, schedule: Schedule, run_state: RunState, event: Event, task: int
) -> RunState:
    """The run state with the accuracy of a task after an event; NaN for a run that has diverged."""
    params, state = run_state.params, run_state.state
    scenario, runs = schedule.scenario, schedule.runs
    stream = schedule.test_stream(task)
    metrics = score(algorithm, scenario, params, state, stream, "test", runs)
    found = {"accuracy": metrics["accuracy"].cpu()}
    accuracy = run_state.accuracy.clone()
    accuracy[run_state.event, task] = nan_unless(run_state.diverged < 0, found)["accuracy"]
    return run_state._replace(accuracy=accuracy)


def probed(
    algorithm: Algorithm,
    schedule: Schedule,
    run_state: RunState,
    stream: Stream,
    entries: Tensor,
    phase: int,
) -> RunState:
    """The run state with what the algorithm's probe measures.

    Numbers and vectors become a point of the curve of probes. Pictures replace the last ones.
    The probe sees the examples of the last steps, `_PROBED_EXAMPLES` of them or a batch, whichever
    is more. Numbers and vectors of a run that has diverged are NaN.
    """
    if algorithm.probe is None:
        return run_state
    steps = max(1, _PROBED_EXAMPLES // schedule.options.batch_size)
    shown = entries[-steps:].movedim(0, -2).flatten(-2)
    make_batch = over_runs(schedule.scenario.batch, schedule.runs, (None, 0, 0))
    batch = make_batch(schedule.scenario.data, bare(stream), shown)
    answers = tree.to(algorithm.probe(run_state.params, run_state.state, batch), "cpu")

    most_axes = 1 if schedule.runs is None else 2
    values, pictures = {}, {}
    for name, answer in answers.items():
        if answer.ndim <= most_axes:
            values[name] = _nan_where_diverged(run_state, answer)[None]
        else:
            pictures[name] = answer
    point = Curve(step=torch.tensor([run_state.done]), task=torch.tensor([phase]), values=values)
    return run_state._replace(probes=extended(run_state.probes, point), pictures=pictures)


def _nan_where_diverged(run_state: RunState, answer: Tensor) -> Tensor:
    """A probe's answer, `[*runs]` or `[*runs, units]`, with NaN for the runs that have diverged."""
    lost = run_state.diverged >= 0
    if not lost.any():
        return answer
    return torch.where(tree.expand_last(lost, answer.ndim), torch.nan, answer)
