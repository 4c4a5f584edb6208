"""Streams of tasks: `permuted`, `split`, `rotated`, `combined` and `slowly_changing_regression`.

`joint` and `single` make a scenario of a scenario: all its tasks mixed, and one of its tasks.
"""

from clfunc.scenarios.base import Examples as Examples
from clfunc.scenarios.base import Scenario as Scenario
from clfunc.scenarios.base import Stream as Stream
from clfunc.scenarios.base import epoch_entries as epoch_entries
from clfunc.scenarios.combined import combined as combined
from clfunc.scenarios.mixtures import joint as joint
from clfunc.scenarios.mixtures import single as single
from clfunc.scenarios.permuted import permuted as permuted
from clfunc.scenarios.rotated import rotated as rotated
from clfunc.scenarios.slowly_changing_regression import (
    slowly_changing_regression as slowly_changing_regression,
)
from clfunc.scenarios.split import split as split
