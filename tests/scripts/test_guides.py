"""The parts of the guide obey the public laws, and the guide runs."""

import importlib.util
from pathlib import Path

import house
import pytest

from clfunc import finetuning
from clfunc.testing import Case, laws

pytestmark = pytest.mark.usefixtures("no_figures")
PATH = Path(__file__).parents[2] / "scripts" / "guides" / "my_method.py"


@pytest.fixture(scope="module")
def guide():
    spec = importlib.util.spec_from_file_location("my_method", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_guides_term_obeys_the_laws_of_terms(guide):
    laws.term(guide.mas, anchor=lambda s: s.anchor)


def test_the_guides_memory_obeys_the_laws_of_memories(guide):
    laws.memory(lambda capacity: guide.first(capacity, num_tasks=3), ordered=True)


@pytest.mark.long
def test_the_guides_transform_obeys_the_laws_of_transforms(guide):
    laws.transform(lambda model, inner: guide.cautious(inner, 2.0))


@pytest.mark.long
def test_the_guides_algorithm_obeys_the_laws_of_algorithms(guide):
    def using(share):
        return lambda model, tx: guide.rebound(finetuning(model, tx), share)

    laws.algorithm(Case("rebound", using(0.2), neutral=using(0.0), vary=using(0.4)))


def test_each_part_of_the_guide_is_under_40_lines():
    lengths = {name.split(":")[1]: length for length, name in house.functions(PATH)}
    for part in ("mas", "first", "cautious", "rebound"):
        assert 0 < lengths[part] < 40, f"{part} has {lengths[part]} lines"


@pytest.mark.long
def test_the_guide_runs(guide, capsys):
    guide.main()
    printed = capsys.readouterr().out
    assert "nan" not in printed and "remembers   first (capacity 100" in printed
