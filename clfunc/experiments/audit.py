"""`audit`: what an algorithm that forgets on request is worth, beside the networks that it is to be
compared with.

One sweep holds, for every seed,

    unlearned   which forgets on request
    original    which forgets nothing
    oracle k    which never trains on what is forgotten by the k-th unlearning, as `unlearned`
                should be after it

All members of a seed have its key: the same first weights, the same tasks, the same order of each
task's examples. An oracle that leaves out some examples of a task takes as many steps on the other
examples, in another order.

After each unlearning, `clfunc.unlearning.measures` gives accuracies, the distance to the oracle on
features of the tasks that remain and of the forgotten sets (means over tasks or sets), the attack
on the examples of a forgotten set (a mean over sets), and what is left of the updates. A task of
which only some examples are forgotten remains. The examples of a forgotten task are its test
examples, the examples of forgotten classes are their test examples, and forgotten rows are training
examples.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from clfunc.driver.options import RunOptions
from clfunc.driver.progress import say
from clfunc.driver.run import run_with
from clfunc.experiments import audit_plots
from clfunc.experiments.audit_measures import diverged_before, measures
from clfunc.experiments.audit_plan import Plan, Stage, plan
from clfunc.results import plots
from clfunc.results import result as results
from clfunc.results.files import check_writable, write_text
from clfunc.results.result import Result
from clfunc.scenarios import Scenario
from clfunc.types import Algorithm, Keys, Settings
from clfunc.unlearning.forget_sets import ForgetSet, compact

if TYPE_CHECKING:
    import xarray


class Audit(NamedTuple):
    """What `audit` returns."""

    result: Result  # of all runs; its coordinate `member` names the member of each
    stages: tuple[Stage, ...]
    measures: dict[str, Float[Tensor, "stages runs"]]  # NaN where there is nothing to measure
    unmet: tuple[tuple[int, ...], ...] = ()  # for each stage, runs that diverged before it


def audit(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    requests: Mapping[int, Sequence[ForgetSet]],
    *,
    out: str | Path | None = None,
    config: dict[str, Any] | None = None,
    **keywords: Any,
) -> Audit:
    """Train, forget and measure, beside the original and the oracles.

    >>> import clfunc as cl
    >>> data = cl.datasets.load("digits").first(40, 20)
    >>> scenario = cl.scenarios.permuted(data, 2, cl.random.key(0))
    >>> algorithm = cl.finetuning(cl.mlp(scenario.inputs, (8,), scenario.head()), cl.sgd(0.1))
    >>> requests = {1: [cl.ForgetSet(task=0)]}
    >>> quiet = {"engine": "eager", "progress": False}
    >>> found = cl.audit(algorithm, scenario, cl.random.key(1), requests, **quiet)
    >>> found.result.coordinates["member"], found.measures["accuracy_forgotten"].shape
    (['unlearned', 'original', 'oracle 1'], torch.Size([1, 3]))

    Args:
        algorithm: One that can unlearn, or any other, which is then wrapped in `amnesiac`. Sets of
            examples must be declared, so it is then `amnesiac(..., forget_sets=[...])`.
        scenario: Shared by all seeds, or with an axis of them.
        key: `[2]`, or `[seeds, 2]`.
        requests: `{1: [ForgetSet(task=0)]}` forgets task 0 after task 1. Tasks count from 0.
        out: A folder for results and figures; nothing is written without.
        config: What else to record in config.json.
        keywords: What else `run` takes: epochs, batch_size, engine, evaluate, probe_every, device,
            progress.

    Raises:
        ValueError: A sweep, a request that cannot be met, a set that a function marks, or what
            `run` refuses.
    """
    options = RunOptions(**keywords)
    planned = plan(algorithm, scenario, key, requests)
    if out is not None:
        check_writable(Path(out))
    about = {"algorithm": _named(planned.algorithm.settings["members"][0])} | (config or {})
    options = options.changed(requests=planned.requests_of_runs, skip=planned.skipped, config=about)
    result = run_with(planned.algorithm, planned.scenario_of_runs(), planned.key, options)
    result = result._replace(coordinates={"member": planned.member, **result.coordinates})
    found = Audit(
        result=result,
        stages=planned.stages,
        measures=measures(planned, result),
        unmet=_unmet(planned, result),
    )
    for line in unmet_lines(found):
        say(line, options.progress)
    if out is not None:
        save(found, Path(out))
    return found


def _named(settings: Settings) -> str:
    """`amnesiac(hat)`."""
    name = str(settings["name"])
    return f"{name}({_named(settings['inner'])})" if "inner" in settings else name


def _unmet(planned: Plan, result: Result) -> tuple[tuple[int, ...], ...]:
    """For each stage, the runs that were to forget and had diverged before."""
    rows = planned.rows("unlearned")
    unmet = []
    for stage in planned.stages:
        lost = diverged_before(planned, result, stage)[rows]
        unmet.append(tuple(rows[lost].tolist()))
    return tuple(unmet)


def unmet_lines(audit: Audit) -> list[str]:
    """A line, for a person, about each request that some runs did not meet."""
    lines = []
    for stage, runs in zip(audit.stages, audit.unmet, strict=False):
        if runs:
            listed = ", ".join(str(run) for run in runs)
            lines.append(
                f"the request after task {stage.after + 1} is not met by run {listed}, which"
                " diverged"
                " before it: its measures are NaN"
            )
    return lines


def to_xarray(audit: Audit) -> "xarray.Dataset":
    """The labelled Dataset of all runs, with `unlearning_...` over `run, unlearning`.

    The coordinate `after` is the last task before each unlearning. `forgotten` lists all that is
    forgotten when it is done, as `clfunc.unlearning.forget_sets.compact` writes it. Task numbers
    count from 0.
    """
    data = results.to_xarray(audit.result)
    forgotten = [_listed(stage, ", ") for stage in audit.stages]
    data = data.assign_coords(
        unlearning=range(len(audit.stages)),
        after=("unlearning", [stage.after for stage in audit.stages]),
        forgotten=("unlearning", forgotten),
    )
    variables = {}
    for name, values in audit.measures.items():
        variables[f"unlearning_{name}"] = (("run", "unlearning"), values.T.numpy())
    return data.assign(variables)


def _listed(stage: Stage, between: str) -> str:
    return between.join(compact(forget_set) for forget_set in stage.forgotten)


def save(audit: Audit, out: Path) -> None:
    """Write what `run` writes, the measures into `results.nc` and `unlearning.csv`, and a figure of
    each.
    """
    data = results.save(audit.result, out, to_xarray(audit))
    write_text(out / "unlearning.csv", unlearning_csv(audit))
    plots.save(data, out / "figures")
    audit_plots.save(data, out / "figures")


def unlearning_csv(audit: Audit) -> str:
    """Tidy: `run, seed, member, after, forgotten, metric, value`.

    `forgotten` lists all that is forgotten by then, with spaces between, as `forget_sets.compact`
    writes it. Task numbers count from 0.
    """
    seeds = audit.result.config["seeds"]
    member = audit.result.coordinates["member"]
    lines = ["run,seed,member,after,forgotten,metric,value"]
    for name, values in audit.measures.items():
        for stage, row in zip(audit.stages, values.tolist(), strict=True):
            forgotten = _listed(stage, " ")
            for number, value in enumerate(row):
                if not math.isnan(value):
                    about = f"{number},{seeds[number]},{member[number]},{stage.after},{forgotten}"
                    lines.append(f"{about},{name},{value!r}")
    return "\n".join(lines) + "\n"
