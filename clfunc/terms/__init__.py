"""Terms: what is minimised beside the loss of the batch, one file each."""

from clfunc.terms.distil_logits import distil_logits as distil_logits
from clfunc.terms.ewc import ewc as ewc
from clfunc.terms.l2_init import l2_init as l2_init
from clfunc.terms.replay import replay as replay
from clfunc.terms.si import si as si
