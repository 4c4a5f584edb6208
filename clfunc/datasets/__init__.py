"""Data sets as tensors: by name, from folders of IDX files, or from the arrays of a user."""

from clfunc.datasets.load import Dataset as Dataset
from clfunc.datasets.load import from_arrays as from_arrays
from clfunc.datasets.load import load as load
from clfunc.datasets.load import names as names
