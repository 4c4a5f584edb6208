"""All laws, by what obeys them.

`algorithm`, `term`, `memory`, `transform`, `scenario` and `mixed` hold one thing to all its laws.
The tuples name each law of algorithms, for a test of each.
"""

from clfunc.testing.algorithm_laws import (
    a_resumed_compiled_run_is_the_run_never_stopped as a_resumed_compiled_run_is_the_run_never_stopped,
)
from clfunc.testing.algorithm_laws import algorithm as algorithm
from clfunc.testing.algorithm_laws import algorithm_laws as algorithm_laws
from clfunc.testing.algorithm_laws import compiled_laws as compiled_laws
from clfunc.testing.algorithm_laws import (
    leaves_are_tensors_of_constant_shape as leaves_are_tensors_of_constant_shape,
)
from clfunc.testing.algorithm_laws import long_laws as long_laws
from clfunc.testing.compare import TOLERANCE as TOLERANCE
from clfunc.testing.compare import distance as distance
from clfunc.testing.compare import identical as identical
from clfunc.testing.memory_laws import memory as memory
from clfunc.testing.scenario_laws import scenario as scenario
from clfunc.testing.term_laws import mixed as mixed
from clfunc.testing.term_laws import term as term
from clfunc.testing.transform_laws import transform as transform
