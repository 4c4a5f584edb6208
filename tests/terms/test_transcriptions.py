"""Every method of terms and memories is its papers' equations, step for step, under every paradigm.

The equations are in `support.naive_protocol`: loops over examples, classes and parameters. Three
tasks of three steps are compared at every step, in all parameters and in all that the parts keep.
"""

import functools
import math
import zlib
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from support.naive_protocol import (
    AGEM,
    BIAS,
    DER,
    ER,
    EWC,
    INPUTS,
    SI,
    UNITS,
    WEIGHT,
    Example,
    L2Init,
    Network,
    Reservoir,
    Run,
    entries,
)

import clfunc as cl
from clfunc import memories, terms
from clfunc.random import fold_in, key, normal, randint, split
from clfunc.transforms import agem_projection

COUNTS = (2, 3, 2)  # classes of each task
HEADS = {"til": cl.heads.together(cl.til(3, COUNTS)), "cil": cl.cil(3, COUNTS)}
HEADS["dil"] = cl.dil(3, COUNTS)
SGD = (0.2, 0.9, 0.3)  # learning rate, momentum, weight decay
CAPACITY, DRAWS = 7, 5
ROWS = 6  # of each task
# The rows and the weights of each step: one row counts for nothing, one is twice in a batch.
STEPS = (
    ((0, 1, 2, 3, 4), (1.0, 0.5, 1.0, 0.0, 2.0)),
    ((5, 0, 1, 1, 2), (1.0, 1.0, 1.0, 0.5, 1.0)),
    ((3, 4, 5, 0, 2), (1.0, 1.0, 0.5, 1.0, 0.0)),
)
REVIEW = (((0, 1, 2, 3), (1.0, 1.0, 0.5, 1.0)), ((4, 5, 0, 0), (1.0, 1.0, 0.0, 0.0)))
RUN = key(5)
EMBEDDING = "embedding.hidden1"
TOLERANCE = 1e-12


def key_of(name):
    """The key of a term."""
    return fold_in(RUN, 1, zlib.crc32(name.encode()))


def replay(strength, mean="union"):
    return ER(key_of("replay"), DRAWS, strength, mean)


def optimiser():
    lr, momentum, decay = SGD
    return cl.sgd(lr, momentum, weight_decay=decay)


def reservoir():
    return Reservoir(fold_in(RUN, 2), CAPACITY)


def projection():
    """A-GEM, whose key is that of the first transform in a chain."""
    return AGEM(split(split(RUN, 4)[1], 2)[0], DRAWS)


class Case(NamedTuple):
    make: Callable  # (model, tx) -> the library's algorithm
    parts: Callable  # (initial parameters) -> the parts of the naive run
    remembers: bool = False


def _ewc(kind):
    def make(model, tx):
        return cl.ewc(model, tx, strength=20.0, fisher=kind)

    return Case(make, lambda w: [EWC(20.0, kind, w)])


def _si(clip):
    def make(model, tx):
        return cl.si(model, tx, strength=5.0, damping=0.05, clip=clip)

    return Case(make, lambda w: [SI(5.0, 0.05, clip, w)])


def _er(mean):
    def make(model, tx):
        return cl.er(model, tx, capacity=CAPACITY, batch=DRAWS, strength=0.7, mean=mean)

    return Case(make, lambda w: [replay(0.7, mean)], remembers=True)


def _l2_init(model, tx):
    return cl.l2_init(model, tx, strength=0.05)


def _derpp(model, tx):
    return cl.derpp(model, tx, capacity=CAPACITY, batch=DRAWS, alpha=0.4, beta=0.6)


def _parts_of_derpp(w):
    return [DER(key_of("distil_logits"), DRAWS, 0.4), replay(0.6, "sum")]


def _a_gem(model, tx):
    return cl.a_gem(model, tx, capacity=CAPACITY, batch=DRAWS)


def _three(model, tx):
    added = (terms.ewc(20.0), terms.replay(DRAWS, 0.7), terms.l2_init(0.05))
    return cl.finetuning(model, tx, terms=added, memory=memories.reservoir(CAPACITY))


def _parts_of_three(w):
    return [EWC(20.0, "exact", w), replay(0.7), L2Init(0.05, w)]


def _si_and_a_gem(model, tx):
    tx = cl.chain(agem_projection(DRAWS), tx)
    memory = memories.reservoir(CAPACITY)
    return cl.finetuning(model, tx, terms=(terms.si(5.0, 0.05),), memory=memory)


def _parts_of_si_and_a_gem(w):
    return [SI(5.0, 0.05, "total", w), projection()]


CASES = {
    "ewc exact": _ewc("exact"),
    "ewc empirical": _ewc("empirical"),
    "ewc predicted": _ewc("predicted"),
    "si total": _si("total"),
    "si task": _si("task"),
    "si none": _si("none"),
    "l2_init": Case(_l2_init, lambda w: [L2Init(0.05, w)]),
    "er union": _er("union"),
    "er sum": _er("sum"),
    "er by_task": _er("by_task"),
    "derpp": Case(_derpp, _parts_of_derpp, remembers=True),
    "a_gem": Case(_a_gem, lambda w: [projection()], remembers=True),
    "ewc + er + l2_init": Case(_three, _parts_of_three, remembers=True),
    "si + a_gem": Case(_si_and_a_gem, _parts_of_si_and_a_gem, remembers=True),
}


def rows_of(paradigm, task):
    """The examples of a task: inputs and labels."""
    x = normal(key(105), (ROWS, INPUTS), at=task, dtype=torch.float64)
    y = randint(key(205), (ROWS,), 0, COUNTS[task], at=task)
    first = sum(COUNTS[:task]) if paradigm == "cil" else 0
    return x, y + first


def batch_of(paradigm, task, rows, weights):
    """The same batch for the library and for the naive run."""
    x, y = rows_of(paradigm, task)
    batch = cl.Batch(
        x=x[list(rows)],
        y=y[list(rows)],
        task=torch.tensor(task),
        weight=torch.tensor(weights, dtype=torch.float64),
        rows=torch.tensor(rows),
    )
    examples = []
    for row, weight in zip(rows, weights, strict=True):
        examples.append(Example(tuple(x[row].tolist()), int(y[row]), task, weight, row))
    return batch, examples


def apart(numbers, found):
    """The largest difference of the numbers to those of the same names."""
    worst = 0.0
    for name, number in numbers.items():
        difference = abs(number - found[name]) / max(1.0, abs(number))
        assert math.isfinite(difference), name
        worst = max(worst, difference)
    return worst


def assert_equal(run, params, state, where):
    """Assert that all parameters are equal to rounding, and all that the parts and memory keep."""
    found = entries(params)
    assert found.keys() == run.w.keys()
    assert apart(run.w, found) < TOLERANCE, where
    for part in run.parts:
        for field, numbers in part.state().items():
            kept = getattr(state.parts.terms[part.name], field)
            found = entries(kept) if isinstance(kept, dict) else {("",): float(kept)}
            assert apart(numbers, found) < TOLERANCE, (part.name, field, where)
    if run.memory is not None:
        assert_same_memory(run.memory, state.parts.memory, where)


def assert_same_memory(memory, state, where):
    """Assert that every slot holds the same example."""
    held = memories.reservoir(CAPACITY).rows(state)
    for slot, example in enumerate(memory.slots):
        if example is None:
            assert held.weight[slot] == 0, where
            continue
        found = Example(
            x=tuple(held.x[slot].tolist()),
            y=held.y[slot].item(),
            task=held.task[slot].item(),
            weight=held.weight[slot].item(),
            row=held.rows[slot].item(),
        )
        assert found == example._replace(logits=()), where
        for noted in held.notes.values():
            noted = dict(enumerate(noted[slot].tolist()))
            assert apart(dict(enumerate(example.logits)), noted) < TOLERANCE, where


def side_by_side(paradigm, algorithm, run, params, state):
    """Train both on three tasks, and compare them at every step.

    Yields:
        The parameters, the state and the metrics after each step.
    """
    count = torch.tensor(len(STEPS))
    for task in range(len(COUNTS)):
        about = cl.Task(torch.tensor(task), steps_per_epoch=count, epochs=torch.tensor(1))
        params, state = algorithm.begin_task(params, state, about)
        run.begin_task(task)
        for step, (rows, weights) in enumerate(STEPS):
            batch, examples = batch_of(paradigm, task, rows, weights)
            params, state, metrics = algorithm.step(params, state, batch)
            run.step(examples)
            assert_equal(run, params, state, f"task {task}, step {step}")
            assert abs(metrics["loss"] - run.loss) < TOLERANCE
            yield params, state, metrics
        if algorithm.review is not None:
            for rows, weights in REVIEW:
                batch, examples = batch_of(paradigm, task, rows, weights)
                state = algorithm.review(params, state, batch)
                for part in run.parts:
                    part.review(run, examples)
                assert_equal(run, params, state, f"review of task {task}")
        params, state = algorithm.end_task(params, state)
        run.end_task()
        assert_equal(run, params, state, f"end of task {task}")


def network(paradigm):
    return cl.mlp(INPUTS, (UNITS,), HEADS[paradigm], dtype=torch.float64)


@functools.cache
def finetuned(paradigm):
    """The parameters at the end of finetuning, from the loops."""
    algorithm = cl.finetuning(network(paradigm), optimiser())
    params, state = algorithm.init(RUN)
    run = Run(Network(paradigm, COUNTS), entries(params), SGD)
    list(side_by_side(paradigm, algorithm, run, params, state))
    return run.w


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("paradigm", HEADS)
def test_a_method_is_its_papers_equations(paradigm, case):
    algorithm = CASES[case].make(network(paradigm), optimiser())
    params, state = algorithm.init(RUN)
    w = entries(params)
    memory = reservoir() if CASES[case].remembers else None
    parts = CASES[case].parts(w)
    run = Run(Network(paradigm, COUNTS), w, SGD, parts, memory)

    projections = []
    for _, _, metrics in side_by_side(paradigm, algorithm, run, params, state):
        projections.append(bool(metrics.get("projected", False)))

    assert apart(run.w, finetuned(paradigm)) > 1e-3, "the method is no other than finetuning"
    for part in parts:
        if isinstance(part, SI):
            assert part.negative > 0, "nothing is there to clip"
        if isinstance(part, AGEM):
            assert part.was_projected == projections
            # under cil a step of later tasks always opposes the biases of earlier classes
            assert sum(projections) > 0
            assert sum(projections) < 6 or paradigm == "cil"


class HAT(Run):
    """Serra et al. 2018 on one hidden layer; `tests/algorithms/test_hat_paper.py` has its variants.

    Args:
        rows: The embeddings of all tasks.
        s_max: Largest scale of the gates.
        factor: Weight of the regulariser.
        more: As `Run` takes them.
    """

    def __init__(self, rows, s_max, factor, *more):
        super().__init__(*more)
        self.rows, self.s_max, self.factor = rows, s_max, factor
        self.used = [0.0] * UNITS

    def begin_task(self, task):
        for i in range(UNITS):
            self.w[EMBEDDING, i] = self.rows[task][i]
        self.batch = 0
        super().begin_task(task)

    def step(self, batch):
        # eq. 3
        share = self.batch / (len(STEPS) - 1)
        self.s = 1 / self.s_max + (self.s_max - 1 / self.s_max) * share
        super().step(batch)
        self.batch += 1

    def gates(self, w, task):
        """Those that harden for the task that trains; for an earlier task, its mask."""
        if task == self.task:
            return [torch.sigmoid(self.s * w[EMBEDDING, i]) for i in range(UNITS)]
        return [1.0 if e > 0 else 0.0 for e in self.rows[task]]

    def regularised(self, w, value):
        # eq. 5
        gates = self.gates(w, self.task)
        free = sum(1 - used for used in self.used)
        opened = sum(gate * (1 - used) for gate, used in zip(gates, self.used, strict=True))
        return value + self.factor * opened / free if free else value

    def pushed(self, gradient):
        # eq. 4
        pushed = dict(gradient)
        for i in range(UNITS):
            e = self.w[EMBEDDING, i]
            steep = math.cosh(min(max(self.s * e, -50.0), 50.0)) + 1
            pushed[EMBEDDING, i] *= self.s_max / self.s * steep / (math.cosh(e) + 1)
        return pushed

    def rate(self, name):
        # eq. 2; the inputs are no units
        if name[0] in (WEIGHT, BIAS):
            return 1 - self.used[name[1]]
        return super().rate(name)

    def held(self, name, value):
        return min(max(value, -6.0), 6.0) if name[0] == EMBEDDING else value

    def end_task(self):
        super().end_task()
        self.rows[self.task] = [self.w[EMBEDDING, i] for i in range(UNITS)]
        for i, e in enumerate(self.rows[self.task]):
            self.used[i] = max(self.used[i], 1.0 if e > 0 else 0.0)


@pytest.mark.filterwarnings("ignore:hat does not protect the (cil|dil) head")
@pytest.mark.parametrize("mean", ["union", "sum"])
@pytest.mark.parametrize("paradigm", HEADS)
def test_replay_under_hat_passes_each_task_s_own_gates(paradigm, mean):
    algorithm = cl.hat(
        network(paradigm),
        optimiser(),
        num_tasks=3,
        s_max=10.0,
        mask_sparsity_reg_factor=0.5,
        terms=(terms.replay(DRAWS, 0.7, mean=mean),),
        memory=memories.reservoir(CAPACITY),
    )
    params, state = algorithm.init(RUN)
    rows = state.attention.rows["hidden1"].tolist()
    parts = [replay(0.7, mean)]
    about = (Network(paradigm, COUNTS), entries(params), SGD, parts, reservoir())
    run = HAT(rows, 10.0, 0.5, *about)
    for _, after, _ in side_by_side(paradigm, algorithm, run, params, state):
        used = after.attention.used["hidden1"].tolist()
    assert 0 < sum(used) < UNITS
