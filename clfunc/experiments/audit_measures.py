"""What is measured after each unlearning of an audit, for all runs that are compared. See
`clfunc.unlearning.measures`.

A run that diverged before an unlearning never carries it out, so all its measures are NaN from
there on.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import vmap

from clfunc import tree
from clfunc.compose import bank_of
from clfunc.driver.evaluate import with_runs
from clfunc.driver.loop import start_and_order
from clfunc.experiments.audit_examples import chosen_first, marked, over_entries, spaced, within
from clfunc.experiments.audit_plan import Plan, Stage
from clfunc.losses import cross_entropy_each, squared_error_each
from clfunc.results.result import Result
from clfunc.scenarios import Scenario, Stream
from clfunc.types import Algorithm, Batch, Params, State
from clfunc.unlearning import measures as unlearning
from clfunc.unlearning import records
from clfunc.unlearning.forget_sets import ForgetSet

_PARTS = {"train": 0, "test": 2}
_ATTACKS = {
    "membership_auc": unlearning.membership_auc,
    "membership_advantage": unlearning.membership_advantage,
}


def measures(planned: Plan, result: Result) -> dict[str, Float[Tensor, "stages runs"]]:
    """Everything that is measured after each unlearning; NaN for the oracles of other unlearnings."""
    device = tree.leaves(result.params)[0].device
    rows = []
    with torch.no_grad():
        start, _ = start_and_order(planned.key.to(device))
        begun = tree.to(planned.algorithm.init(start), device)
        for number in range(len(planned.stages)):
            rows.append(_measured(planned, result, number, begun))
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def diverged_before(planned: Plan, result: Result, stage: Stage) -> Tensor:
    """Which runs had diverged when the unlearning of a stage was due, `Bool[runs]`."""
    trained = result.training.step[result.training.task <= stage.after]
    done = int(trained.max()) if len(trained) else 0
    return (result.diverged >= 0) & (result.diverged <= done)


class _Compared(NamedTuple):
    """The runs that are compared after an unlearning: the unlearned ones, the originals, then the
    oracles.
    """

    algorithm: Algorithm
    scenario: Scenario
    params: Params
    state: State
    seeds: int
    stage: Stage

    @property
    def runs(self) -> int:
        return 3 * self.seeds

    def entries(
        self, stream: Stream, part: str, forget_set: ForgetSet | None = None
    ) -> Int[Tensor, "runs n"]:
        """Entries of a part of a task, or those of them that a set holds."""
        position = _PARTS[part]
        listed = (stream.train, stream.valid, stream.test)[position]
        size = stream.sizes[..., position]
        if forget_set is not None and not forget_set.is_whole_task:
            held = marked(self.scenario, stream, listed, forget_set) & within(listed, size)
            listed, size = chosen_first(listed, held), held.sum(-1)
        return spaced(listed, size)

    def stream(self, task: int) -> Stream:
        """A task's stream with an axis of runs."""
        return with_runs(self.scenario, self.scenario.test(task), self.runs)

    def predictions(self, batch: Batch) -> Tensor:
        return self.algorithm.predict(self.params, self.state, batch.x, batch.task)

    def losses(self, batch: Batch) -> Float[Tensor, "runs n"]:
        is_regression = self.scenario.paradigm == "regression"
        each = squared_error_each if is_regression else cross_entropy_each
        return vmap(each)(self.predictions(batch), batch.y)

    def hits(self, batch: Batch) -> Float[Tensor, "runs n"]:
        """1 where the prediction is right and 0 where it is wrong; NaN where it is NaN."""
        logits = self.predictions(batch)
        right = (logits.argmax(-1) == batch.y).to(torch.float64)
        return torch.where(logits.isnan().any(-1), torch.nan, right)

    def features(self, batch: Batch) -> Float[Tensor, "runs n units"]:
        assert self.algorithm.features is not None
        return self.algorithm.features(self.params, self.state, batch.x, batch.task)


class _Evidence(NamedTuple):
    """The examples by which the forgetting of a set is measured, as entries of its task."""

    forget_set: ForgetSet
    stream: Stream
    members: Int[Tensor, "runs members"]  # examples that were trained on
    others: Int[Tensor, "runs others"]  # comparable examples that were not
    shown: Int[Tensor, "runs shown"]  # examples of which accuracy and features are looked at


def _evidence(compared: _Compared, forget_set: ForgetSet) -> _Evidence:
    """Test examples of a task or of classes are looked at, but for rows the training examples
    themselves.
    """
    stream = compared.stream(forget_set.task)
    members = compared.entries(stream, "train", forget_set)
    if forget_set.rows:
        others = compared.entries(stream, "test")
        return _Evidence(forget_set, stream, members, others, shown=members)
    others = compared.entries(stream, "test", forget_set)
    return _Evidence(forget_set, stream, members, others, shown=others)


def _measured(
    planned: Plan, result: Result, number: int, begun: tuple[Params, State]
) -> dict[str, Tensor]:
    """What is measured after one unlearning, over all runs: NaN for the oracles of others."""
    stage = planned.stages[number]
    rows = planned.rows("unlearned", "original", f"oracle {number + 1}")
    unlearnings = [row for row, event in enumerate(result.events) if event.kind == "unlearned"]
    accuracy = result.accuracy[unlearnings[number]][:, rows]

    device = tree.leaves(result.params)[0].device
    on_device = rows.to(device)
    params, state = tree.index(result.snapshots[number], on_device)
    compared = _Compared(
        algorithm=planned.algorithm,
        scenario=planned.scenario.to(device).part((rows % planned.seeds).tolist()),
        params=params,
        state=state,
        seeds=planned.seeds,
        stage=stage,
    )
    evidence = [_evidence(compared, forget_set) for forget_set in stage.sets]
    values = _accuracies(compared, accuracy, evidence)
    values |= _distances(compared, evidence)
    values |= _attacks(compared, evidence)
    values |= _residuals(compared, tree.index(begun, on_device))

    lost = diverged_before(planned, result, stage)[rows]
    without_oracle = lost[-planned.seeds :].repeat(3)
    blank = torch.full((len(planned.member),), torch.nan, dtype=torch.float64)
    over_all_runs = {}
    for name, value in values.items():
        is_distance = name.rpartition("_")[0] in unlearning.distances
        unknown = lost | without_oracle if is_distance else lost
        known = torch.where(unknown, torch.nan, value.to(torch.float64))
        over_all_runs[name] = blank.index_put((rows,), known)
    return over_all_runs


def _accuracies(
    compared: _Compared,
    accuracy: Float[Tensor, "tasks runs"],
    evidence: Sequence[_Evidence],
) -> dict[str, Tensor]:
    """Means over the tasks that remain and over the forgotten sets, the gain, and what is above
    chance.
    """
    tasks, runs = accuracy.shape
    seeds = compared.seeds
    original = accuracy[:, seeds : 2 * seeds].repeat(1, runs // seeds)
    kept = torch.tensor([task in compared.stage.remaining for task in range(tasks)])
    forgotten = torch.stack([_accuracy_of(compared, accuracy, one) for one in evidence])
    every = torch.ones(len(evidence), dtype=torch.bool)
    classes = torch.tensor(
        [_classes(compared.scenario, one.forget_set.task) for one in evidence],
        dtype=torch.float64,
    )
    over_tasks = vmap(unlearning.mean_over, (1, None))
    gain = vmap(unlearning.accuracy_gain, (1, 1, None))
    above_chance = vmap(unlearning.above_chance, (1, None, None))
    return {
        "accuracy_remaining": over_tasks(accuracy, kept),
        "accuracy_forgotten": over_tasks(forgotten, every),
        "accuracy_gain": gain(accuracy, original, kept),
        "above_chance": above_chance(forgotten, classes, every),
    }


def _classes(scenario: Scenario, task: int) -> int:
    """How many classes a guess chooses from."""
    return sum(scenario.classes) if scenario.paradigm == "cil" else scenario.classes[task]


def _accuracy_of(
    compared: _Compared, accuracy: Float[Tensor, "tasks runs"], one: _Evidence
) -> Float[Tensor, " runs"]:
    """The accuracy on a forgotten set: a whole task was tested in the run, a set of examples is
    tested here.
    """
    if one.forget_set.is_whole_task:
        return accuracy[one.forget_set.task]
    if compared.scenario.paradigm == "regression" or not one.shown.shape[-1]:
        return torch.full((compared.runs,), torch.nan, dtype=torch.float64)
    hits = over_entries(compared.scenario, one.stream, one.shown, compared.hits)
    return hits.mean(-1).cpu()


def _distances(compared: _Compared, evidence: Sequence[_Evidence]) -> dict[str, Tensor]:
    """Distances to the seed's oracle, `cka_remaining`, `cka_forgotten`, ..., each a mean over tasks
    or sets.
    """
    if compared.algorithm.features is None:
        return {}
    remaining = []
    for task in compared.stage.remaining:
        stream = compared.stream(task)
        remaining.append(_set_distances(compared, stream, compared.entries(stream, "test")))
    forgotten = [_set_distances(compared, one.stream, one.shown) for one in evidence]
    means = {}
    for word, rows in (("remaining", remaining), ("forgotten", forgotten)):
        for name in unlearning.distances:
            values = [row[name] for row in rows] or [torch.full((compared.runs,), torch.nan)]
            means[f"{name}_{word}"] = torch.stack(values).mean(0)
    return means


def _set_distances(
    compared: _Compared, stream: Stream, entries: Int[Tensor, "runs n"]
) -> dict[str, Float[Tensor, " runs"]]:
    """Each run's distance to the oracle of its seed, on these examples; the last runs are the
    oracles.
    """
    if not entries.shape[-1]:
        unknown = torch.full((compared.runs,), torch.nan)
        return dict.fromkeys(unlearning.distances, unknown)
    features = over_entries(compared.scenario, stream, entries, compared.features).cpu()
    oracles = features[-compared.seeds :]
    values = {}
    for name, distance in unlearning.distances.items():
        apart = [
            distance(of_run, oracles[run % compared.seeds]) for run, of_run in enumerate(features)
        ]
        values[name] = torch.stack(apart)
    return values


def _attacks(compared: _Compared, evidence: Sequence[_Evidence]) -> dict[str, Tensor]:
    """Whether losses tell the examples that were trained on from the others, a mean over the sets."""
    values: dict[str, list[Tensor]] = {name: [] for name in _ATTACKS}
    for one in evidence:
        members = _losses(compared, one.stream, one.members)
        others = _losses(compared, one.stream, one.others)
        for name, attack in _ATTACKS.items():
            each = [attack(*pair) for pair in zip(members, others, strict=True)]
            values[name].append(torch.stack(each).to(torch.float64))
    return {name: torch.stack(of_sets).mean(0) for name, of_sets in values.items()}


def _losses(
    compared: _Compared, stream: Stream, entries: Int[Tensor, "runs n"]
) -> Float[Tensor, "runs n"]:
    if not entries.shape[-1]:
        return torch.zeros(entries.shape, dtype=torch.float64)
    return over_entries(compared.scenario, stream, entries, compared.losses).cpu()


def _residuals(compared: _Compared, begun: tuple[Params, State]) -> dict[str, Tensor]:
    """What the records do not explain of the parameters, shared and of every task; nothing without
    records.
    """
    state = compared.state
    while not hasattr(state, "records"):
        if not hasattr(state, "inner"):
            return {}
        state = state.inner
    bank = vmap(records.every)(state.records)
    rows_of_tasks = bank_of(compared.algorithm).rows
    own_now = rows_of_tasks(compared.params, compared.state)
    own_start = rows_of_tasks(*begun)
    own_kept = {group: bank[group] for group in own_now}
    if _has_more_rows(own_kept, own_now):
        # declared sets have records of their own, and only the sum over all rows is known here
        own_now, own_start, own_kept = (
            tree.map(lambda rows: rows.sum(1), part) for part in (own_now, own_start, own_kept)
        )

    shared = [group for group in bank if group not in own_now]
    now = {group: compared.params[group] for group in shared} | {"own": own_now}
    start = {group: begun[0][group] for group in shared} | {"own": own_start}
    kept = {group: tree.map(lambda rows: rows.sum(1), bank[group]) for group in shared}
    return {"residual": vmap(unlearning.residual)(now, start, kept | {"own": own_kept}).cpu()}


def _has_more_rows(kept: Params, own: Params) -> bool:
    """Whether there are more records than tasks: some of them are records of declared sets."""
    pairs = zip(tree.leaves(kept), tree.leaves(own), strict=True)
    return any(record.shape[1] > part.shape[1] for record, part in pairs)
