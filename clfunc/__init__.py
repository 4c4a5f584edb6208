"""clfunc: continual learning as pure functions on torch.func.

An algorithm is a step, `(params, state, batch) -> (params, state, metrics)`; a transform rewrites updates; a run is a scan of
steps; a sweep is a run whose state has one more axis.
"""

from clfunc import heads, losses, metrics, models, random, scenarios, transforms, tree, types
from clfunc.algorithms import finetuning, fix, independent, joint, reduce_on_plateau, single
from clfunc.driver import run
from clfunc.engine import scan
from clfunc.heads import cil, dil, mtl, stl, til
from clfunc.models import mlp
from clfunc.results import Result
from clfunc.scenarios import datasets
from clfunc.sweep import sweep
from clfunc.transforms import (
    adam,
    adamw,
    add_decayed_weights,
    carry,
    chain,
    clip_by_global_norm,
    clip_by_value,
    mask_updates,
    scale,
    schedules,
    sgd,
)
from clfunc.types import (
    Algorithm,
    Batch,
    Context,
    Head,
    Model,
    Output,
    Task,
    Transform,
    Wire,
    scalar,
)

__version__ = "0.1.0"
__all__ = [
    "Algorithm", "Batch", "Context", "Head", "Model", "Output", "Result", "Task", "Transform", "Wire",
    "adam", "adamw", "add_decayed_weights", "carry", "chain", "cil", "clip_by_global_norm", "clip_by_value", "datasets", "dil",
    "finetuning", "fix", "heads", "independent", "joint", "losses", "mask_updates", "metrics", "mlp", "models", "mtl", "random",
    "reduce_on_plateau", "run", "scalar", "scale", "scan", "scenarios", "schedules", "sgd", "single", "stl", "sweep", "til",
    "transforms", "tree", "types",
]  # fmt: skip
