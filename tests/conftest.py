"""What holds for every test: type checks at run time, threads, examples of hypothesis, figures.

Shapes in signatures are checked while tests run, unless CLFUNC_TYPES=0. `scripts/test` checks them
in the tests marked `typed`, and with `--all` in every test that compiles nothing.
"""

import os
from pathlib import Path

import pytest
import torch

if os.environ.get("CLFUNC_TYPES", "1") == "1":
    import support.strict  # noqa: F401 (the hook reads `check` as an attribute of the package)
    from jaxtyping import install_import_hook

    install_import_hook("clfunc", "support.strict.check")

from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile(
    "clfunc",
    deadline=None,
    max_examples=20,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("clfunc")

# Packages whose tests take few steps: all of these tests are `typed`.
TYPED = {"datasets", "engine", "results", "scenarios", "transforms", "units", "unlearning"}


def _package(path: Path) -> str:
    return path.relative_to(Path(__file__).parent).parts[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of packages as `typed`."""
    for item in items:
        is_here = item.path.is_relative_to(Path(__file__).parent)
        if is_here and _package(item.path) in TYPED:
            item.add_marker("typed")


@pytest.fixture(autouse=True)
def no_drawing(request, monkeypatch):
    """Outside of `results` figures are made but not drawn: that is two thirds of a small command.

    A test marked `draws` draws; one that uses `no_figures` makes none.
    """
    if _package(request.path) == "results" or request.node.get_closest_marker("draws"):
        return
    from matplotlib.figure import Figure

    def save(figure, file, **_):
        Path(file).write_bytes(b"")

    monkeypatch.setattr(Figure, "savefig", save)


@pytest.fixture
def no_figures(monkeypatch):
    """A run leaves its results without figures, for tests of many runs that look at none."""
    monkeypatch.setattr("clfunc.results.plots.save", lambda *_: [])
