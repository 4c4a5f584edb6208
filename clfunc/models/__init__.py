"""Models as pure functions with their wires: `mlp`."""

from clfunc.models.mlp import mlp as mlp
