"""Models as pure functions with their wires: `mlp`, `convnet`, `resnet`."""

from clfunc.models.convnet import convnet as convnet
from clfunc.models.mlp import mlp as mlp
from clfunc.models.resnet import resnet as resnet
