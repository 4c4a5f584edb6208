"""What a computation takes of memory, and what there is.

On a GPU the allocator counts. On a CPU every operation's result is counted from when it appears until nothing holds it any
more, which sees all that torch allocates for tensors, and nothing that an operation needs only while it runs.
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
    """Bytes of the storages made while it is on: those that live, and the most that ever did."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.most = 0, 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {
            leaf.untyped_storage()._cdata
            for leaf in tree.leaves((args, kwargs))
            if isinstance(leaf, Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for leaf in tree.leaves(out):
            if isinstance(leaf, Tensor):
                self._see(leaf.untyped_storage(), known)
        return out

    def _see(self, storage: torch.UntypedStorage, known: set[int]) -> None:
        name = storage._cdata
        if name in self.sizes or name in known:  # a view, or what an argument is held by
            return
        self.sizes[name] = storage.nbytes()
        self.live += storage.nbytes()
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self._forget, name)

    def _forget(self, name: int) -> None:
        self.live -= self.sizes.pop(name, 0)


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
    """Bytes that new tensors may take: what is free on a GPU; on a CPU what the system, or its container, has left."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return min(_system(), _container())


def total(device: torch.device) -> int:
    """Bytes that the device has, or that this process may use of it, free or not."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    space, has = (
        resource.getrlimit(resource.RLIMIT_AS)[0],
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    )
    return min(has, _limit(), _NO_LIMIT if space == resource.RLIM_INFINITY else space)


def _system() -> int:
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _container() -> int:
    """What a control group leaves; caches, which it can drop, count as free."""
    try:
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return max(0, _limit() - used + int(stat.get("inactive_file", 0)))
    except (OSError, ValueError):
        return _NO_LIMIT


def _limit() -> int:
    try:
        return int((_CGROUP / "memory.max").read_text())
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return _NO_LIMIT
