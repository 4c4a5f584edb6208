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
from support.naive_gem import GEM, Ring
from support.naive_lwf import LwF, LwFMC
from support.naive_protocol import (
    AGEM,
    BIAS,
    DER,
    ER,
    INPUTS,
    SI,
    UNITS,
    WEIGHT,
    L2Init,
    Network,
    Reservoir,
    Run,
    entries,
)
from support.naive_replays import CLSER, FDR, MIR, Asymmetric
from support.naive_terms import EWC, L2SP, MAS, RWalk, Spectral, Wasserstein
from support.side_by_side import (
    CAPACITY,
    COUNTS,
    DRAWS,
    HEADS,
    RUN,
    SGD,
    STEPS,
    apart,
    network,
    side_by_side,
)

import clfunc as cl
from clfunc import memories, terms
from clfunc.random import fold_in, split
from clfunc.transforms import agem_projection

EMBEDDING = "embedding.hidden1"


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
    memory: Callable | None = None  # () -> the naive memory; a reservoir if not given


def _ewc(kind, **form):
    def make(model, tx):
        return cl.finetuning(model, tx, terms=(terms.ewc(20.0, fisher=kind, **form),))

    return Case(make, lambda w: [EWC(20.0, kind, w, key_of("ewc"), **form)])


def _pulled(make, *parts):
    """Finetuning with a term, and the naive parts of the initial parameters."""
    return Case(lambda model, tx: cl.finetuning(model, tx, terms=(make,)), *parts)


def _rwalk(form):
    """A period of two steps, of which each task has three."""
    numbers = (3.0, 0.01, 0.6, 2)
    term = terms.rwalk(*numbers[:2], alpha=numbers[2], period=numbers[3], form=form)
    return _pulled(term, lambda w: [RWalk(*numbers, form == "official", w)])


def _parts_of_spectral(w):
    layers = {"hidden1": (UNITS, INPUTS)}
    if ("head.weight", 0, 0) in w:  # one head for all tasks
        layers["head"] = (1 + max(name[1] for name in w if name[0] == "head.bias"), UNITS)
    return [Spectral(0.2, key_of("spectral"), w, layers)]


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


def _gem(margin):
    def make(model, tx):
        return cl.gem(model, tx, num_tasks=3, capacity=CAPACITY, margin=margin)

    def memory():
        return Ring(CAPACITY // 3, 3)

    return Case(make, lambda w: [GEM(3, margin)], remembers=True, memory=memory)


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


def _er_ace(model, tx):
    return cl.er_ace(model, tx, capacity=CAPACITY, batch=DRAWS, strength=0.7)


def _mir(mean):
    def make(model, tx):
        numbers = {"strength": 0.7, "lr": 0.3, "mean": mean}
        return cl.mir(model, tx, capacity=CAPACITY, batch=2, candidates=DRAWS, **numbers)

    return Case(make, lambda w: [MIR(key_of("mir"), 2, DRAWS, 0.7, 0.3, mean)], remembers=True)


def _fdr(model, tx):
    memory = memories.reservoir(CAPACITY)
    return cl.finetuning(model, tx, terms=(terms.fdr(DRAWS, 0.8),), memory=memory)


def _cls_er(model, tx):
    rates = {"plastic_rate": 0.9, "stable_rate": 0.5, "plastic_decay": 0.6, "stable_decay": 0.8}
    return cl.cls_er(model, tx, capacity=CAPACITY, batch=DRAWS, consistency=0.5, **rates)


def _parts_of_cls_er(w):
    keys = split(key_of("cls_er"), 3)
    return [CLSER(keys, DRAWS, 0.5, (0.9, 0.5), (0.6, 0.8), w)]


CASES = {
    "ewc exact": _ewc("exact"),
    "ewc empirical": _ewc("empirical"),
    "ewc predicted": _ewc("predicted"),
    "ewc sample": _ewc("sample"),
    "ewc batched": _ewc("batched"),
    "ewc online": _ewc("exact", decay=0.7),
    "ewc of some examples": _ewc("sample", examples=5, decay=0.0),
    "mas": _pulled(terms.mas(0.4, decay=0.8), lambda w: [MAS(0.4, w, 0.8)]),
    "l2_sp": _pulled(terms.l2_sp(0.3), lambda w: [L2SP(0.3)]),
    "wasserstein": _pulled(terms.wasserstein(0.1), lambda w: [Wasserstein(0.1, w)]),
    "rwalk paper": _rwalk("paper"),
    "rwalk official": _rwalk("official"),
    "spectral": _pulled(terms.spectral(0.2), _parts_of_spectral),
    "si total": _si("total"),
    "si task": _si("task"),
    "si none": _si("none"),
    "l2_init": Case(_l2_init, lambda w: [L2Init(0.05, w)]),
    "er union": _er("union"),
    "er sum": _er("sum"),
    "er by_task": _er("by_task"),
    "er balanced": _er("balanced"),
    "er_ace": Case(_er_ace, lambda w: [Asymmetric(1.0), replay(0.7, "sum")], remembers=True),
    "mir union": _mir("union"),
    "mir by_task": _mir("by_task"),
    "fdr": Case(_fdr, lambda w: [FDR(key_of("fdr"), DRAWS, 0.8)], remembers=True),
    "cls_er": Case(_cls_er, _parts_of_cls_er, remembers=True),
    "lwf": Case(
        lambda model, tx: cl.lwf(model, tx, strength=0.8, temperature=1.5),
        lambda w: [LwF(0.8, 1.5)],
    ),
    "lwf scaled": Case(
        lambda model, tx: cl.lwf(model, tx, strength=0.3, scaled=True),
        lambda w: [LwF(0.3, 2.0, scaled=True)],
    ),
    "lwf_mc": Case(cl.lwf_mc, lambda w: [LwFMC()]),
    "derpp": Case(_derpp, _parts_of_derpp, remembers=True),
    "a_gem": Case(_a_gem, lambda w: [projection()], remembers=True),
    "ewc + er + l2_init": Case(_three, _parts_of_three, remembers=True),
    "gem": _gem(0.5),
    "gem margin 0": _gem(0.0),
    "si + a_gem": Case(_si_and_a_gem, _parts_of_si_and_a_gem, remembers=True),
}


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
    memory = (CASES[case].memory or reservoir)() if CASES[case].remembers else None
    parts = CASES[case].parts(w)
    run = Run(Network(paradigm, COUNTS), w, SGD, parts, memory)

    projections = []
    for _, _, metrics in side_by_side(paradigm, algorithm, run, params, state):
        projections.append(bool(metrics.get("projected", False)))

    assert apart(run.w, finetuned(paradigm)) > 1e-3, "the method is no other than finetuning"
    for part in parts:
        if isinstance(part, SI):
            assert part.negative > 0, "nothing is there to clip"
        if isinstance(part, CLSER):
            assert 0 < sum(part.from_stable) < len(part.from_stable)
        if isinstance(part, AGEM | GEM):
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
