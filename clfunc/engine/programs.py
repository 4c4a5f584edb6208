"""The programs of a process: all that was traced or compiled, kept in one cache.

A program is found by what its step is, by the kinds of the leaves that it takes, and by the
settings of torch that decide what is compiled. So a second run of the same job traces and
compiles nothing. The cache is bounded, and drops the program whose last use is the longest ago.
"""

import dataclasses
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

from clfunc.engine.identity import Identity

_MOST = 64  # a captured graph holds device memory, so not every program can be kept

Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True)
class Step:
    """A step function beside what it is: steps of equal identities are equal, and share programs.

    `scan` takes a plain function too, which shares programs with itself only.
    """

    function: Callable[[Any, Any], tuple[Any, Any]] = dataclasses.field(compare=False)
    identity: Identity

    def __call__(self, carry: Any, x: Any) -> tuple[Any, Any]:
        return self.function(carry, x)


class Programs:
    """A cache of what is made for steps.

    `made` counts what was made, by kind: `compile` (compiled programs), `trace` (lists of
    operations), and what is found out about a step before.
    """

    def __init__(self, most: int = _MOST) -> None:
        self.most = most
        self.made: Counter[str] = Counter()
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, kind: str, key: Hashable, make: Callable[[], Made]) -> Made:
        """What was made before for this kind and key; if nothing was, what `make` makes now."""
        whole = kind, key, _torch_settings()
        with self._lock:
            if whole in self._kept:
                self._kept.move_to_end(whole)
                return self._kept[whole]
        program = make()
        with self._lock:
            self.made[kind] += 1
            self._kept[whole] = program
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)
        return program

    def clear(self) -> None:
        """Forget all programs; the counts stay."""
        with self._lock:
            self._kept.clear()


def _torch_settings() -> Hashable:
    """What decides a program besides its step and its leaves."""
    return (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
    )


programs = Programs()
