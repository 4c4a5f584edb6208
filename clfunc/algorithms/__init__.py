"""Algorithms, one file each, named as the field names them.

An export here puts one on the command line too.
"""

from clfunc.algorithms.a_gem import a_gem as a_gem
from clfunc.algorithms.adahat import adahat as adahat
from clfunc.algorithms.amnesiac import amnesiac as amnesiac
from clfunc.algorithms.amnesiac_hat import amnesiac_hat as amnesiac_hat
from clfunc.algorithms.cbp import cbp as cbp
from clfunc.algorithms.cbp import cbp_arxiv2023 as cbp_arxiv2023
from clfunc.algorithms.cbp import cbp_lop_conv as cbp_lop_conv
from clfunc.algorithms.cbp import cbp_lop_mlp as cbp_lop_mlp
from clfunc.algorithms.cbp import cbp_nature2024 as cbp_nature2024
from clfunc.algorithms.cls_er import cls_er as cls_er
from clfunc.algorithms.der import der as der
from clfunc.algorithms.derpp import derpp as derpp
from clfunc.algorithms.er import er as er
from clfunc.algorithms.er_ace import er_ace as er_ace
from clfunc.algorithms.ewc import ewc as ewc
from clfunc.algorithms.finetuning import finetuning as finetuning
from clfunc.algorithms.fix import fix as fix
from clfunc.algorithms.gem import gem as gem
from clfunc.algorithms.gpm import gpm as gpm
from clfunc.algorithms.hat import hat as hat
from clfunc.algorithms.independent import independent as independent
from clfunc.algorithms.joint import joint as joint
from clfunc.algorithms.l2_init import l2_init as l2_init
from clfunc.algorithms.lwf import lwf as lwf
from clfunc.algorithms.lwf import lwf_mc as lwf_mc
from clfunc.algorithms.mas import mas as mas
from clfunc.algorithms.mir import mir as mir
from clfunc.algorithms.ogd import ogd as ogd
from clfunc.algorithms.random import random as random
from clfunc.algorithms.redo import redo as redo
from clfunc.algorithms.reduce_on_plateau import reduce_on_plateau as reduce_on_plateau
from clfunc.algorithms.self_normalized_resets import (
    self_normalized_resets as self_normalized_resets,
)
from clfunc.algorithms.shrink_and_perturb import shrink_and_perturb as shrink_and_perturb
from clfunc.algorithms.si import si as si
from clfunc.algorithms.single import single as single
