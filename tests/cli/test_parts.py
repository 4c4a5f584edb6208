"""Terms and memories on the command line: what `--term`, `--memory` and `--set` make of an
algorithm, what is refused, and what `clfunc list` says.
"""

import inspect
import json

import pytest
import torch
import xarray
from support.commands import QUICK, refused

import clfunc
from clfunc.cli import arguments, build, listing, main, registry, replay
from clfunc.driver import checkpoint
from clfunc.settings import plain
from clfunc.types import Algorithm

pytestmark = pytest.mark.usefixtures("no_figures")

FEW_STEPS = ["--batch-size", "256"]
REPLAY = ["--term", "replay=8", "--memory", "reservoir=50"]


def command(name, tmp_path, *more):
    return main([name, *QUICK, *FEW_STEPS, "--out", str(tmp_path / "out"), *more])


def settings_of(*flags, kind=arguments.Run, **fields):
    """The settings of the algorithm that some flags and fields ask for; nothing is trained."""
    words = {"--term": [], "--set": [], "--wrap": []}
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        if flag == "--memory":
            fields["memory"] = value
        else:
            words[flag].append(value)
    args = kind(
        term=tuple(words["--term"]),
        set=tuple(words["--set"]),
        wrap=tuple(words["--wrap"]),
        tasks=3,
        hidden=(4,),
        **fields,
    )
    return plain(build.job(args).algorithm.settings)


def test_every_public_factory_of_a_term_or_a_memory_has_a_name_here():
    for table, module in ((registry.TERMS, clfunc.terms), (registry.MEMORIES, clfunc.memories)):
        exported = {name for name, value in vars(module).items() if inspect.isfunction(value)}
        assert set(table) == exported - {"pixels"}  # which stands around a memory
        assert all(table[name] is getattr(module, name) for name in table)
    assert {"ewc", "replay"} <= set(registry.TERMS) and "fisher" not in registry.TERMS
    assert {"reservoir", "ring"} <= set(registry.MEMORIES) and "slots" not in registry.MEMORIES


def test_the_value_of_a_term_or_a_memory_is_its_first_setting():
    found = settings_of("--term", "ewc=1000", "--term", "replay=32", "--memory", "reservoir=500")
    assert list(found["terms"]) == ["ewc", "replay"]
    assert found["terms"]["ewc"]["strength"] == 1000 and found["terms"]["replay"]["batch"] == 32
    memory = found["memory"]
    assert (memory["name"], memory["capacity"]) == ("reservoir", 500)
    assert len(memory["pixels"]) == 2, "digits are kept as bytes"


def test_a_name_alone_takes_the_defaults():
    assert settings_of("--term", "ewc") == settings_of("--term", "ewc=1.0")


def test_any_setting_of_a_term_or_a_memory_can_be_set_by_its_full_name():
    typed = settings_of("--term", "ewc=10", "--term", "replay=8", "--memory", "balanced=200")
    by_name = ["--term", "ewc", "--set", "terms.ewc.strength=10", "--term", "replay"]
    by_name += ["--set", "terms.replay.batch=8", "--memory", "balanced"]
    by_name += ["--set", "memory.capacity=200"]
    assert settings_of(*by_name) == typed
    others = ["--set", "terms.replay.mean=sum", "--set", "terms.ewc.fisher=empirical"]
    found = settings_of(*by_name, *others)["terms"]
    assert found["replay"]["mean"] == "sum" and found["ewc"]["fisher"] == "empirical"


def test_hat_takes_terms_and_a_memory_too():
    found = settings_of("--term", "ewc=3", *REPLAY, algorithm="hat")
    assert found["name"] == "hat" and found["memory"]["capacity"] == 50
    assert list(found["terms"]) == ["ewc", "replay"]


@pytest.mark.parametrize(
    "flags, algorithm, head",
    [
        ([], "ewc", "til"),
        (["--term", "ewc"], "finetuning", "til"),
        (REPLAY, "finetuning", "mtl"),
        ([], "er", "mtl"),
        ([], "derpp", "mtl"),
        ([], "a_gem", "mtl"),
        ([], "gem", "mtl"),
        ([], "lwf", "mtl"),
        ([], "ogd", "mtl"),
        (["--term", "lwf"], "finetuning", "mtl"),
        ([], "gpm", "til"),
    ],
)
def test_heads_lie_side_by_side_where_a_memory_mixes_tasks_or_a_part_needs_all(
    flags, algorithm, head
):
    assert settings_of(*flags, algorithm=algorithm)["model"]["head"]["name"] == head


def test_a_ring_has_room_for_each_task_of_the_scenario():
    found = settings_of("--term", "replay=8", "--memory", "ring=30")["memory"]
    assert (found["name"], found["capacity"], found["num_tasks"]) == ("ring", 30, 3)


@pytest.mark.parametrize("term", ["ewc", "si"])
def test_a_term_keeps_tasks_apart_only_where_they_may_have_to_be_forgotten(term):
    once = settings_of("--term", term)["terms"][term]
    wrapped = settings_of("--term", term, "--wrap", "amnesiac")["inner"]["terms"][term]
    audited = settings_of("--term", term, kind=arguments.Unlearn, request=("2:1",))["terms"][term]
    assert once["num_tasks"] is None
    assert wrapped["num_tasks"] == 3 and audited["num_tasks"] == 3


def test_a_run_with_terms_and_a_memory_leaves_their_settings_and_their_flags(tmp_path):
    assert command("run", tmp_path, "--term", "ewc=1000", *REPLAY) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["settings"]["terms"]["ewc"]["strength"] == 1000
    assert config["settings"]["memory"]["capacity"] == 50
    assert config["arguments"]["term"] == ["ewc=1000", "replay=8"]
    assert config["arguments"]["memory"] == "reservoir=50"


@pytest.mark.parametrize(
    "algorithm, setting",
    [
        ("ewc", "strength=10"),
        ("si", "damping=0.5"),
        ("er", "mean=sum"),
        ("derpp", "alpha=0.2"),
        ("a_gem", "batch=16"),
        ("l2_init", "strength=0.1"),
    ],
)
def test_a_composition_by_its_papers_name_runs_with_its_own_settings(algorithm, setting, tmp_path):
    assert command("run", tmp_path, "--algorithm", algorithm, "--set", setting) == 0


def test_a_sweep_over_a_terms_strength_has_it_as_a_coordinate(tmp_path):
    grid = ["--grid", "terms.ewc.strength=1,10,100"]
    assert command("sweep", tmp_path, "--term", "ewc", *grid) == 0
    data = xarray.load_dataset(tmp_path / "out" / "results.nc", engine="h5netcdf")
    assert data["strength"].dims == ("run",)
    assert data["strength"].values.tolist() == [1, 10, 100]


def test_an_audit_forgets_a_task_that_a_term_remembers(tmp_path):
    assert command("unlearn", tmp_path, "--term", "ewc=10", "--request", "2:1") == 0
    assert (tmp_path / "out" / "unlearning.csv").is_file()


BAD = {
    "--term nonsense": (
        "--term must be one of asymmetric, cls_er, distil_logits, ewc, fdr, l2_init, l2_sp, lwf,"
        " lwf_mc, mas, mir, parseval, replay, rwalk, si, spectral, wasserstein, given 'nonsense'"
    ),
    "--term ewc --memory nonsense=5": "--memory must be one of balanced, reservoir, ring, given",
    "--term ewc=": "--term takes NAME or NAME=VALUE, given 'ewc='",
    "--term =3": "--term takes NAME or NAME=VALUE, given '=3'",
    "--term ewc=-1": "--term ewc: strength must be a number in [0, inf), given -1",
    "--term ewc=abc": "terms.ewc.strength must be a number, given 'abc'",
    "--term ewc --term l2_init=-1": "--term l2_init: strength must be a number in [0, inf)",
    "--term ewc=1 --term ewc=2": "--term ewc is given 2 times: give each term once",
    "--term ewc=1000 --set terms.ewc.strength=10": (
        "terms.ewc.strength is set 2 times: give it once, by --term, --memory, --set or --grid"
    ),
    "--term replay=8 --memory reservoir=50 --set memory.capacity=60": (
        "memory.capacity is set 2 times"
    ),
    "--term ewc --set terms.ewc.fisher=foo": (
        "--term ewc: fisher must be one of exact, sample, predicted, empirical, batched, given 'foo'"
    ),
    "--term ewc --set terms.ewc.speed=1": (
        "cannot set 'terms.ewc.speed' here: one of activation, compute_dtype, dropout_rate,"
        " first_identity, lr, momentum, nesterov, norm, per_task_norm, terms.ewc.at_once,"
        " terms.ewc.decay, terms.ewc.examples, terms.ewc.fisher, terms.ewc.strength, weight_decay, weight_init"
    ),
    "--term ewc --set terms.ewc.name=other": "cannot set 'terms.ewc.name' here",
    "--term ewc --set terms.si.strength=1": "cannot set 'terms.si.strength' here",
    "--term ewc --set strength=1": "cannot set 'strength' here",
    "--set terms=1": "cannot set 'terms' here",
    "--set memory=1": "cannot set 'memory' here",
    "--term replay=32": "--term replay needs a memory: give one, such as --memory reservoir=500",
    "--term replay --memory reservoir=50": (
        "--term replay has no default batch: give --term replay=BATCH"
    ),
    "--term replay=8 --memory reservoir": (
        "--memory reservoir has no default capacity: give --memory reservoir=CAPACITY"
    ),
    "--term replay=51 --memory reservoir=50": "replay draws 51 examples, from a memory of 50",
    "--term replay=8.5 --memory reservoir=50": (
        "terms.replay.batch must be a whole number, given 8.5"
    ),
    "--term replay=8 --memory reservoir=0": (
        "--memory reservoir: capacity must be a whole number of at least 1, given 0"
    ),
    "--term replay=1 --memory ring=1": "--memory ring: capacity must be at least 2, one example",
    "--term ewc --memory reservoir=50": (
        "--memory reservoir is read by no term: give one that does, such as --term replay=32"
    ),
    "--memory reservoir=50": "--memory reservoir is read by no term",
    "--term replay=8 --memory reservoir=1000000000000000000": "GB of memory, and cpu has",
    "--algorithm er --set capacity=1000000000000": "GB of memory, and cpu has",
    "--algorithm cbp --term ewc": (
        "--algorithm cbp takes no terms: give one that does, finetuning or hat"
    ),
    "--algorithm cbp --memory reservoir=50": (
        "--algorithm cbp takes no memory: give one that does, finetuning or hat"
    ),
    "--algorithm er --memory reservoir=50": (
        "--algorithm er has a memory of its own: leave out --memory, and give --set capacity=VALUE"
    ),
    "--algorithm ewc --set strength=-1": "strength must be a number in [0, inf), given -1",
    "--algorithm er --wrap amnesiac": "amnesiac records updates by task",
}


@pytest.mark.parametrize("flags", BAD)
def test_a_wrong_part_is_refused_in_one_line_and_nothing_is_written(flags, tmp_path, capsys):
    line = refused(capsys, command("run", tmp_path, *flags.split()), tmp_path / "out")
    assert BAD[flags] in line


BAD_GRIDS = {
    "--term replay --memory reservoir=50 --grid terms.replay.batch=4,8": (
        "members of a sweep must differ in numbers only, given terms.replay.batch = 4 and 8"
    ),
    "--term replay=4 --memory reservoir --grid memory.capacity=50,60": (
        "members of a sweep must differ in numbers only, given memory.capacity = 50 and 60"
    ),
    "--term replay=4 --memory reservoir=50 --grid terms.replay.mean=sum,union": (
        "members of a sweep must differ in numbers only, given terms.replay.mean"
    ),
    "--term ewc=1 --grid terms.ewc.strength=1,2": "terms.ewc.strength is set 2 times",
    "--grid terms.ewc.strength=1,2": "cannot set 'terms.ewc.strength' here",
    "--term ewc --grid terms.ewc.strength=1,fast": "terms.ewc.strength must be a number",
}


@pytest.mark.parametrize("flags", BAD_GRIDS)
def test_a_wrong_grid_over_a_part_is_refused_in_one_line(flags, tmp_path, capsys):
    line = refused(capsys, command("sweep", tmp_path, *flags.split()), tmp_path / "out")
    assert BAD_GRIDS[flags] in line


def test_an_audit_refuses_a_memory_in_one_line(tmp_path, capsys):
    code = command("unlearn", tmp_path, *REPLAY, "--request", "1:1")
    assert "mixes tasks" in refused(capsys, code, tmp_path / "out")


PARTS = {"term": ("ewc=1000", "replay=8"), "memory": "reservoir=50"}
RECORDED = [
    arguments.Run(**PARTS),
    arguments.Sweep(**PARTS, grid=("terms.ewc.strength=1,2",)),
    arguments.Unlearn(**PARTS, request=("2:1",)),
]


@pytest.mark.parametrize("args", RECORDED, ids=lambda args: type(args).__name__)
def test_arguments_come_back_from_json_with_their_parts(args):
    words = json.loads(json.dumps(arguments.to_json(args)))
    assert arguments.from_json(words) == args


def test_arguments_that_were_recorded_before_there_were_parts_are_still_read():
    words = arguments.to_json(arguments.Run(tasks=2))
    del words["term"], words["memory"]
    assert arguments.from_json(words) == arguments.Run(tasks=2)


def test_a_run_with_parts_is_made_again_from_what_its_folder_records(tmp_path):
    when_a_task_ends = ["--checkpoint-every", "1000"]
    assert command("run", tmp_path, "--term", "ewc=1000", *REPLAY, *when_a_task_ends) == 0
    out = tmp_path / "out"
    *_, stage = replay.replay(out, checkpoint.read(out, checkpoint.PREVIOUS))
    found = replay._named(stage.run_state)
    held = checkpoint.read(out, checkpoint.NEWEST)[0]
    assert any(name.startswith("state.parts.memory") for name in found)
    assert all(torch.equal(leaf, held[name]) for name, leaf in found.items())


def test_diff_names_the_strength_that_two_runs_differ_in(tmp_path, capsys):
    folders = []
    for strength in ("0", "1e6"):
        folder = tmp_path / strength
        assert command("run", folder, "--term", f"ewc={strength}") == 0
        folders.append(str(folder / "out"))
    capsys.readouterr()
    assert main(["diff", *folders]) == 1
    assert "setting settings.terms.ewc.strength" in capsys.readouterr().out


def test_list_prints_terms_and_memories_with_their_settings(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for line in (
        "terms (--term)",
        "memories (--memory)",
        "--set terms.ewc.strength=1.0",
        "--set terms.replay.mean=union",
        "--set memory.capacity\n",
    ):
        assert line in said
    assert "--set terms=" not in said and "--set memory=" not in said
    assert "terms.ewc.name" not in said


def test_list_of_a_name_prints_every_kind_that_has_it_in_full(capsys):
    assert main(["list", "ewc"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "algorithm ewc",
        "--set strength=100.0 Of the pull, >= 0; 0 is finetuning.",
        "term ewc",
        "--term ewc=STRENGTH",
        "--set terms.ewc.fisher=exact `exact`, `sample`, `predicted`, `empirical` or `batched`.",
        "Kirkpatrick et al. 2017, arXiv:1612.00796",
    ):
        assert words in said


@pytest.mark.parametrize(
    "name, words",
    [
        ("sgd", "optimizer sgd"),
        ("mlp", "--set dropout_rate=0.0"),
        ("ring", "--memory ring=CAPACITY"),
        ("amnesiac", "--set precision=params Of the records: `params`, the number type"),
        ("hat", "--set clamp_threshold=50.0 Bound on |s e| in eq. 4, > 0; 50 is the paper's."),
        ("balanced", "Prabhu et al. 2020 (GDumb), ECCV"),
        ("permuted", "The scenario is from Goodfellow et al. 2014, arXiv:1312.6211"),
    ],
)
def test_list_of_a_name_says_what_its_settings_mean_and_which_papers_it_is_from(
    name, words, capsys
):
    assert main(["list", name]) == 0
    assert words in " ".join(capsys.readouterr().out.split())


def test_list_of_an_algorithm_prints_what_explain_says_of_it(capsys, monkeypatch):
    explained = []

    def explain(algorithm):
        explained.append(algorithm)
        return "first line\n  second [line]"

    monkeypatch.setattr(listing, "explain", explain)
    for name in registry.ALGORITHMS:
        assert main(["list", name]) == 0
        said = capsys.readouterr()
        assert "    first line\n      second [line]\n" in said.out and said.err == ""
    assert all(isinstance(algorithm, Algorithm) for algorithm in explained)
    assert [algorithm.settings["name"] for algorithm in explained] == list(registry.ALGORITHMS)


def test_list_of_an_algorithm_prints_no_empty_explanation(capsys, monkeypatch):
    monkeypatch.setattr(listing, "explain", lambda _: "")
    assert main(["list", "er"]) == 0
    assert "made of" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, advice",
    [("reservor", "did you mean reservoir?"), ("zzz", "`clfunc list` prints all names")],
)
def test_list_of_an_unknown_name_is_refused_with_the_names_near_to_it(
    name, advice, tmp_path, capsys
):
    line = refused(capsys, main(["list", name]), tmp_path / "out")
    assert f"nothing is named '{name}': {advice}" in line
