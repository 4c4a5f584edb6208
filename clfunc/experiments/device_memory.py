"""Device memory: how much of it a computation takes, and how much is free.

On a GPU the allocator counts. On a CPU the bytes of every operation's result count from the
operation until nothing holds them any more. This sees all that torch allocates for tensors, and
nothing that an operation needs only while it runs.
"""

import os
import resource
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from clfunc import tree

_CGROUP = Path("/sys/fs/cgroup")
_NO_LIMIT = 2**63 - 1


class _Counter(TorchDispatchMode):
    """Counts the bytes of the storages that are made while it is active: those held now, and the
    most at one time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        self.most = 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = set()
        for leaf in tree.leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                given.add(leaf.untyped_storage()._cdata)
        out = func(*args, **(kwargs or {}))
        for leaf in tree.leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage(), given)
        return out

    def _count(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        name = storage._cdata
        if name in self.sizes or name in given:  # a view, or an argument written in place
            return
        self.sizes[name] = storage.nbytes()
        self.held += storage.nbytes()
        self.most = max(self.most, self.held)
        weakref.finalize(storage, self._release, name)

    def _release(self, name: int) -> None:
        self.held -= self.sizes.pop(name, 0)


def peak(f: Callable[[], Any], device: torch.device) -> int:
    """The most bytes that tensors made by `f()` hold at one time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        f()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _Counter() as counter:
        f()
    return counter.most


def available(device: torch.device) -> int:
    """Bytes that are free for new tensors: on the GPU, or on a CPU in the system and in its
    container.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free, _ = torch.cuda.mem_get_info(device)
        return free + cached
    return min(_system(), _container())


def total(device: torch.device) -> int:
    """Bytes that the device has, or that this process may use of it, free or not."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space == resource.RLIM_INFINITY:
        address_space = _NO_LIMIT
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(physical, _limit(), address_space)


def _system() -> int:
    """Bytes that are free in the system; half of all if it does not say."""
    try:
        text = Path("/proc/meminfo").read_text()
        lines = dict(line.split(":") for line in text.splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _container() -> int:
    """Bytes that are free in the control group.

    Its caches count as free, since it can drop them.
    """
    try:
        used = int((_CGROUP / "memory.current").read_text())
        text = (_CGROUP / "memory.stat").read_text()
        statistics = dict(line.split() for line in text.splitlines())
        caches = int(statistics.get("inactive_file", 0))
        return max(0, _limit() - used + caches)
    except (OSError, ValueError):
        return _NO_LIMIT


def _limit() -> int:
    """Bytes that the control group may use."""
    try:
        return int((_CGROUP / "memory.max").read_text())
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return _NO_LIMIT
