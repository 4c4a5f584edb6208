"""Every law over every algorithm of the zoo."""

import pytest
from zoo import cases, compiled_cases

from clfunc.testing import compiled_laws, laws, long_laws


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
@pytest.mark.long
@pytest.mark.parametrize("law", long_laws, ids=lambda law: law.__name__)
@pytest.mark.parametrize("case", cases, ids=lambda case: case.name)
def test_every_algorithm_compiled_obeys_at_length(case, law):
    law(case)
