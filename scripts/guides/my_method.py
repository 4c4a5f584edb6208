"""A method of your own, in four parts, without touching the library.

    python scripts/guides/my_method.py

A method answers four questions: what does it minimise (a term), what does it remember of examples
(a memory), what moves (a transform), and when (an algorithm). This file writes one of each, and
then trains them side by side: five strengths of the term and two seeds are one program.
`tests/scripts/test_guides.py` holds each part to the library's laws, as your own test would.
"""

from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.func import jacrev, vmap

import clfunc as cl
from clfunc import tree
from clfunc.compose import lift, passing
from clfunc.memories import slots
from clfunc.types import Context, Key, Metrics, Number, Params, Scalar, State, Updates, scalar


# 1. A term: memory aware synapses (MAS; Aljundi et al. 2018, arXiv:1711.09601).
#
#    importance_i = mean over examples of | d |logits|^2 / d params_i |, summed over tasks
#    penalty      = strength * sum_i importance_i (params_i - anchor_i)^2
class MASState(NamedTuple):
    strength: Scalar  # numbers are leaves, so that a sweep over them is one program
    importance: Params
    anchor: Params
    found: Params  # the sum over the examples of the task under review
    examples: Scalar


def mas(strength: Number = 1.0) -> cl.Term:
    """Hold each weight by how much the network's output depends on it."""
    number = scalar(strength, "strength", 0)

    def init(key: Key, params: Params, model: cl.Model) -> MASState:
        zero = tree.zeros_like(params)
        none = torch.zeros((), dtype=torch.float64, device=key.device)
        return MASState(number, zero, anchor=params, found=zero, examples=none)

    def penalty(s: MASState, params: Params) -> Scalar:
        drift = tree.sub(params, s.anchor)
        return s.strength * tree.vdot(s.importance, tree.mul(drift, drift))

    def review(s: MASState, params: Params, context: Context) -> MASState:
        batch = context.batch  # each example of the task comes once; padding has weight 0

        def energy(params: Params, x: Tensor) -> Scalar:
            one = batch._replace(x=x[None], rows=())
            logits = context.forward(params, one).logits
            return (logits * logits).sum()

        each = vmap(jacrev(energy), (None, 0))(params, batch.x)
        each = tree.map(lambda g: g.abs() * tree.expand_last(batch.weight, g.ndim), each)
        found = tree.add(s.found, tree.map(lambda g: g.sum(0), each))
        return s._replace(found=found, examples=s.examples + batch.weight.sum())

    def end_task(s: MASState, params: Params) -> MASState:
        mean = tree.scale(s.found, 1 / s.examples.clamp(min=1))
        total = tree.add(s.importance, mean)
        none = tree.zeros_like(s.found)
        return MASState(s.strength, total, params, none, torch.zeros_like(s.examples))

    # `remembers` says that it cannot forget a task, so `amnesiac` refuses it
    settings = {"strength": number, "remembers": True}
    return cl.Term(
        "mas", init, penalty=penalty, review=review, end_task=end_task, settings=settings
    )


# 2. A memory: the first examples of each task, a share for each.
class FirstState(NamedTuple):
    met: Tensor  # [tasks]: examples of each task so far
    rows: cl.Batch  # [capacity + 1, ...]: the last row takes what is not kept


def first(capacity: int, *, num_tasks: int) -> cl.Memory:
    """Keep the first `capacity // num_tasks` examples of each task."""
    share = capacity // num_tasks

    def init(key: Key, blank: cl.Batch) -> FirstState:
        met = torch.zeros(num_tasks, dtype=torch.int64, device=key.device)
        return FirstState(met, slots.empty(blank, share * num_tasks))

    def add(s: FirstState, batch: cl.Batch) -> FirstState:
        stored = slots.held(s.rows)
        rows = slots.rows_of(batch, s.met.sum())
        known = (batch.task[:, None] == stored.task) & (rows[:, None] == stored.rows)
        counts = (batch.weight > 0) & ~(known & (stored.weight > 0)).any(1)
        same = batch.task[:, None] == batch.task
        counts = counts & ~slots.is_repeated(same & (rows[:, None] == rows), counts)

        order = (same & counts).tril(-1).sum(1)  # before it, of its task, in this batch
        place = tree.take(s.met, batch.task) + order
        kept = counts & (place < share)
        written = slots.write(s.rows, batch.task * share + place, batch._replace(rows=rows), kept)

        member = batch.task[:, None] == torch.arange(num_tasks, device=rows.device)
        return FirstState(s.met + (member & counts[:, None]).sum(0), written)

    def rows(s: FirstState) -> cl.Batch:
        return slots.held(s.rows)

    settings = {"name": "first", "capacity": share * num_tasks, "num_tasks": num_tasks}
    return cl.Memory(init, add, rows, settings=settings)


# 3. A transform: weights that earlier tasks moved far move less.
class CautiousState(NamedTuple):
    inner: State
    caution: Scalar
    start: Params  # where the task began
    moved: Params  # how far earlier tasks have moved each weight


def cautious(inner: cl.Transform, caution: Number = 1.0) -> cl.Transform:
    """The updates of `inner`, divided by 1 + caution * how far earlier tasks moved the weight."""
    number = scalar(caution, "caution", 0)
    hooks = passing(inner)  # every hook of what it wraps is handed on

    def init(key: Key, params: Params) -> CautiousState:
        return CautiousState(inner.init(key, params), number, params, tree.zeros_like(params))

    def update(
        updates: Updates, s: CautiousState, params: Params, context: Context
    ) -> tuple[Updates, CautiousState]:
        updates, new = inner.update(updates, s.inner, params, context)
        slowed = tree.map(lambda u, m: u / (1 + s.caution * m).to(u.dtype), updates, s.moved)
        return slowed, s._replace(inner=new)

    def begin_task(s: CautiousState, params: Params) -> CautiousState:
        return hooks["begin_task"](s._replace(start=params), params)

    def end_task(s: CautiousState, params: Params) -> CautiousState:
        moved = tree.map(lambda m, p, a: m + (p - a).abs(), s.moved, params, s.start)
        return hooks["end_task"](s._replace(moved=moved), params)

    def metrics(s: CautiousState) -> Metrics:
        return inner.metrics(s.inner) | {"moved": tree.global_norm(s.moved)}

    settings = {"name": "cautious", "caution": number, "inner": inner.settings}
    own = {"begin_task": begin_task, "end_task": end_task, "metrics": metrics}
    return cl.Transform(init=init, update=update, settings=settings, **(hooks | own))


# 4. An algorithm: whatever it wraps, and a step back towards the start when a task ends.
class ReboundState(NamedTuple):
    inner: State
    share: Scalar
    start: Params


def rebound(inner: cl.Algorithm, share: Number = 0.1) -> cl.Algorithm:
    """`inner`, whose shared weights go back by a share of their way when a task ends."""
    number = scalar(share, "share", 0, 1)
    lifted = lift(inner)  # every hook of `inner`, on the field `inner` of a larger state

    def init(key: Key) -> tuple[Params, ReboundState]:
        params, state = inner.init(key)
        return params, ReboundState(state, number, params)

    def end_task(params: Params, s: ReboundState) -> tuple[Params, ReboundState]:
        back = tree.map(lambda p, a: p - (s.share * (p - a)).to(p.dtype), params, s.start)
        shared = {group: part for group, part in back.items() if group != "head"}
        return lifted.end_task(params | shared, s)

    settings = {"name": "rebound", "share": number, "inner": inner.settings}
    return lifted._replace(init=init, end_task=end_task, settings=settings)


def main() -> None:
    key = cl.random.key(0)
    scenario = cl.scenarios.permuted(cl.datasets.load("digits"), 5, key, paradigm="dil")
    model = cl.mlp(scenario.inputs, hidden=(64,), head=scenario.head())
    tx = cl.sgd(0.05, momentum=0.9)
    replay = {"terms": (cl.terms.replay(16),), "memory": first(100, num_tasks=5)}

    strengths = (0.0, 0.001, 0.003, 0.01, 0.03)
    seeds = cl.random.split(key, 2)
    members = [cl.finetuning(model, tx, terms=(mas(value),)) for value in strengths for _ in seeds]
    # a key for each member: run i is member i alone with key i
    swept = cl.run(cl.sweep(members), scenario, seeds.repeat(5, 1), epochs=5, progress=False)
    table = Table("method", "average accuracy (%)", title="5 permutations of digits, 2 seeds")
    for place, value in enumerate(strengths):
        both = swept.average_accuracy[2 * place : 2 * place + 2]
        table.add_row(f"mas, strength {value:g}", f"{100 * both.mean():.1f}")

    others = {
        "replay of the first 100": cl.finetuning(model, tx, **replay),
        "mas and replay": cl.finetuning(
            model, tx, terms=(mas(0.003), *replay["terms"]), memory=replay["memory"]
        ),
        "cautious": cl.finetuning(model, cautious(tx, 10.0)),
        "rebound": rebound(cl.finetuning(model, tx), 0.1),
    }
    for name, algorithm in others.items():
        result = cl.run(algorithm, scenario, seeds, epochs=5, progress=False)
        table.add_row(name, f"{100 * result.average_accuracy.mean():.1f}")
    Console().print(table)
    print(cl.explain(others["mas and replay"]))


if __name__ == "__main__":
    main()
