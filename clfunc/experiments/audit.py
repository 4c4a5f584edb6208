"""`audit`: what an algorithm that forgets on request is worth, beside the networks that it is to be compared with.

One sweep holds, for every seed,

    unlearned   which forgets what is asked, when it is asked
    original    which forgets nothing
    oracle k    which never trains the tasks that the first k unlearnings forget: what `unlearned` should be after the k-th

All members of a seed have its key: the same first weights, the same tasks, the same order of each task's examples. What is
measured after each unlearning is in `clfunc.unlearning.measures`: accuracies, the distance to the oracle on features of test examples
of the tasks that remain and of those forgotten (means over the tasks), the attack on a forgotten task's training and test
examples (mean over the tasks), and what is left of the updates.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from clfunc import tree
from clfunc.algorithms import amnesiac
from clfunc.driver.algorithm_record import read_algorithm
from clfunc.driver.evaluate import AT_ONCE, bare, with_runs
from clfunc.driver.loop import start_and_order
from clfunc.driver.run import run
from clfunc.driver.timeline import timeline
from clfunc.engine.sweep import members, sweep
from clfunc.experiments import audit_plots
from clfunc.losses import cross_entropy_each, squared_error_each
from clfunc.results import plots
from clfunc.results import result as results
from clfunc.results.files import check_writable, write_text
from clfunc.results.result import Result
from clfunc.scenarios import Scenario, Stream
from clfunc.types import Algorithm, Batch, Keys, Params, Settings, State
from clfunc.unlearning import measures as unlearning
from clfunc.unlearning import records
from clfunc.unlearning.forget_sets import ForgetSet

if TYPE_CHECKING:
    import xarray

EXAMPLES = (
    2048  # of a task's test (and training) examples, evenly spaced: as many as measures look at
)


class Stage(NamedTuple):
    """An unlearning: after which task, and all that has been forgotten when it is done. Tasks count from 0."""

    after: int
    forgotten: tuple[ForgetSet, ...]

    @property
    def tasks(self) -> tuple[int, ...]:
        """The tasks of the sets."""
        return tuple(forget_set.task for forget_set in self.forgotten)


class Plan(NamedTuple):
    """The runs of an audit: the members one after another, each with all its seeds."""

    algorithm: Algorithm  # a sweep
    scenario: Scenario  # of the seeds
    key: Keys  # [runs, 2]
    seeds: int
    stages: tuple[Stage, ...]
    requests: dict[int, list[ForgetSet]]

    @property
    def members(self) -> list[str]:
        return ["unlearned", "original", *(f"oracle {k}" for k in range(1, len(self.stages) + 1))]

    @property
    def member(self) -> list[str]:
        """Of each run."""
        return [name for name in self.members for _ in range(self.seeds)]

    def rows(self, *members: str) -> Tensor:
        """The runs of these members."""
        return torch.tensor(
            [row for name in members for row, own in enumerate(self.member) if own == name]
        )


class Audit(NamedTuple):
    """What `audit` returns."""

    result: Result  # of all runs; its coordinate `member` says what each is
    stages: tuple[Stage, ...]
    measures: dict[str, Tensor]  # float64 [stages, runs]; NaN where there is nothing to measure


def plan(
    algorithm: Algorithm, scenario: Scenario, key: Keys, requests: Mapping[int, Sequence[ForgetSet]]
) -> Plan:
    """The runs of an audit; arguments and errors as in `audit`."""
    if members(algorithm):
        raise ValueError(
            "audit takes one algorithm and as many keys as there are seeds, given a sweep"
        )
    if algorithm.unlearn is None and algorithm.settings.get("name") == "amnesiac":
        raise ValueError(
            "audit subtracts what amnesiac recorded, given one that keeps no records: leave out record=False"
        )
    able = (
        algorithm
        if algorithm.unlearn is not None
        else amnesiac(algorithm, num_tasks=scenario.num_tasks)
    )
    events = [
        event
        for event in timeline(scenario, read_algorithm(able), None, requests, ()).events
        if event.kind == "unlearned"
    ]
    if not events:
        raise ValueError(
            "requests must name a task to forget, as {1: [cl.ForgetSet(task=0)]} does,"
            f" given {dict(requests)}"
        )
    gone: list[ForgetSet] = []
    stages = []
    for event in events:
        gone += event.forgets[0]
        stages.append(Stage(event.task, tuple(sorted(gone))))
    keys = key.reshape(-1, 2).repeat(2 + len(stages), 1)
    asked = {event.task: list(event.forgets[0]) for event in events}
    return Plan(
        sweep([able] * len(keys)), scenario, keys, len(key.reshape(-1, 2)), tuple(stages), asked
    )


def audit(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    requests: Mapping[int, Sequence[ForgetSet]],
    *,
    out: str | Path | None = None,
    config: dict[str, Any] | None = None,
    **how: Any,
) -> Audit:
    """Train, forget and measure, beside the original and the oracles.

    Args:
        algorithm: One that can unlearn, or any other, which is then wrapped in `amnesiac`.
        scenario: Shared by all seeds, or with an axis of them.
        key: `[2]`, or `[seeds, 2]`.
        requests: `{1: [ForgetSet(task=0)]}`: after task 1 forget task 0. Tasks count from 0.
        out: A folder for results and figures; nothing is written without.
        config: What else to record in config.json.
        how: What else `run` takes: epochs, batch_size, engine, evaluate, probe_every, device, progress.

    Raises:
        ValueError: A sweep, a request that cannot be met, or what `run` refuses.
    """
    planned = plan(algorithm, scenario, key, requests)
    if out is not None:
        check_writable(Path(out))
    rest = [()] * planned.seeds
    skip = rest + rest + [stage.tasks for stage in planned.stages for _ in rest]
    asked = [planned.requests if name == "unlearned" else {} for name in planned.member]
    own = scenario.part([seed for _ in planned.members for seed in range(planned.seeds)])
    about = {"algorithm": _named(planned.algorithm.settings["members"][0])} | (config or {})
    how |= {"requests": asked, "skip": skip, "config": about}
    result = run(planned.algorithm, own, planned.key, **how)
    result = result._replace(coordinates={"member": planned.member, **result.coordinates})
    found = Audit(result, planned.stages, measures(planned, result))
    if out is not None:
        save(found, Path(out))
    return found


def _named(settings: Settings) -> str:
    """`amnesiac(hat)`."""
    return settings["name"] + (f"({_named(settings['inner'])})" if "inner" in settings else "")


def measures(planned: Plan, result: Result) -> dict[str, Tensor]:
    """Everything that is measured after each unlearning, `[stages, runs]`."""
    device = tree.leaves(result.params)[0].device
    with torch.no_grad():
        start, _ = start_and_order(planned.key.to(device))
        begun = tree.to(planned.algorithm.init(start), device)
        rows = [_measured(planned, result, at, begun) for at in range(len(planned.stages))]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


class _Snapshot(NamedTuple):
    """The runs that are compared after an unlearning, and what they are compared on; members as in `rows`."""

    algorithm: Algorithm
    scenario: Scenario
    params: Params
    state: State
    seeds: int
    forgotten: list[int]  # from 0
    remaining: list[int]

    def over(self, stream: Stream, part: int, f: Callable[[Batch], Tensor]) -> Tensor:
        """`f` of the examples of a part of a task, `[runs, examples, ...]` on the CPU."""
        runs = tree.leaves(self.params)[0].shape[0]
        stream = with_runs(self.scenario, stream, runs)
        entries = spaced((stream.train, stream.valid, stream.test)[part], stream.sizes[..., part])
        make = vmap(self.scenario.batch, in_dims=(None, 0, 0))
        batches = entries.split(max(1, AT_ONCE // runs), -1)
        return torch.cat(
            [f(make(self.scenario.data, bare(stream), some)).cpu() for some in batches], 1
        )

    def losses(self, batch: Batch) -> Tensor:
        each = squared_error_each if self.scenario.paradigm == "regression" else cross_entropy_each
        return vmap(each)(
            self.algorithm.predict(self.params, self.state, batch.x, batch.task), batch.y
        )

    def features(self, batch: Batch) -> Tensor:
        assert self.algorithm.features is not None
        return self.algorithm.features(self.params, self.state, batch.x, batch.task)


def spaced(listed: Tensor, size: Tensor, most: int = EXAMPLES) -> Tensor:
    """At most so many entries of each run's list, evenly spaced over the part that counts."""
    count = min(most, int(size.min()))
    return listed.gather(-1, torch.arange(count, device=listed.device) * size[..., None] // count)


def _measured(
    planned: Plan, result: Result, at: int, begun: tuple[Params, State]
) -> dict[str, Tensor]:
    """What is measured after one unlearning, over all runs: NaN for the oracles of others."""
    stage = planned.stages[at]
    rows = planned.rows("unlearned", "original", f"oracle {at + 1}")
    event = [row for row, e in enumerate(result.events) if e.kind == "unlearned"][at]
    params, state = result.snapshots[at]
    there = rows.to(tree.leaves(params)[0].device)
    params, state = tree.index((params, state), there)
    scenario = planned.scenario.to(there.device).part((rows % planned.seeds).tolist())
    forgotten = list(stage.tasks)
    remaining = [task for task in range(stage.after + 1) if task not in forgotten]
    shown = _Snapshot(
        planned.algorithm, scenario, params, state, planned.seeds, forgotten, remaining
    )

    found = (
        _accuracies(shown, result.accuracy[event][:, rows]) | _distances(shown) | _attacks(shown)
    )
    found |= _residuals(shown, tree.index(begun, there))

    blank = torch.full((len(planned.member),), torch.nan, dtype=torch.float64)
    return {
        name: blank.index_put((rows,), values.to(torch.float64)) for name, values in found.items()
    }


def _accuracies(shown: _Snapshot, accuracy: Tensor) -> dict[str, Tensor]:
    """Of `[tested, runs]`: means over the tasks that remain and those forgotten, the gain, and what is above chance."""
    tasks, runs = accuracy.shape
    original = accuracy[:, shown.seeds : 2 * shown.seeds].repeat(1, runs // shown.seeds)
    gone, kept = (
        torch.tensor([t in part for t in range(tasks)])
        for part in (shown.forgotten, shown.remaining)
    )
    classes = torch.tensor(shown.scenario.classes, dtype=torch.float64)
    classes = classes.sum().expand(tasks) if shown.scenario.paradigm == "cil" else classes
    over = (1, None)
    return {
        "accuracy_remaining": vmap(unlearning.mean_over, over)(accuracy, kept),
        "accuracy_forgotten": vmap(unlearning.mean_over, over)(accuracy, gone),
        "accuracy_gain": vmap(unlearning.accuracy_gain, (1, 1, None))(accuracy, original, kept),
        "above_chance": vmap(unlearning.above_chance, (1, None, None))(accuracy, classes, gone),
    }


def _distances(shown: _Snapshot) -> dict[str, Tensor]:
    """To the seed's oracle, on test examples: `cka_remaining`, `cka_forgotten`, ..., each a mean over tasks."""
    if shown.algorithm.features is None:
        return {}
    found = {}
    for word, tasks in (("remaining", shown.remaining), ("forgotten", shown.forgotten)):
        rows = [
            _task_distances(shown.over(shown.scenario.test(task), 2, shown.features), shown.seeds)
            for task in tasks
        ]
        for name in unlearning.distances:
            values = [row[name] for row in rows] or [torch.full((3 * shown.seeds,), torch.nan)]
            found[f"{name}_{word}"] = torch.stack(values).mean(0)
    return found


def _task_distances(features: Tensor, seeds: int) -> dict[str, Tensor]:
    """Of `[runs, examples, units]`, the last seeds of which are the oracle's."""
    oracle = features[-seeds:]
    return {
        name: torch.stack([f(own, oracle[row % seeds]) for row, own in enumerate(features)])
        for name, f in unlearning.distances.items()
    }


def _attacks(shown: _Snapshot) -> dict[str, Tensor]:
    """Whether losses tell a forgotten task's training examples from its test examples."""
    attacks = {
        "membership_auc": unlearning.membership_auc,
        "membership_advantage": unlearning.membership_advantage,
    }
    found: dict[str, list[Tensor]] = {name: [] for name in attacks}
    for task in shown.forgotten:
        losses = [shown.over(shown.scenario.test(task), part, shown.losses) for part in (0, 2)]
        for name, attack in attacks.items():
            found[name].append(torch.stack([attack(*pair) for pair in zip(*losses, strict=True)]))
    return {name: torch.stack(values).mean(0) for name, values in found.items()}


def _residuals(shown: _Snapshot, begun: tuple[Params, State]) -> dict[str, Tensor]:
    """What the updates on record do not explain of the parameters, shared and of every task; nothing without records."""
    state = shown.state
    while not hasattr(state, "records"):
        if not hasattr(state, "inner"):
            return {}
        state = state.inner
    bank = vmap(records.every)(state.records)
    now, start = (shown.algorithm.own(*of) for of in ((shown.params, shown.state), begun))
    kept = {
        g: tree.map(lambda every: every.sum(1), part) for g, part in bank.items() if g not in now
    }
    now, start = (
        {g: of[g] for g in kept} | {"own": own}
        for of, own in ((shown.params, now), (begun[0], start))
    )
    kept |= {"own": {group: bank[group] for group in now["own"]}}
    if (
        state.records.requests != ()
    ):  # rows of tasks, then of requests: only their sum is known here
        now["own"], start["own"], kept["own"] = (
            tree.map(lambda rows: rows.sum(1), of["own"]) for of in (now, start, kept)
        )
    return {"residual": vmap(unlearning.residual)(now, start, kept).cpu()}


def to_xarray(audit: Audit) -> "xarray.Dataset":
    """The labelled Dataset of all runs, with `unlearning_...` over `run, unlearning`, and what each unlearning is."""
    data = results.to_xarray(audit.result)
    data = data.assign_coords(
        unlearning=range(len(audit.stages)),
        after=("unlearning", [stage.after for stage in audit.stages]),
        forgotten=("unlearning", [", ".join(map(str, stage.tasks)) for stage in audit.stages]),
    )
    variables = {
        f"unlearning_{name}": (("run", "unlearning"), v.T.numpy())
        for name, v in audit.measures.items()
    }
    return data.assign(variables)


def save(audit: Audit, out: Path) -> None:
    """Write what `run` writes, the measures into `results.nc` and `unlearning.csv`, and a figure of each."""
    data = results.save(audit.result, out, to_xarray(audit))
    write_text(out / "unlearning.csv", unlearning_csv(audit))
    plots.save(data, out / "figures")
    audit_plots.save(data, out / "figures")


def unlearning_csv(audit: Audit) -> str:
    """Tidy: `run, seed, member, after, forgotten, metric, value`; `forgotten` is all that is by then, with spaces between."""
    seeds, member = audit.result.config["seeds"], audit.result.coordinates["member"]
    lines = ["run,seed,member,after,forgotten,metric,value"]
    for name, values in audit.measures.items():
        for stage, row in zip(audit.stages, values.tolist(), strict=True):
            gone = " ".join(map(str, stage.tasks))
            known = ((run, value) for run, value in enumerate(row) if not math.isnan(value))
            lines += [
                f"{run},{seeds[run]},{member[run]},{stage.after},{gone},{name},{value!r}"
                for run, value in known
            ]
    return "\n".join(lines) + "\n"
