"""Hard attention to the task: gates, embeddings, rates, regularisers, and the method that they
make.
"""

from clfunc.hard_attention.gates import Gating as Gating
from clfunc.hard_attention.rates import Rates as Rates
