"""Terms: what is minimised beside the loss of the batch, one file each."""

from clfunc.terms.asymmetric import asymmetric as asymmetric
from clfunc.terms.cls_er import cls_er as cls_er
from clfunc.terms.distil_logits import distil_logits as distil_logits
from clfunc.terms.ewc import ewc as ewc
from clfunc.terms.fdr import fdr as fdr
from clfunc.terms.l2_init import l2_init as l2_init
from clfunc.terms.l2_sp import l2_sp as l2_sp
from clfunc.terms.lwf import lwf as lwf
from clfunc.terms.lwf_mc import lwf_mc as lwf_mc
from clfunc.terms.mas import mas as mas
from clfunc.terms.mir import mir as mir
from clfunc.terms.parseval import parseval as parseval
from clfunc.terms.replay import replay as replay
from clfunc.terms.rwalk import rwalk as rwalk
from clfunc.terms.si import si as si
from clfunc.terms.spectral import spectral as spectral
from clfunc.terms.wasserstein import wasserstein as wasserstein
