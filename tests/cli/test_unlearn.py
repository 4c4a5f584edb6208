"""`clfunc unlearn` through `main(argv)`: what it prints and leaves, and how it says no before
anything is trained.
"""

import json

import pytest
import xarray
from support.commands import QUICK, refused

from clfunc.cli import main
from clfunc.cli.requests import Forgetting, forgetting, requests
from clfunc.unlearning.forget_sets import ForgetSet

WRONG = {
    "": "unlearn needs a --request, such as --request 2:1 to forget task 1 after task 2",
    "--request 2:": "--request takes AFTER:TASKS, such as 4:2,3 to forget tasks 2 and 3 after task 4, given '2:'",
    "--request 2": "--request takes AFTER:TASKS, such as 4:2,3 to forget tasks 2 and 3 after task 4, given '2'",
    "--request :1": "--request takes AFTER:TASKS",
    "--request 2:1,": "--request takes AFTER:TASKS",
    "--request two:1": "--request takes AFTER:TASKS",
    "--request 2:1:1": "--request takes AFTER:TASKS",
    "--request 1:2": "cannot forget task 2 after task 1: it is not trained yet",
    "--request 2:3": "cannot forget task 3 after task 2: tasks are 1..2",
    "--request 2:0": "cannot forget task 0 after task 2: tasks are 1..2",
    "--request 3:1": "cannot forget after task 3: tasks are 1..2",
    "--request 1:1 --request 2:1": "cannot forget task 1 after task 2: it is forgotten already",
    "--request 2:1,1": "cannot forget task 1 after task 2: it is forgotten already",
    "--request 1:1 --request 1:1": "cannot forget task 1 after task 1: it is forgotten already",
    "--request 2:few": "cannot forget few after task 2: no set has this name; declare it by --forget-rows few=TASK:ROWS",
    "--request 1:few --forget-rows few=2:1": "cannot forget few after task 1: task 2 is not trained yet",
    "--request 2:few --forget-rows few=3:1": "no set can be of task 3: tasks are 1..2",
    "--request 2:few,few --forget-rows few=1:1": "cannot forget few after task 2: it is forgotten already",
    "--request 1:1 --request 2:few --forget-rows few=1:1": "cannot forget few after task 2: it is forgotten already",
    "--request 2:1 --forget-rows few=1:1": "nothing forgets few: add --request AFTER:few",
    "--request 2:few --forget-rows few=1:": "--forget-rows takes NAME=TASK:ROWS, such as few=2:0-99,150",
    "--request 2:few --forget-rows few=1:5-2": "--forget-rows takes NAME=TASK:ROWS",
    "--request 2:few --forget-rows 7=1:5": "--forget-rows takes NAME=TASK:ROWS",
    "--request 2:few --forget-classes few=1": "--forget-classes takes NAME=TASK:CLASSES",
    "--request 2:few --forget-classes few=1:99": "a forget set must name classes of task",
    "--request 2:a --forget-classes a=1:3 --forget-rows a=1:3": "--forget-classes declares a a second time, given 'a=1:3'",
    "--request 2:a,b --forget-classes a=1:3,4 --forget-classes b=1:4": "both hold 4: declare one set",
    "--request 2:a --forget-classes a=1:0-9": "hold all examples that it trains on: forget the task instead",
    "--request 2:a --forget-classes a=1:3 --wrap amnesiac": "leave out --wrap amnesiac",
    "--request 1:1 --algorithm joint": "joint mixes tasks in a step",
    "--request 1:1 --wrap amnesiac --set record=False": "given one that keeps no records: leave out record=False",
    "--request 1:1 --wrap amnesiac --wrap amnesiac": "amnesiac wraps what cannot unlearn yet, given amnesiac, which can",
    "--request 1:1 --wrap amnesiac --wrap shrink_and_perturb": "amnesiac would have no record of: wrap amnesiac around",
    "--request 1:1 --epochs 0": "--epochs must be at least 1, given 0",
    "--request 1:1 --devices cpu,cpu": "Unrecognized or misplaced options: --devices",
    "--request 1:1 --runs-at-once 2": "Unrecognized or misplaced options: --runs-at-once",
    "--request 1:1 --resume": "Unrecognized or misplaced options: --resume",
    "--request 1:1 --checkpoint-every 5": "Unrecognized or misplaced options: --checkpoint-every",
}


def unlearn(tmp_path, *arguments):
    return main(["unlearn", *QUICK, "--out", str(tmp_path / "out"), *arguments])


@pytest.mark.parametrize("arguments", WRONG)
def test_what_cannot_be_asked_is_refused_in_one_line_before_training(arguments, tmp_path, capsys):
    code = unlearn(tmp_path, *arguments.split())
    assert WRONG[arguments] in refused(capsys, code, tmp_path / "out")


def test_the_help_lists_no_option_that_would_be_refused(capsys):
    assert main(["unlearn", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--request" in said and "--engine" in said
    for option in ("--devices", "--runs-at-once", "--resume", "--checkpoint-every"):
        assert option not in said


def test_requests_are_read_as_they_are_typed():
    first, second, third = (ForgetSet(task=task) for task in range(3))
    assert requests(["2:1", "4:2,3"], 4) == {1: [first], 3: [second, third]}
    assert requests(["4:2", "4:3", " 5 : 1 "], 5) == {3: [second, third], 4: [first]}


def test_sets_of_examples_are_declared_in_the_order_in_which_they_are_forgotten():
    few, threes = ForgetSet(1, rows=(0, 1, 2, 7)), ForgetSet(0, classes=(3,))
    found = forgetting(["3:1,few", "2:threes"], ["few=2:0-2,7"], ["threes=1:3"], 3)
    requested = {1: [threes], 2: [ForgetSet(0), few]}
    assert found == Forgetting(requested, [threes, few])


@pytest.mark.parametrize("seeds", ["1", "2"])
def test_an_audit_prints_every_member_and_leaves_its_files(seeds, tmp_path, capsys):
    code = unlearn(
        tmp_path, "--seeds", seeds, "--seed", "5", "--request", "1:1", "--request", "2:2"
    )
    said, out = capsys.readouterr(), tmp_path / "out"
    assert code == 0, said.err
    for words in (
        "forgotten tasks in brackets",
        "attack AUC",
        "features of forgotten tasks",
        "unlearned",
        "oracle",
    ):
        assert words in " ".join(said.out.split())
    data = xarray.load_dataset(out / "results.nc", engine="h5netcdf")
    runs = int(seeds)
    members = [
        name for name in ("unlearned", "original", "oracle 1", "oracle 2") for _ in range(runs)
    ]
    assert (
        data["member"].values.tolist() == members
        and data["seed"].values.tolist() == [*range(5, 5 + runs)] * 4
    )
    assert data["kind"].values.tolist() == ["trained", "unlearned", "trained", "unlearned"]
    assert data.attrs["algorithm"] == "amnesiac(finetuning)"
    config = json.loads((out / "config.json").read_text())
    assert config["arguments"]["request"] == ["1:1", "2:2"]
    assert config["requests"][0] == {"0": [{"task": 0}], "1": [{"task": 1}]}
    assert config["skip"][-1] == [0, 1]
    header = (out / "unlearning.csv").read_text().splitlines()[0]
    assert header == "run,seed,member,after,forgotten,metric,value"
    assert "member" in (out / "accuracy.csv").read_text().splitlines()[0]


def test_an_algorithm_that_can_unlearn_is_not_wrapped_again(tmp_path):
    arguments = (
        "--algorithm",
        "hat",
        "--wrap",
        "amnesiac",
        "--set",
        "precision=float64",
        "--request",
        "2:1",
    )
    assert unlearn(tmp_path, *arguments) == 0
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["settings"]["members"][0]
    assert (
        settings["name"] == "amnesiac"
        and settings["precision"] == "float64"
        and settings["inner"]["name"] == "hat"
    )


def test_an_audits_results_are_sound_for_report_and_diff(tmp_path, capsys):
    assert unlearn(tmp_path, "--request", "1:1") == 0
    out = str(tmp_path / "out")
    assert (
        main(["report", out, "--out", str(tmp_path / "report")]) == 0
        and main(["diff", out, out]) == 0
    )
    assert "no difference in results" in capsys.readouterr().out
    spoilt = tmp_path / "out" / "results.nc"
    spoilt.write_bytes(spoilt.read_bytes().replace(b"unlearned", b"Unlearned"))
    assert main(["diff", out, out]) == 2
    assert "its bytes are not those that were written" in capsys.readouterr().err


def test_in_regression_no_table_is_of_accuracies(tmp_path, capsys):
    stream = ("--scenario", "slowly_changing_regression", "--set", "period=200", "--request", "1:1")
    assert unlearn(tmp_path, *stream) == 0
    said = capsys.readouterr().out
    assert (
        "accuracy" not in said
        and "remaining (%)" not in said
        and "features of tasks that remain" not in said
    )
    assert "attack AUC" in said and "features of forgotten tasks" in said


def test_declared_sets_are_audited_and_printed_by_numbers_from_one(tmp_path, capsys):
    arguments = ("--request", "1:few", "--request", "2:1,threes")
    sets = ("--forget-rows", "few=1:0-20", "--forget-classes", "threes=2:3")
    assert unlearn(tmp_path, *arguments, *sets) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "task 1 rows 0-20" in said and "features of forgotten sets" in said
    data = xarray.load_dataset(tmp_path / "out" / "results.nc", engine="h5netcdf")
    assert data["forgotten"].values.tolist() == ["0:rows=0-20", "0, 0:rows=0-20, 1:classes=3"]
    assert data["after"].values.tolist() == [0, 1]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["requests"][0] == {
        "0": [{"task": 0, "rows": list(range(21))}],
        "1": [{"task": 0}, {"task": 1, "classes": [3]}],
    }
    assert config["skip"] == [[], [], [], [0]]
    assert config["settings"]["members"][0]["forget_sets"][0]["rows"] == list(range(21))
    csv = (tmp_path / "out" / "unlearning.csv").read_text()
    assert ",unlearned,1,0 0:rows=0-20 1:classes=3,accuracy_forgotten," in csv
