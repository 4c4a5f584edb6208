"""For users' tests: the laws that every part obeys, and hypothesis strategies for inputs.

from clfunc.testing import Case, laws

@pytest.mark.parametrize("law", laws.algorithm_laws)
def test_my_algorithm_obeys(law):
    law(Case("mine", lambda model, tx: mine(model, tx, strength=0.1)))

def test_my_term_obeys():
    laws.term(my_term)
"""

from clfunc.testing import laws as laws
from clfunc.testing.case import Case as Case
from clfunc.testing.play import play as play
from clfunc.testing.play import toy_stream as toy_stream
