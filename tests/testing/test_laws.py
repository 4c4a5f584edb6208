"""Every law over every algorithm of the zoo."""

import pytest
from support.zoo import cases, compiled_cases

from clfunc.testing import compiled_laws, laws, long_laws
from clfunc.testing.laws import a_resumed_compiled_run_is_the_run_never_stopped


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr("clfunc.results.plots.save", lambda *_: [])


@pytest.mark.parametrize("law", laws, ids=lambda law: law.__name__)
@pytest.mark.parametrize("case", cases, ids=lambda case: case.name)
def test_every_algorithm_obeys(case, law):
    law(case)


@pytest.mark.compiled
@pytest.mark.parametrize("law", compiled_laws, ids=lambda law: law.__name__)
@pytest.mark.parametrize("case", compiled_cases)
def test_every_algorithm_compiled_obeys(case, law):
    law(case)


@pytest.mark.compiled
@pytest.mark.parametrize(
    "name", ["l2_init", *(pytest.param(name, marks=pytest.mark.long) for name in ("hat", "cbp"))]
)
def test_a_compiled_run_resumed_is_the_run_never_stopped(name):
    a_resumed_compiled_run_is_the_run_never_stopped(
        next(case for case in cases if case.name == name)
    )


@pytest.mark.compiled
@pytest.mark.long
@pytest.mark.parametrize("law", long_laws, ids=lambda law: law.__name__)
@pytest.mark.parametrize("case", cases, ids=lambda case: case.name)
def test_every_algorithm_compiled_obeys_at_length(case, law):
    law(case)
