"""How parts make a whole: one kernel makes the step of every algorithm of its terms, its memory and
its transform; wrappers put an algorithm or a transform inside another.
"""

from clfunc.compose.context import Network as Network
from clfunc.compose.context import network_of as network_of
from clfunc.compose.explain import explain as explain
from clfunc.compose.kernel import Parts as Parts
from clfunc.compose.kernel import PartsState as PartsState
from clfunc.compose.refusals import bound as bound
from clfunc.compose.refusals import check_batch as check_batch
from clfunc.compose.refusals import check_forgettable as check_forgettable
from clfunc.compose.wrapping import bank_of as bank_of
from clfunc.compose.wrapping import forget_groups as forget_groups
from clfunc.compose.wrapping import lift as lift
from clfunc.compose.wrapping import optimizer_of as optimizer_of
from clfunc.compose.wrapping import passing as passing
from clfunc.compose.wrapping import with_optimizer as with_optimizer
