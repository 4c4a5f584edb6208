"""For users' tests: the laws that every algorithm obeys, and hypothesis strategies for inputs.

from clfunc.testing import Case, laws

@pytest.mark.parametrize("law", laws)
def test_my_algorithm_obeys(law):
    law(Case("mine", lambda model, tx: mine(model, tx, strength=0.1)))
"""

from clfunc.testing.case import Case as Case
from clfunc.testing.laws import compiled_laws as compiled_laws
from clfunc.testing.laws import laws as laws
from clfunc.testing.laws import long_laws as long_laws
from clfunc.testing.play import play as play
from clfunc.testing.play import toy_stream as toy_stream
