"""Whatever the command line is given, it runs or says in one line what is wrong: arguments, IDX files, results.

Nothing is trained here but in the last tests. Memory is limited, so that what is huge must be refused before it is taken.
"""

import contextlib
import dataclasses
import functools
import gc
import gzip
import io
import os
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clfunc.cli import build, main, registry
from clfunc.evaluate import over_runs, with_runs
from clfunc.scenarios import datasets
from clfunc.types import Task

ROOM = 2 * 2**30  # bytes that a case may take
HANGS = 60  # seconds after which a case is given up


def law(examples, **strategies):
    """A property tried on so many examples; a second test of the name, marked long, tries it on ten times as many."""

    def decorate(test):
        def made(count):
            return settings(max_examples=count)(given(**strategies)(test))

        test.__globals__[f"{test.__name__}_at_length"] = pytest.mark.long(made(10 * examples))
        return made(examples)

    return decorate


def _hangs(*_):
    raise SystemError("the case hangs")


@pytest.fixture(scope="module", autouse=True)
def confined():
    """At most `ROOM` more memory than now, and digits read once."""
    gc.collect()
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets, "_digits", functools.lru_cache(datasets._digits))
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, before[1]))
    handler = signal.signal(signal.SIGALRM, _hangs)
    yield
    signal.signal(signal.SIGALRM, handler)
    resource.setrlimit(resource.RLIMIT_AS, before)
    patch.undo()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An empty folder to be in: whatever a command leaves shows."""
    here, before = tmp_path_factory.mktemp("place"), Path.cwd()
    os.chdir(here)
    yield here
    os.chdir(before)


def told(argv):
    """Exit code, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    signal.alarm(HANGS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(argv)
    finally:
        signal.alarm(0)
    return code, out.getvalue(), err.getvalue()


def accepted_or_refused(argv, place):
    """Whether a command was accepted; where it was not, one line says why, and nothing is left behind."""
    there = sorted(place.rglob("*"))
    code, out, err = told(argv)
    assert code in (0, 2), (code, err)
    if code == 2:
        assert out == "" and sorted(place.rglob("*")) == there
        assert len(err.splitlines()) == 1 and err.startswith("clfunc: ") and len(err) < 3000, err
        assert len(err.split()) > 2 and "---" not in err and "Errno" not in err, err
    return code == 0


def step_once(args, job, *_):
    """In place of training: one step of two examples."""
    algorithm, scenario, runs = job.algorithm, job.scenario, job.key.shape[0] if job.key.ndim == 2 else None
    params, state = algorithm.init(job.key)
    stream = with_runs(scenario, scenario.train(0), runs)
    params, state = algorithm.begin_task(params, state, Task(stream.task, *[torch.ones_like(stream.task)] * 2))
    batch = over_runs(scenario.batch, runs, (None, 0, 0))(scenario.data, stream, stream.train[..., :2])
    algorithm.step(params, state, batch)


WILD = st.one_of(
    st.sampled_from(
        ["", " ", "0", "-1", "-0.5", "1.5", "3", "1e999", "nan", "inf", "-inf", "1e-400", "1e9", "1000000000", "9" * 5000,
         str(2**31), str(2**63), str(2**64), str(10**30), "1e30", "-" + str(10**400), "\u0663", "\u00b2", "\u65e5\u672c",
         "\0", "a\nb", "\x1b[31m", "\u2028", "true", "none", "None", "[]", "[1,2", "[[1]]", "[1e9]", "[1000000000,3]",
         "['a']", "{}", "()", "1j", "'x'", "--", "-", "=", ",", ",,", "1,1", "a,b", "0x10", "1_000", "..", "/", "/dev/null",
         "~", "x" * 300, "digits", "digits,digits", "mlp", "resnet", "hat", "cpu", "meta", "cuda:99", "-h"]
    ),
    st.text(max_size=6),
    st.integers().map(str),
    st.floats().map(str),
)  # fmt: skip
GOOD = {
    "algorithm": list(registry.ALGORITHMS),
    "dataset": ["digits", "digits,digits"],
    "scenario": list(registry.SCENARIOS),
    "paradigm": ["til", "cil", "dil"],
    "tasks": ["1", "2", "5"],
    "epochs": ["1", "3"],
    "batch_size": ["1", "64"],
    "valid": ["0", "0.1", "0.5"],
    "seeds": ["1", "2"],
    "seed": ["0", "7", str(2**64 - 1)],
    "scenario_seed": ["0", "3"],
    "wrap": list(registry.WRAPPERS),
    "optimizer": list(registry.OPTIMIZERS),
    "model": list(registry.MODELS),
    "hidden": ["4", "3"],
    "task": ["1", "2"],
    "evaluate": ["seen", "current", "none", "2"],
    "probe_every": ["1", "10"],
    "engine": ["eager", "auto"],
    "device": ["cpu", "auto"],
    "out": ["out"],
}  # fmt: skip
KINDS = {"algorithm": registry.ALGORITHMS, "wrap": registry.WRAPPERS, "optimizer": registry.OPTIMIZERS,
         "model": registry.MODELS, "scenario": registry.SCENARIOS}  # fmt: skip
OWN = sorted({(o, kind, min(n for n in table if o in registry.options(table[n])))
              for kind, table in KINDS.items() for f in table.values() for o in registry.options(f)})  # fmt: skip
SETTINGS = sorted({name for name, _, _ in OWN})
NUMBERS = st.sampled_from(["0", "1", "0.5", "0.01", "2", "true", "false", "none", "8", "100", "layer", "[4]", "[4,4]"])
FLAGS = [field for field in dataclasses.fields(build.Sweep) if field.name not in ("set", "grid")]


def flag(name):
    return "--" + name.replace("_", "-")


def given_flag(field, wild):
    """A flag and its value: a good one, or any."""
    if field.type is bool or field.type == "bool":
        return st.sampled_from([[flag(field.name)], ["--no-" + flag(field.name)[2:]]])
    good = st.sampled_from(GOOD.get(field.name, ["1"]))
    return st.tuples(st.just(flag(field.name)), st.one_of(good, WILD) if wild else good).map(list)


def pairs(wild):
    names, values = (
        (st.one_of(st.sampled_from(SETTINGS), WILD), st.one_of(NUMBERS, WILD))
        if wild
        else (st.sampled_from(SETTINGS), NUMBERS)
    )
    one = st.builds("{}={}".format, names, values)
    many = st.builds("{}={}".format, names, st.lists(values, min_size=1, max_size=3).map(",".join))
    kinds = [st.tuples(st.just("--set"), one), st.tuples(st.just("--grid"), many)]
    return st.one_of(*kinds, *([st.tuples(st.sampled_from(["--set", "--grid"]), WILD)] if wild else [])).map(list)


def commands(wild, most):
    flags = st.one_of(*[given_flag(field, wild) for field in FLAGS], *[pairs(wild)] * 8)
    return st.builds(
        lambda name, parts: [name, *sum(parts, [])], st.sampled_from(["run", "sweep"]), st.lists(flags, max_size=most)
    )


@law(500, argv=commands(wild=True, most=4))
def test_whatever_flags_are_given_the_command_runs_or_says_in_one_line_why_not(argv, place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clfunc.cli.command._train", lambda *_: None)
        accepted_or_refused(argv, place)


@law(200, field=st.sampled_from(FLAGS), value=WILD)
def test_a_flag_by_itself_with_any_value_is_taken_or_refused_in_one_line(field, value, place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clfunc.cli.command._train", lambda *_: None)
        accepted_or_refused(["run", flag(field.name), value], place)


@law(400, own=st.sampled_from(OWN), value=st.one_of(WILD, NUMBERS))
def test_a_setting_of_any_value_takes_a_step_or_is_refused_in_one_line(own, value, place):
    setting, kind, name = own
    small = [] if setting in ("channels", "hidden") else ["--hidden", "4", "--tasks", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clfunc.cli.command._train", step_once)
        accepted_or_refused(["run", *small, flag(kind), name, "--set", f"{setting}={value}"], place)


SMALL = ["--hidden", "4", "--tasks", "2"]


@law(120, argv=commands(wild=False, most=6))
def test_every_combination_that_is_accepted_can_take_a_step(argv, place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clfunc.cli.command._train", step_once)
        accepted_or_refused([argv[0], *SMALL, *argv[1:]], place)


@law(200, argv=st.lists(st.one_of(WILD, st.sampled_from(["run", "sweep", "report", "list", "--set", "--out"])), max_size=4))
def test_any_words_at_all_are_taken_or_refused_in_one_line(argv, place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clfunc.cli.command._train", lambda *_: None)
        accepted_or_refused(argv, place)


HUGE = [
    "--tasks 1000000000",
    "--tasks 1000000",
    "--seeds 1000000000",
    "--seeds 100000",
    "--batch-size 1000000000",
    "--epochs 100000000000000000000",
    "--hidden 1000000000",
    "--hidden 1000000 1000000",
    "--hidden " + str(10**30),
    "--model resnet --set channels=[1000000,3]",
    "--model convnet --set channels=[1000000000]",
    "--model convnet --set kernel=1000000001",
    "--model resnet --set blocks=1000000000",
    "--scenario slowly_changing_regression --set period=1000000000000",
    "--scenario slowly_changing_regression --set features=1000000000",
    "--scenario slowly_changing_regression --set inputs=1000000000 --set slow=999999999",
    "--scenario slowly_changing_regression --tasks 1000000000",
    "--algorithm independent --tasks 20000",
]


@pytest.mark.parametrize("arguments", HUGE)
def test_what_would_not_fit_is_refused_before_memory_is_taken(arguments, place):
    assert not accepted_or_refused(["run", *arguments.split()], place)
