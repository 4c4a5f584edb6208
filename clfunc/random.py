"""Random numbers as pure functions of a key: Philox4x32-10 [1] in integer tensor operations, under JAX's names.

A key is two uint32 words; it is the cipher's key. The counter says which words: `(block, block >> 32, at, use)`, where
`use` keeps the streams of `bits`, `split` and `fold_in` apart. The bits are the same on every device, alone, under `vmap`
and compiled; `uniform` and `randint` are exact functions of them, `normal` is to the last bit of `erfinv`.

A step draws with `at=count` rather than by splitting where it can: it costs nothing and needs no new key.

[1] Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11; known answers from its Random123 library.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clfunc.tree import flatten, unflatten
from clfunc.types import Key

_WORD = 0xFFFFFFFF
_BITS, _SPLIT, _FOLD = 0, 1, 2


def philox(
    key: tuple[Tensor, Tensor], counter: tuple[Tensor, ...], rounds: int = 10
) -> tuple[Tensor, ...]:
    """Philox4x32: four counter words to four random words, all int64 tensors holding uint32 values, any one shape."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(rounds):
        p0, p1 = (
            c0 * 0xD2511F53,
            c2 * 0xCD9E8D57,
        )  # int64 wraps, which leaves all 64 product bits right
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _WORD) ^ c1 ^ k0,
            p1 & _WORD,
            ((p0 >> 32) & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def key(seed: int, device: "torch.device | str | None" = None) -> Key:
    """The key of an integer seed in [0, 2**64)."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be in [0, 2**64), given {seed}")
    return torch.tensor([seed & _WORD, seed >> 32], dtype=torch.int64, device=device)


def _words(key: Key, count: int, at: "int | Tensor", use: int) -> Int[Tensor, " count"]:
    """`count` random words of the stream `use` at position `at`."""
    if key.is_meta:  # asked for shapes only
        return key.new_empty(count)
    block = torch.arange((count + 3) // 4, dtype=torch.int64, device=key.device)
    zero = torch.zeros_like(block)
    position = zero + at
    words = philox(
        (key[0], key[1]),
        (block, zero, position & _WORD, zero + (use << 28) + ((position >> 32) & 0xFFFFFFF)),
    )
    return torch.cat(words)[:count]


def split(key: Key, num: int = 2) -> Int[Tensor, "num 2"]:
    """`num` new keys; unpack them, `first, second = split(key)`."""
    return _words(key, 2 * num, 0, _SPLIT).reshape(num, 2)


def fold_in(key: Key, *data: "int | Tensor") -> Key:
    """The key of `(key, data)`: `fold_in(key, task, epoch)` names one epoch's randomness, whenever it is asked for."""
    for number in data:
        key = _words(key, 2, number, _FOLD)
    return key


def bits(key: Key, shape: tuple[int, ...] = (), at: "int | Tensor" = 0) -> Int[Tensor, "..."]:
    """Random 32-bit words, as int64 in [0, 2**32). Different `at` (an integer below 2**60) gives independent words."""
    return _words(key, math.prod(shape), at, _BITS).reshape(shape)


def uniform(
    key: Key,
    shape: tuple[int, ...] = (),
    minval: "float | Tensor" = 0.0,
    maxval: "float | Tensor" = 1.0,
    *,
    at: "int | Tensor" = 0,
    dtype: "torch.dtype | None" = None,
) -> Float[Tensor, "..."]:
    """U[minval, maxval): `minval + u * (maxval - minval)`, u on a grid of [0, 1) as fine as the dtype's numbers near 1.

    [0, 1) is exact; the sum for another range may round up to maxval itself.
    """
    dtype = dtype or torch.get_default_dtype()
    if dtype == torch.float64:
        high, low = bits(key, (2, *shape), at).unbind()
        unit = ((high >> 5) * 2**26 + (low >> 6)).to(dtype) * 2.0**-53
    else:
        digits = {torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}[dtype]
        unit = (bits(key, shape, at) >> (32 - digits)).to(dtype) * 2.0**-digits
    return minval + unit * (maxval - minval)


def normal(
    key: Key,
    shape: tuple[int, ...] = (),
    *,
    at: "int | Tensor" = 0,
    dtype: "torch.dtype | None" = None,
) -> Float[Tensor, "..."]:
    """N(0, 1), by the inverse of its distribution function; within +-5.3 in float32, +-8.2 in float64."""
    dtype = dtype or torch.get_default_dtype()
    if dtype == torch.float64:
        high, low = bits(key, (2, *shape), at).unbind()
        centre = (((high >> 6) * 2**26 + (low >> 6)) * 2 + 1 - 2**52).to(dtype) * 2.0**-52
    else:
        centre = ((bits(key, shape, at) >> 9) * 2 + 1 - 2**23).to(
            torch.float32
        ) * 2.0**-23  # never +-1
    return (math.sqrt(2) * torch.erfinv(centre)).to(dtype)


def normal_like(key: Key, tree: Any, *, at: "int | Tensor" = 0) -> Any:
    """N(0, 1) for every entry of a tree of tensors of one dtype, in a single draw."""
    leaves, structure = flatten(tree)
    sizes = [leaf.numel() for leaf in leaves]
    drawn = normal(key, (sum(sizes),), at=at, dtype=leaves[0].dtype).split(sizes)
    return unflatten(
        [part.reshape(leaf.shape) for part, leaf in zip(drawn, leaves, strict=True)], structure
    )


def randint(
    key: Key, shape: tuple[int, ...], minval: int, maxval: "int | Tensor", *, at: "int | Tensor" = 0
) -> Int[Tensor, "..."]:
    """Integers in [minval, maxval), for a span up to 2**31; off uniform by at most span / 2**32."""
    return minval + ((bits(key, shape, at) * (maxval - minval)) >> 32)


def permutation(key: Key, n: int, *, size: "Tensor | None" = None) -> Int[Tensor, " n"]:
    """A uniform permutation of `range(n)`. With `size` (0-d): of `range(size)`, then the rest in any order."""
    high, low = bits(key, (2, n)).unbind()
    rank = (high >> 1) * 2**32 + low  # 63 bits: ties are out of the question
    if size is not None:
        rank = torch.where(
            torch.arange(n, device=key.device) < size, rank, torch.iinfo(torch.int64).max
        )
    return torch.argsort(rank, stable=True)
