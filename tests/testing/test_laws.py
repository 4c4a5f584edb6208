"""Every law over every algorithm of the zoo."""

import pytest
from support.zoo import cases, compiled_cases

from clfunc.testing import compiled_laws, laws, long_laws
from clfunc.testing.laws import a_resumed_compiled_run_is_the_run_never_stopped

by_case = pytest.mark.parametrize("case", cases, ids=lambda case: case.name)
CASES = {case.name: case for case in cases}


@pytest.mark.typed
@by_case
def test_every_algorithm_obeys_the_first_law_in_every_paradigm(case):
    laws[0](case)


@pytest.mark.parametrize("law", laws[1:], ids=lambda law: law.__name__)
@by_case
def test_every_algorithm_obeys(case, law):
    law(case)


@pytest.mark.compiled
@pytest.mark.parametrize("law", compiled_laws, ids=lambda law: law.__name__)
@pytest.mark.parametrize("case", compiled_cases)
def test_every_algorithm_compiled_obeys(case, law):
    law(case)


@pytest.mark.compiled
@pytest.mark.parametrize(
    "name",
    [
        "l2_init",
        pytest.param("hat", marks=pytest.mark.long),
        pytest.param("cbp", marks=pytest.mark.long),
    ],
)
def test_a_compiled_run_resumed_is_the_run_never_stopped(name):
    a_resumed_compiled_run_is_the_run_never_stopped(CASES[name])


@pytest.mark.compiled
@pytest.mark.long
@pytest.mark.parametrize("law", long_laws, ids=lambda law: law.__name__)
@by_case
def test_every_algorithm_compiled_obeys_at_length(case, law):
    law(case)
