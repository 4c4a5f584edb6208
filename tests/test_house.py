"""The house: imports follow one order, files stay short, no step reads a value of a tensor, nothing
is pickled.
"""

import ast
from pathlib import Path

import house
import pytest

ROOT = Path(__file__).parent.parent / "clfunc"
# From the ground up: a file imports its own room and rooms that stand before it.
ROOMS = (
    "tree",
    "types",
    "random",
    "settings",
    "bank",
    "losses",
    "metrics",
    "datasets",
    "models",
    "compose",
    "units",
    "scenarios",
    "hard_attention",
    "transforms",
    "terms",
    "memories",
    "unlearning",
    "algorithms",
    "engine",
    "results",
    "driver",
    "experiments",
    "testing",
    "cli",
)
PLANNED = {"terms", "memories"}  # rooms that have no file yet
FILES = sorted(ROOT.rglob("*.py"))
TESTS = sorted((ROOT.parent / "tests").rglob("*.py"))
COMPOSITIONS = {"finetuning", "hat", "amnesiac"}  # what another algorithm may be made of


def _name(path):
    return path.relative_to(ROOT.parent).with_suffix("").as_posix()


def _room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


MODULES = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in FILES}


def _imported(path):
    """Dotted names of the modules below clfunc that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "clfunc":
            package = node.module.removeprefix("clfunc").removeprefix(".")
            for alias in node.names:
                name = f"{package}.{alias.name}".lstrip(".")
                is_module = name in MODULES or f"{name}.__init__" in MODULES
                yield name if is_module else package
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("clfunc."):
                    yield alias.name.removeprefix("clfunc.")


def _literals(value):
    return isinstance(value, ast.Expr) and isinstance(value.value, ast.Constant)


def test_the_table_names_every_room():
    there = {_room(path) for path in FILES} - {"__init__", "__main__"}
    assert set(ROOMS) - PLANNED == there - PLANNED


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_go_up_the_table(path):
    room = _room(path)
    if room in ("__init__", "__main__"):
        return
    for imported in _imported(path):
        other = imported.split(".")[0]
        assert ROOMS.index(other) <= ROOMS.index(room), f"{_name(path)} imports {imported}"


def test_no_circle_of_imports_within_a_room():
    imports = {}
    for path in FILES:
        name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        imports[name.removesuffix(".__init__")] = set(_imported(path))
    done = set()

    def visit(name, above):
        assert name not in above, f"{' -> '.join((*above, name))} is a circle"
        if name in done or name not in imports:
            return
        for other in imports[name]:
            visit(other, (*above, name))
        done.add(name)

    for name in imports:
        visit(name, ())


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py"], ids=_name)
def test_a_package_hands_names_on_and_defines_nothing(path):
    for node in ast.parse(path.read_text()).body:
        is_version = isinstance(node, ast.Assign) and node.targets[0].id == "__version__"
        assert isinstance(node, ast.ImportFrom) or _literals(node) or is_version


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "algorithms"], ids=_name)
def test_an_algorithm_imports_another_only_to_be_a_composition_of_it(path):
    if path.name != "__init__.py":
        others = {name.split(".")[1] for name in _imported(path) if name.startswith("algorithms.")}
        assert others <= COMPOSITIONS


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_files_stay_short(path):
    limit = 150 if path.parent.name == "algorithms" else 400
    assert len(path.read_text().splitlines()) <= limit


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_functions_stay_short(path):
    for length, name in house.functions(path):
        assert length <= 60, f"{name} has {length} lines besides its docstring"


def test_the_top_level_has_few_modules():
    assert len(list(ROOT.glob("*.py"))) <= 10


def test_tests_mirror_the_packages():
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for path in TESTS:
        folder = path.parent.name
        assert folder in rooms | {"tests", "support", "scripts"}, f"{path} mirrors no package"
        assert (folder == "support") != path.name.startswith(("test_", "conftest")), path


@pytest.mark.parametrize("path", TESTS, ids=_name)
def test_helpers_that_tests_share_live_in_support(path):
    for node in ast.walk(ast.parse(path.read_text())):
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        assert not module.split(".")[-1].startswith("test_"), f"{_name(path)} imports {module}"


STEPS = ("algorithms", "transforms", "models", "units", "hard_attention")


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name in STEPS], ids=_name)
def test_no_step_asks_a_tensor_for_its_value(path):
    asked = {"item", "nonzero", "tolist", "cpu", "numpy"}
    calls = (
        node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    )
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
