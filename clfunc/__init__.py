"""clfunc: continual learning as pure functions on torch.func.

An algorithm is a step, `(params, state, batch) -> (params, state, metrics)`; a transform rewrites
updates; a run is a scan of steps; a sweep is a run whose state has one more axis.
"""

from clfunc import algorithms as algorithms
from clfunc import datasets as datasets
from clfunc import hard_attention as hard_attention
from clfunc import losses as losses
from clfunc import metrics as metrics
from clfunc import models as models
from clfunc import random as random
from clfunc import scenarios as scenarios
from clfunc import transforms as transforms
from clfunc import tree as tree
from clfunc import types as types
from clfunc import unlearning as unlearning
from clfunc.algorithms import adahat as adahat
from clfunc.algorithms import amnesiac as amnesiac
from clfunc.algorithms import amnesiac_hat as amnesiac_hat
from clfunc.algorithms import cbp as cbp
from clfunc.algorithms import cbp_arxiv2023 as cbp_arxiv2023
from clfunc.algorithms import cbp_lop_conv as cbp_lop_conv
from clfunc.algorithms import cbp_lop_mlp as cbp_lop_mlp
from clfunc.algorithms import cbp_nature2024 as cbp_nature2024
from clfunc.algorithms import finetuning as finetuning
from clfunc.algorithms import fix as fix
from clfunc.algorithms import hat as hat
from clfunc.algorithms import independent as independent
from clfunc.algorithms import joint as joint
from clfunc.algorithms import l2_init as l2_init
from clfunc.algorithms import redo as redo
from clfunc.algorithms import reduce_on_plateau as reduce_on_plateau
from clfunc.algorithms import self_normalized_resets as self_normalized_resets
from clfunc.algorithms import shrink_and_perturb as shrink_and_perturb
from clfunc.algorithms import single as single
from clfunc.driver.run import run as run
from clfunc.engine.scan import scan as scan
from clfunc.engine.sweep import sweep as sweep
from clfunc.experiments.audit import audit as audit
from clfunc.experiments.chunks import run_chunks as run_chunks
from clfunc.experiments.halving import halve as halve
from clfunc.experiments.until import run_until as run_until
from clfunc.models import convnet as convnet
from clfunc.models import heads as heads
from clfunc.models import mlp as mlp
from clfunc.models import resnet as resnet
from clfunc.models.heads import cil as cil
from clfunc.models.heads import dil as dil
from clfunc.models.heads import mtl as mtl
from clfunc.models.heads import stl as stl
from clfunc.models.heads import til as til
from clfunc.results.result import Result as Result
from clfunc.settings import named as named
from clfunc.transforms import adam as adam
from clfunc.transforms import adamw as adamw
from clfunc.transforms import add_decayed_weights as add_decayed_weights
from clfunc.transforms import carry as carry
from clfunc.transforms import chain as chain
from clfunc.transforms import clip_by_global_norm as clip_by_global_norm
from clfunc.transforms import clip_by_value as clip_by_value
from clfunc.transforms import mask_updates as mask_updates
from clfunc.transforms import reinit as reinit
from clfunc.transforms import reset_dormant as reset_dormant
from clfunc.transforms import reset_silent as reset_silent
from clfunc.transforms import scale as scale
from clfunc.transforms import scale_by_adjustment as scale_by_adjustment
from clfunc.transforms import schedules as schedules
from clfunc.transforms import sgd as sgd
from clfunc.transforms import upgd as upgd
from clfunc.types import Algorithm as Algorithm
from clfunc.types import Batch as Batch
from clfunc.types import Context as Context
from clfunc.types import Head as Head
from clfunc.types import Model as Model
from clfunc.types import Output as Output
from clfunc.types import Task as Task
from clfunc.types import Transform as Transform
from clfunc.types import Wire as Wire
from clfunc.types import scalar as scalar
from clfunc.units import plasticity as plasticity
from clfunc.unlearning import forget_sets as forget_sets
from clfunc.unlearning.forget_sets import ForgetSet as ForgetSet
from clfunc.unlearning.forget_sets import Request as Request

__version__ = "0.1.0"
