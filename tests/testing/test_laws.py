"""Every law over every algorithm of the zoo."""

import pytest
from support.rows import some_at_length
from support.zoo import cases, compiled_cases

from clfunc.testing import laws
from clfunc.testing.laws import (
    a_resumed_compiled_run_is_the_run_never_stopped,
    leaves_are_tensors_of_constant_shape,
)

pytestmark = pytest.mark.usefixtures("no_figures")

# Their parts are in other rows of the zoo, and their equations in `tests/terms`.
COVERED = {"er", "derpp", "hat hat_random sigmoid", "cbp_arxiv2023", "amnesiac ewc"}
by_case = pytest.mark.parametrize("case", some_at_length(cases, lambda case: case.name in COVERED))
CASES = {case.name: case for case in cases}
# The law that makes every call in every paradigm is tried with type checks, the others without.
others = [law for law in laws.algorithm_laws if law is not leaves_are_tensors_of_constant_shape]
# These are compiled in every way where scripts/test --all is not run, too.
in_every_way = some_at_length(cases, lambda case: case.name not in ("finetuning", "hat"))


@pytest.mark.typed
@by_case
def test_the_leaves_of_every_algorithm_are_tensors_of_constant_shape(case):
    leaves_are_tensors_of_constant_shape(case)


@pytest.mark.parametrize("law", others, ids=lambda law: law.__name__)
@by_case
def test_every_algorithm_obeys(case, law):
    law(case)


@pytest.mark.compiled
@pytest.mark.parametrize("law", laws.compiled_laws, ids=lambda law: law.__name__)
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
@pytest.mark.parametrize("law", laws.long_laws, ids=lambda law: law.__name__)
@pytest.mark.parametrize("case", in_every_way)
def test_every_algorithm_compiled_obeys_in_every_way(case, law):
    law(case)
