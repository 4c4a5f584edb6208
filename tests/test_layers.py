"""The layers of the design: imports go down only, files stay short, nothing asks a tensor for its value, no pickle."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "clfunc"
LAYERS = {
    "types": 0,
    "tree": 1,
    "random": 1,
    "files": 1,
    "masks": 2,
    "adjustment": 2,
    "sparsity": 2,
    "attention": 2,
    "embeddings": 2,
    "resets": 2,
    "utility": 2,
    "losses": 2,
    "heads": 2,
    "lift": 2,
    "records": 2,
    "repair": 2,
    "requests": 2,
    "models": 2,
    "transforms": 2,
    "metrics": 2,
    "plasticity": 2,
    "unlearning": 2,
    "algorithms": 3,
    "scenarios": 3,
    "graphs": 4,
    "operations": 4,
    "engine": 4,
    "sweep": 4,
    "evaluate": 4,
    "events": 4,
    "checkpoint": 4,
    "progress": 4,
    "memory": 4,
    "results": 5,
    "archive": 5,
    "difference": 5,
    "plots": 5,
    "standing": 6,
    "merge": 5,
    "audit_plots": 5,
    "training": 6,
    "rehearsal": 6,
    "driver": 7,
    "chunks": 7,
    "cluster": 7,
    "halving": 7,
    "confidence": 7,
    "audit": 7,
    "cli": 8,
    "testing": 8,
}
FILES = sorted(ROOT.rglob("*.py"))
COMPOSITIONS = {"finetuning", "hard_attention", "hat", "amnesiac"}  # what another algorithm may be made of


def _name(path):
    return path.relative_to(ROOT).with_suffix("").as_posix()


def _imported(path):
    """Dotted names below clfunc that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "clfunc":
            if node.module == "clfunc":
                yield from (alias.name for alias in node.names)
            else:
                yield node.module.removeprefix("clfunc.")


@pytest.mark.parametrize("path", [p for p in FILES if p.name not in ("__main__.py",)], ids=_name)
def test_imports_go_down_the_layers(path):
    module = _name(path).split("/")[0]
    if module == "__init__":
        return
    for imported in _imported(path):
        assert LAYERS[imported.split(".")[0]] <= LAYERS[module], f"{module} imports {imported}"


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "algorithms"], ids=_name)
def test_an_algorithm_imports_another_only_to_be_a_composition_of_it(path):
    if path.name != "__init__.py":
        others = {name.split(".")[1] for name in _imported(path) if name.startswith("algorithms.")}
        assert others <= COMPOSITIONS


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_files_stay_short(path):
    limit = 150 if path.parent.name == "algorithms" else 400
    assert len(path.read_text().splitlines()) <= limit


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.parent.name in ("algorithms", "transforms", "models")], ids=_name
)
def test_no_step_asks_a_tensor_for_its_value(path):
    asked = {"item", "nonzero", "tolist", "cpu", "numpy"}
    calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    assert not [f.attr for f in calls if isinstance(f, ast.Attribute) and f.attr in asked]


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_nothing_is_pickled(path):
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert not names & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    assert "torch.save" not in path.read_text() and "torch.load" not in path.read_text()
