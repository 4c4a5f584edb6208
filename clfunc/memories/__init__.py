"""Memories: examples remembered in static shapes, one file each. Terms and transforms draw from
them."""

from clfunc.memories.balanced import balanced as balanced
from clfunc.memories.pixels import pixels as pixels
from clfunc.memories.reservoir import reservoir as reservoir
from clfunc.memories.ring import ring as ring
