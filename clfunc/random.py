"""Random numbers as pure functions of a key: Philox4x32-10 [1] in integer tensor operations, under
JAX's names.

A key is two uint32 words; it is the cipher's key. The counter says which words are drawn:
`(block, block >> 32, at, use)`, where `use` keeps the streams of `bits`, `split` and `fold_in`
apart. The bits are the same on every device, alone, under `vmap` and compiled. `uniform` and
`randint` are exact functions of the bits; `normal` is exact to the last bit of `erfinv`.

A step draws with `at=count` rather than by splitting if it can: this costs nothing and needs no new
key.

[1] Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11. The tests take known
    answers from its library Random123.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clfunc.tree import flatten, unflatten
from clfunc.types import Key

_WORD = 0xFFFFFFFF
_BITS = 0
_SPLIT = 1
_FOLD = 2


def philox(
    key: tuple[Tensor, Tensor],
    counter: tuple[Tensor, ...],
    rounds: int = 10,
) -> tuple[Tensor, ...]:
    """Philox4x32: four random words for four counter words.

    Args:
        key: Two int64 tensors that hold uint32 values.
        counter: Four int64 tensors that hold uint32 values. All tensors have one shape.
        rounds: Rounds of the cipher; Philox4x32-10 has 10.
    """
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(rounds):
        # int64 wraps, which leaves all 64 bits of a product right
        p0 = c0 * 0xD2511F53
        p1 = c2 * 0xCD9E8D57
        c0 = ((p1 >> 32) & _WORD) ^ c1 ^ k0
        c1 = p1 & _WORD
        c2 = ((p0 >> 32) & _WORD) ^ c3 ^ k1
        c3 = p0 & _WORD
        k0 = (k0 + 0x9E3779B9) & _WORD
        k1 = (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def key(seed: int, device: "torch.device | str | None" = None) -> Key:
    """The key of a seed.

    Args:
        seed: An integer in [0, 2**64).
        device: Where the key lies, and everything that is drawn from it; the CPU if not given.

    Raises:
        ValueError: The seed is out of range.

    >>> key(7)
    tensor([7, 0])
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be in [0, 2**64), given {seed}")
    return torch.tensor([seed & _WORD, seed >> 32], dtype=torch.int64, device=device)


def _words(key: Key, count: int, at: "int | Tensor", use: int) -> Int[Tensor, " count"]:
    """`count` random words of the stream `use` at position `at`."""
    if key.is_meta:  # a meta tensor asks for shapes only
        return key.new_empty(count)
    # philox gives four words a block
    block = torch.arange((count + 3) // 4, dtype=torch.int64, device=key.device)
    # made to depend on data: of an arange Inductor makes an index expression, in which Triton
    # refuses the constants of the cipher
    block = block + (key[0] & 0)
    zero = torch.zeros_like(block)
    position = zero + at
    low = position & _WORD
    # the high bits of the position share a word with `use`, which takes its top four bits
    high = zero + (use << 28) + ((position >> 32) & 0xFFFFFFF)
    words = philox((key[0], key[1]), (block, zero, low, high))
    return torch.cat(words)[:count]


def split(key: Key, num: int = 2) -> Int[Tensor, "num 2"]:
    """`num` new keys.

    >>> first, second = split(key(7))
    >>> bool(uniform(first) != uniform(second))
    True
    """
    return _words(key, 2 * num, 0, _SPLIT).reshape(num, 2)


def fold_in(key: Key, *data: "int | Tensor") -> Key:
    """The key of `(key, *data)`, whenever and wherever it is computed.

    Args:
        key: A key.
        data: Integers below 2**60, one after the other. `fold_in(key, task, epoch)` is the key of
            one epoch of one task.

    >>> torch.equal(fold_in(key(7), 1, 2), fold_in(fold_in(key(7), 1), 2))
    True
    """
    for number in data:
        key = _words(key, 2, number, _FOLD)
    return key


def position(task: Int[Tensor, "..."], row: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """A position in a key's stream for each row of each task, to draw by with `at`.

    Args:
        task: The task of each example, below 2**20.
        row: Its row, below 2**40.

    >>> position(torch.tensor(1), torch.tensor(3)) == 2**40 + 3
    tensor(True)
    """
    return task * 2**40 + row


def bits(key: Key, shape: tuple[int, ...] = (), at: "int | Tensor" = 0) -> Int[Tensor, "..."]:
    """Random 32-bit words, as int64 in [0, 2**32).

    Args:
        key: A key.
        shape: The shape of the result.
        at: A position in the key's stream, an integer below 2**60. Two positions give independent
            words.

    >>> torch.equal(bits(key(7), (3,)), bits(key(7), (3,), at=1))
    False
    """
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
    """U[minval, maxval): `minval + u * (maxval - minval)`, with u in [0, 1).

    u lies on a grid as fine as the numbers of the dtype near 1. [0, 1) is exact; for another range
    the sum may round up to maxval itself.

    Args:
        key: A key.
        shape: The shape of the result.
        minval: The lower end.
        maxval: The upper end.
        at: A position in the key's stream; see `bits`.
        dtype: A floating dtype; torch's default if not given.

    >>> drawn = uniform(key(7), (100,), 2.0, 3.0)
    >>> bool(((drawn >= 2) & (drawn <= 3)).all())
    True
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
    """N(0, 1), by the inverse of its distribution function.

    Every number is within +-5.3 in float32, and within +-8.2 in float64.

    Args:
        key: A key.
        shape: The shape of the result.
        at: A position in the key's stream; see `bits`.
        dtype: A floating dtype; torch's default if not given.

    >>> normal(key(7), (2, 3)).shape
    torch.Size([2, 3])
    """
    dtype = dtype or torch.get_default_dtype()
    if dtype == torch.float64:
        high, low = bits(key, (2, *shape), at).unbind()
        odd = ((high >> 6) * 2**26 + (low >> 6)) * 2 + 1  # in (0, 2**53)
        centre = (odd - 2**52).to(dtype) * 2.0**-52
    else:
        odd = (bits(key, shape, at) >> 9) * 2 + 1  # in (0, 2**24), so `centre` is never +-1
        centre = (odd - 2**23).to(torch.float32) * 2.0**-23
    return (math.sqrt(2) * torch.erfinv(centre)).to(dtype)


def normal_like(key: Key, tree: Any, *, at: "int | Tensor" = 0) -> Any:
    """N(0, 1) for every entry of a tree of tensors of one dtype, in a single draw.

    >>> drawn = normal_like(key(7), {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)})
    >>> drawn["weight"].shape
    torch.Size([2, 3])
    """
    leaves, structure = flatten(tree)
    sizes = [leaf.numel() for leaf in leaves]
    drawn = normal(key, (sum(sizes),), at=at, dtype=leaves[0].dtype).split(sizes)
    shaped = []
    for part, leaf in zip(drawn, leaves, strict=True):
        shaped.append(part.reshape(leaf.shape))
    return unflatten(shaped, structure)


def randint(
    key: Key,
    shape: tuple[int, ...],
    minval: int,
    maxval: "int | Tensor",
    *,
    at: "int | Tensor" = 0,
) -> Int[Tensor, "..."]:
    """Integers in [minval, maxval), off uniform by at most span / 2**32.

    Args:
        key: A key.
        shape: The shape of the result.
        minval: The smallest integer.
        maxval: The integer after the largest; the span `maxval - minval` is at most 2**31.
        at: A position in the key's stream; see `bits`.

    >>> int(randint(key(7), (100,), 2, 4).max())
    3
    """
    return minval + ((bits(key, shape, at) * (maxval - minval)) >> 32)


def permutation(key: Key, n: int, *, size: "Tensor | None" = None) -> Int[Tensor, " n"]:
    """A uniform permutation of `range(n)`.

    Args:
        key: A key.
        n: How many numbers, >= 0.
        size: A 0-d integer. The permutation is then of `range(size)`, and the rest follows in any
            order.

    >>> sorted(permutation(key(7), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    high, low = bits(key, (2, n)).unbind()
    rank = (high >> 1) * 2**32 + low  # of 63 bits, so that equal ranks are out of the question
    if size is not None:
        last = torch.iinfo(torch.int64).max
        counted = torch.arange(n, device=key.device) < size
        rank = torch.where(counted, rank, last)
    return torch.argsort(rank, stable=True)
