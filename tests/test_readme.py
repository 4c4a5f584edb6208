"""README's code runs as it stands, and the algorithm that it shows is the one in the library."""

import re
from pathlib import Path

from clfunc.testing.laws import identical

QUIET = {"engine": "eager", "progress": False}
ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def test_the_examples_run_as_they_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    space = {}
    exec("\n".join(BLOCKS[:3]), space)
    assert space["result"].coordinates == {
        "lr": [0.01, 0.01, 0.1, 0.1],
        "momentum": [0.0, 0.9, 0.0, 0.9],
    }
    assert space["result"].average_accuracy[1] > 0.7
    assert space["logits"].shape == (64, 10) and float(space["metrics"]["loss"]) < 2
    assert (tmp_path / "results" / "finetuning" / "summary.json").is_file()
    exec(BLOCKS[3], space)
    bits = []
    for name in ("er", "same"):
        one = space["cl"].run(space[name], space["scenario"], seeds_of(space), **QUIET)
        bits.append(one.params)
    assert identical(*bits)
    assert space["mine"].settings["memory"]["name"] == "balanced"
    exec(BLOCKS[4], space)
    assert (
        space["result"].config["algorithm"] == "hat"
        and (space["result"].backward_transfer == 0).all()
    )
    assert (tmp_path / "results" / "hat" / "figures" / "probe_capacity.png").is_file()
    exec(BLOCKS[5], space)
    assert space["state"].forgotten.tolist() == [False] * 5 + [True]
    forgotten, runs = (
        space["found"].measures["accuracy_forgotten"],
        space["found"].result.coordinates["member"],
    )
    unlearned, original = (
        forgotten[:, [name == one for name in runs]] for one in ("unlearned", "original")
    )
    assert unlearned.max() < 0.3 and original.min() > unlearned.max() + 0.1


def seeds_of(space):
    """The key of one run."""
    return space["cl"].random.key(3)


def test_the_term_shown_is_the_librarys_and_its_row_the_tests():
    shown = next(block for block in BLOCKS if "class L2InitState" in block)
    assert (ROOT / "clfunc/terms/l2_init.py").read_text().endswith(shown)
    row = next(block for block in BLOCKS if block.lstrip().startswith("Case("))
    assert row in (ROOT / "tests/support/zoo.py").read_text()
    assert len(shown.splitlines()) + len(row.splitlines()) + 1 < 60
