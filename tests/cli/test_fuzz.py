"""Whatever arguments the command line is given, it runs or says in one line what is wrong.

Nothing is trained here. Memory is limited, so that what is huge must be refused before it is taken.
"""

import dataclasses

import pytest
import torch
from hypothesis import strategies as st
from support import fuzzing
from support.fuzzing import accepted_or_refused, law

from clfunc.cli import arguments, registry
from clfunc.driver.evaluate import over_runs, with_runs
from clfunc.types import Task

confined, place = fuzzing.confined, fuzzing.place
pytestmark = pytest.mark.usefixtures("confined")


def step_once(args, job, *_):
    """In place of training: one step of two examples."""
    algorithm, scenario, runs = (
        job.algorithm,
        job.scenario,
        job.key.shape[0] if job.key.ndim == 2 else None,
    )
    params, state = algorithm.init(job.key)
    stream = with_runs(scenario, scenario.train(0), runs)
    params, state = algorithm.begin_task(
        params, state, Task(stream.task, *[torch.ones_like(stream.task)] * 2)
    )
    batch = over_runs(scenario.batch, runs, (None, 0, 0))(
        scenario.data, stream, stream.train[..., :2]
    )
    algorithm.step(params, state, batch)


WILD = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "0",
            "-1",
            "-0.5",
            "1.5",
            "3",
            "1e999",
            "nan",
            "inf",
            "-inf",
            "1e-400",
            "1e9",
            "1000000000",
            "9" * 5000,
            str(2**31),
            str(2**63),
            str(2**64),
            str(10**30),
            "1e30",
            "-" + str(10**400),
            "\u0663",
            "\u00b2",
            "\u65e5\u672c",
            "\0",
            "a\nb",
            "\x1b[31m",
            "\u2028",
            "true",
            "none",
            "None",
            "[]",
            "[1,2",
            "[[1]]",
            "[1e9]",
            "[1000000000,3]",
            "['a']",
            "{}",
            "()",
            "1j",
            "'x'",
            "--",
            "-",
            "=",
            ",",
            ",,",
            "1,1",
            "a,b",
            "0x10",
            "1_000",
            "..",
            "/",
            "/dev/null",
            "~",
            "x" * 300,
            "digits",
            "digits,digits",
            "mlp",
            "resnet",
            "hat",
            "cpu",
            "meta",
            "cuda:99",
            "-h",
        ]
    ),
    st.text(max_size=6),
    st.integers().map(str),
    st.floats().map(str),
)
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
}
KINDS = {
    "algorithm": registry.ALGORITHMS,
    "wrap": registry.WRAPPERS,
    "optimizer": registry.OPTIMIZERS,
    "model": registry.MODELS,
    "scenario": registry.SCENARIOS,
}


def every_setting():
    """Each setting with the kind of thing that has it, and the first such thing that does."""
    found = set()
    for kind, table in KINDS.items():
        takers = {}
        for name in sorted(table):
            for option in registry.options(table[name]):
                takers.setdefault(option, name)
        found |= {(option, kind, name) for option, name in takers.items()}
    return sorted(found)


OWN = every_setting()
SETTINGS = sorted({name for name, _, _ in OWN})
NUMBERS = st.sampled_from(
    ["0", "1", "0.5", "0.01", "2", "true", "false", "none", "8", "100", "layer", "[4]", "[4,4]"]
)
FLAGS = [
    field for field in dataclasses.fields(arguments.Sweep) if field.name not in ("set", "grid")
]


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
    return st.one_of(
        *kinds, *([st.tuples(st.sampled_from(["--set", "--grid"]), WILD)] if wild else [])
    ).map(list)


def commands(wild, most):
    flags = st.one_of(*[given_flag(field, wild) for field in FLAGS], *[pairs(wild)] * 8)
    return st.builds(
        lambda name, parts: [name, *(word for part in parts for word in part)],
        st.sampled_from(["run", "sweep"]),
        st.lists(flags, max_size=most),
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
        patch.setattr(
            "clfunc.cli.command.many.prepare", lambda args, job: lambda: step_once(args, job)
        )
        patch.setattr("clfunc.cli.command._train", lambda args, work, console: work())
        accepted_or_refused(["run", *small, flag(kind), name, "--set", f"{setting}={value}"], place)


SMALL = ["--hidden", "4", "--tasks", "2"]


@law(120, argv=commands(wild=False, most=6))
def test_every_combination_that_is_accepted_can_take_a_step(argv, place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "clfunc.cli.command.many.prepare", lambda args, job: lambda: step_once(args, job)
        )
        patch.setattr("clfunc.cli.command._train", lambda args, work, console: work())
        accepted_or_refused([argv[0], *SMALL, *argv[1:]], place)


@law(
    200,
    argv=st.lists(
        st.one_of(WILD, st.sampled_from(["run", "sweep", "report", "list", "--set", "--out"])),
        max_size=4,
    ),
)
def test_any_words_at_all_are_taken_or_refused_in_one_line(argv, place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clfunc.cli.command._train", lambda *_: None)
        accepted_or_refused(argv, place)


HUGE = [
    "--tasks 1000000000",
    "--tasks 1000000",
    "--seeds 1000000000",
    "--seeds 100000 --runs-at-once 100000",
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
