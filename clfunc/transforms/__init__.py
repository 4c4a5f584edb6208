"""Transforms of updates, one file each: `init`, `update`, and what happens around a task."""

from clfunc.transforms import schedules as schedules
from clfunc.transforms.adam import adam as adam
from clfunc.transforms.adam import adamw as adamw
from clfunc.transforms.agem_projection import agem_projection as agem_projection
from clfunc.transforms.chain import carry as carry
from clfunc.transforms.chain import chain as chain
from clfunc.transforms.clip import clip_by_global_norm as clip_by_global_norm
from clfunc.transforms.clip import clip_by_value as clip_by_value
from clfunc.transforms.gem_projection import gem_projection as gem_projection
from clfunc.transforms.gpm_projection import gpm_projection as gpm_projection
from clfunc.transforms.mask import mask_updates as mask_updates
from clfunc.transforms.ogd_projection import ogd_projection as ogd_projection
from clfunc.transforms.reinit import reinit as reinit
from clfunc.transforms.reset_dormant import reset_dormant as reset_dormant
from clfunc.transforms.reset_silent import reset_silent as reset_silent
from clfunc.transforms.scale import add_decayed_weights as add_decayed_weights
from clfunc.transforms.scale import scale as scale
from clfunc.transforms.scale_by_adjustment import scale_by_adjustment as scale_by_adjustment
from clfunc.transforms.sgd import sgd as sgd
from clfunc.transforms.upgd import upgd as upgd
