"""`run`: train an algorithm on a scenario, task by task, evaluating as it goes. One run, or a sweep of them in one program.

Nothing in the loop asks the device for a value: metrics stay there until an epoch ends.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clfunc import engine as engines
from clfunc import plots, results, tree
from clfunc.evaluate import bare, over_runs, score, with_runs
from clfunc.files import check_writable
from clfunc.progress import Progress
from clfunc.random import fold_in, split
from clfunc.results import Curve, Result
from clfunc.scenarios import Scenario, Stream, epoch_entries
from clfunc.sweep import coordinates, members, plain, sweep
from clfunc.types import Algorithm, Key, Keys, Metrics, Params, State, Task

_PROBED = 256  # examples that a probe looks at
_POINTS = 1000  # of a training curve, at most about so many


def run(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    *,
    epochs: int = 1,
    batch_size: int = 64,
    engine: str = "auto",
    evaluate: str | int = "seen",
    probe_every: int | None = None,
    device: torch.device | str | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    config: dict[str, Any] | None = None,
) -> Result:
    """Train on every task of a scenario and evaluate.

    Args:
        algorithm: One, or a `sweep` of many.
        scenario: Shared by all runs, or with a runs axis of its own.
        key: `[2]`, or `[runs, 2]` for as many runs in one program; run i is what it would be alone with `key[i]`.
        epochs: Passes over each task, >= 1.
        batch_size: Examples in a step of one run, >= 1. An epoch's last batch is filled up from the epoch's beginning.
        engine: `eager`, `compile`, or `auto`, which chooses and says what it chose.
        evaluate: After each task, test all tasks `seen`, the `current` one, all seen ones every n tasks (and at the end), or
            `none`.
        probe_every: Call the algorithm's `probe`, if it has one, about every so many steps too, not just after each task.
        device: Where to run; the key's device if not given.
        out: A folder for results and figures; nothing is written without.
        progress: Show a progress bar and the engine's choice.
        config: What else to record in config.json, such as the command line.

    Raises:
        ValueError: A number out of range, an algorithm whose head does not fit the scenario, an `out` not writable.
    """
    runs = key.shape[0] if key.ndim == 2 else None
    check(algorithm, scenario, key, epochs, batch_size, engine, evaluate, probe_every)
    if out is not None:
        check_writable(Path(out))
    about = _config(algorithm, scenario, key, epochs, batch_size, engine) | (config or {})
    results.check_config(about)
    began = time.perf_counter()
    many = algorithm if runs is None or members(algorithm) else sweep([algorithm] * runs)
    where = torch.device(device) if device is not None else key.device
    lengths = (scenario.train(phase).train.shape[-1] for phase in range(len(scenario.phases)))
    steps = [-(-length // batch_size) for length in lengths]
    loop = _Loop(many, scenario.to(where), runs, epochs, batch_size, evaluate, steps, probe_every)

    with torch.no_grad(), Progress(progress, epochs * sum(steps), len(scenario.phases), epochs) as bar:
        fields = loop.run(key.to(where), engine, bar)

    wall = time.perf_counter() - began
    result = Result(
        **fields, config=about | {"engine": fields["engine"]}, coordinates=coordinates(algorithm), wall_seconds=wall
    )
    if out is not None:
        results.save(result, Path(out))
        plots.save(results.to_xarray(result), Path(out) / "figures")
    return result


class _Loop(NamedTuple):
    """The loops of one call of `run`, over phases (tasks trained), epochs and steps."""

    algorithm: Algorithm
    scenario: Scenario
    runs: int | None
    epochs: int
    batch_size: int
    evaluate: str | int
    steps: list[int]  # of an epoch, for each phase
    probe_every: int | None = None

    def run(self, key: Keys, engine: str, bar: Progress) -> dict[str, Any]:
        start, order = over_runs(lambda k: tuple(split(k).unbind()), self.runs)(key)
        params, state = tree.to(self.algorithm.init(start), key.device)
        runs_axis = () if self.runs is None else (self.runs,)
        shape = (self.scenario.phases[-1], self.scenario.num_tasks, *runs_axis)
        accuracy = torch.full(shape, torch.nan, dtype=torch.float64)
        trainer = _Trainer(self, engine, bar)

        for phase, steps in enumerate(self.steps):
            stream = with_runs(self.scenario, self.scenario.train(phase), self.runs)
            task = Task(stream.task, *(torch.full_like(stream.task, n) for n in (steps, self.epochs)))
            params, state = self.algorithm.begin_task(params, state, task)
            for epoch in range(self.epochs):
                entries = self.entries(order, phase, epoch, stream, steps)
                params, state, told = trainer.epoch(params, state, stream, entries, phase, epoch)
                params, state = self.algorithm.end_epoch(params, state, told)
            params, state = self.algorithm.end_task(params, state)
            trainer.probe(params, state, stream, entries, phase)
            for tested in self.tested(phase):
                bar.note(f"task {phase + 1}/{len(self.scenario.phases)} testing task {tested + 1}")
                found = score(self.algorithm, self.scenario, params, state, self.test(tested), runs=self.runs)
                accuracy[self.scenario.phases[phase] - 1, tested] = found["accuracy"].cpu()
        return {"params": params, "state": state, "accuracy": accuracy} | trainer.fields()

    def test(self, task: int) -> Stream:
        return with_runs(self.scenario, self.scenario.test(task), self.runs)

    def entries(self, order: Keys, phase: int, epoch: int, stream: Stream, steps: int) -> Tensor:
        """The epoch's entries, `[steps, *runs, batch]`, from a key of their own, so that any epoch can be drawn again."""
        size = (steps, self.batch_size)

        def draw(key: Key, stream: Stream) -> Tensor:
            return epoch_entries(fold_in(key, phase, epoch), stream, size[0] * size[1]).reshape(size)

        entries = over_runs(draw, self.runs)(order, stream)
        return entries if self.runs is None else entries.movedim(1, 0).contiguous()

    def tested(self, phase: int) -> range:
        """The tasks to test after a phase."""
        seen, last = self.scenario.phases[phase], phase == len(self.scenario.phases) - 1
        if self.evaluate == "none":
            return range(0)
        if self.evaluate == "current":
            return range(0 if self.scenario.mixed else seen - 1, seen)
        if isinstance(self.evaluate, int) and not last and (phase + 1) % self.evaluate:
            return range(0)
        return range(seen)


class _Trainer:
    """Runs epochs with the engine that was planned, and keeps the curves."""

    def __init__(self, loop: _Loop, engine: str, bar: Progress) -> None:
        self.loop, self.engine, self.bar = loop, engine, bar
        self.plan: engines.Plan | None = None
        self.done, self.seconds = 0, 0.0
        self.total = loop.epochs * sum(loop.steps)
        self.every = max(1, self.total // _POINTS)
        self.training: list[Curve] = []
        self.validation: list[Curve] = []
        self.probes: list[Curve] = []
        self.pictures: dict[str, Tensor] = {}
        self.step = _make_step(loop)

    def epoch(
        self, params: Params, state: State, stream: Stream, entries: Tensor, phase: int, epoch: int
    ) -> tuple[Params, State, Metrics]:
        """Train for one epoch; also what `end_epoch` is told: the validation metrics, or the mean training ones."""
        loop, carry = self.loop, (params, state, self.loop.scenario.data, bare(stream))
        if self.plan is None:
            self.plan = engines.plan(self.engine, self.step, carry, entries[0], self.total)
            self.bar.say(f"engine: {self.plan.engine}, steps a call: {self.plan.unroll} ({self.plan.why})")
            self.bar.note("compiling" if self.plan.engine == "compile" else "starting")
        plan, began, logged, before = self.plan, time.perf_counter(), [], self.done
        for segment in entries.split(_segment(entries, plan.unroll, loop.probe_every)):
            carry, metrics = engines.scan(
                self.step, carry, segment, engine=plan.engine, unroll=plan.unroll, log_every=self.every
            )
            ends = torch.arange(self.every, len(segment) + self.every, self.every).clamp(max=len(segment))
            logged.append(Curve(self.done + ends, torch.full_like(ends, phase), metrics))
            self.done += len(segment)
            self.bar.advance(len(segment), phase, epoch)
            if loop.probe_every and self.done // loop.probe_every > (self.done - len(segment)) // loop.probe_every:
                self.probe(carry[0], carry[1], stream, entries[: self.done - before], phase)
        params, state = carry[:2]
        curve = tree.to(_joined(logged), "cpu")
        self.training.append(curve)
        self.seconds += time.perf_counter() - began
        if not stream.valid.shape[-1]:
            return params, state, tree.map(lambda v: v.mean(0).to(entries.device), curve.values)
        told = score(loop.algorithm, loop.scenario, params, state, stream, "valid", loop.runs)
        self.validation.append(Curve(curve.step[-1:], curve.task[-1:], tree.map(lambda v: v[None].cpu(), told)))
        return params, state, told

    def probe(self, params: Params, state: State, stream: Stream, entries: Tensor, phase: int) -> None:
        """Keep what the algorithm tells of itself: its numbers and vectors over time, its pictures as of now.

        It is shown the examples of the last steps, `_PROBED` of them or a batch, whichever is more.
        """
        loop = self.loop
        if loop.algorithm.probe is None:
            return
        make = over_runs(loop.scenario.batch, loop.runs, (None, 0, 0))
        shown = entries[-max(1, _PROBED // loop.batch_size) :].movedim(0, -2).flatten(-2)
        told = tree.to(loop.algorithm.probe(params, state, make(loop.scenario.data, bare(stream), shown)), "cpu")
        flat = 1 if loop.runs is None else 2
        self.pictures = {name: v for name, v in told.items() if v.ndim > flat}
        values = {name: v[None] for name, v in told.items() if v.ndim <= flat}
        self.probes.append(Curve(torch.tensor([self.done]), torch.tensor([phase]), values))

    def fields(self) -> dict[str, Any]:
        """What the trainer adds to the result."""
        curves = {"training": _joined(self.training), "validation": _joined(self.validation)}
        curves["probes"] = _joined(self.probes)
        engine = self.plan.engine if self.plan else self.engine
        counts = {"steps": self.done, "train_seconds": self.seconds, "engine": engine}
        return curves | counts | {"pictures": self.pictures}


def _make_step(loop: _Loop) -> engines.Step:
    """One step on a list of entries; the examples and the task's view ride in the carry, untouched."""
    batch = over_runs(loop.scenario.batch, loop.runs, (None, 0, 0))

    def step(carry: Any, entries: Tensor) -> tuple[Any, Metrics]:
        params, state, data, stream = carry
        params, state, metrics = loop.algorithm.step(params, state, batch(data, stream, entries))
        return (params, state, data, stream), metrics

    return step


def _segment(entries: Tensor, unroll: int, probe_every: int | None) -> int:
    """Steps between two moves of the progress bar or probes: whole chunks, and fewer the more a step has to do."""
    wanted = min(1024, max(1, 2**17 // entries[0].numel()), probe_every or 1024)
    return -(-wanted // unroll) * unroll


def _joined(curves: list[Curve]) -> Curve:
    if not curves:
        none = torch.zeros(0, dtype=torch.int64)
        return Curve(none, none, {})
    return tree.map(lambda *parts: torch.cat(parts), *curves)


def check(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    epochs: int,
    batch_size: int,
    engine: str = "auto",
    evaluate: str | int = "seen",
    probe_every: int | None = None,
) -> None:
    """Raise ValueError, in one line, for what `run` cannot do."""
    for name, number in (("epochs", epochs), ("batch_size", batch_size), ("probe_every", probe_every)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, given {number}")
    if engine not in engines.engines:
        raise ValueError(f"engine must be one of {', '.join(engines.engines)}, given {engine!r}")
    if evaluate not in ("seen", "current", "none") and not (isinstance(evaluate, int) and evaluate >= 1):
        raise ValueError(f"evaluate must be 'seen', 'current', 'none' or a number of tasks, given {evaluate!r}")
    if key.shape[-1:] != (2,) or key.ndim > 2:
        raise ValueError(f"key must be [2], or [runs, 2] for a sweep, given {list(key.shape)}")
    size, runs = members(algorithm), key.shape[0] if key.ndim == 2 else None
    if size and size != runs:
        raise ValueError(f"a sweep of {size} needs a key of shape [{size}, 2], given {list(key.shape)}")
    if scenario.runs not in (None, runs):
        raise ValueError(
            f"the scenario has {scenario.runs} runs, so key must be [{scenario.runs}, 2], given {list(key.shape)}"
        )
    room = _find(algorithm.settings, "num_tasks")
    if room is not None and room < scenario.num_tasks:
        raise ValueError(f"the scenario has {scenario.num_tasks} tasks, given an algorithm for num_tasks={room}")
    _check_head(_find(algorithm.settings, "head"), scenario)


def _check_head(head: dict[str, Any] | None, scenario: Scenario) -> None:
    if head is None:
        return
    fits, given = scenario.head().settings, f"{head['name']} head for {len(head['classes'])} task(s)"
    if scenario.mixed and head["name"] not in ("mtl", "stl"):
        raise ValueError(f"a joint scenario mixes tasks in a batch and needs an mtl or stl head, given a {given}")
    if not scenario.mixed and head["name"] not in (scenario.paradigm, fits["name"]):
        raise ValueError(
            f"a {scenario.paradigm} scenario needs a {fits['name']} head, given a {given}: use scenario.head()"
        )
    if head["name"] in ("til", "cil", "mtl") and len(head["classes"]) < scenario.num_tasks:
        raise ValueError(f"the scenario has {scenario.num_tasks} tasks, given a {given}: use scenario.head()")
    width, needed = (sum(h["classes"]) if h["name"] == "cil" else max(h["classes"]) for h in (head, fits))
    if width < needed:
        raise ValueError(f"the scenario needs {needed} classes in a head, given {width}: use scenario.head()")


def _find(settings: Any, name: str) -> Any:
    """The first entry of this name, wherever it is nested."""
    if isinstance(settings, dict):
        if name in settings:
            return settings[name]
        settings = list(settings.values())
    found = [_find(value, name) for value in settings] if isinstance(settings, list) else []
    return next((value for value in found if value is not None), None)


def _config(
    algorithm: Algorithm, scenario: Scenario, key: Keys, epochs: int, batch_size: int, engine: str
) -> dict[str, Any]:
    """Everything that decides a result."""
    settings = plain(algorithm.settings)
    name = settings["members"][0]["name"] if members(algorithm) else settings.get("name", "algorithm")
    return {
        "algorithm": name,
        "scenario": scenario.name,
        "dataset": scenario.dataset,
        "paradigm": scenario.paradigm,
        "tasks": scenario.num_tasks,
        "phases": list(scenario.phases),
        "epochs": epochs,
        "batch_size": batch_size,
        "engine": engine,
        "threads": torch.get_num_threads(),
        "keys": key.reshape(-1, 2).tolist(),
        "seeds": [int(low + (high << 32)) for low, high in key.reshape(-1, 2).tolist()],
        "settings": settings,
        "scenario_settings": plain(scenario.settings),
        "versions": results.versions(),
    }
