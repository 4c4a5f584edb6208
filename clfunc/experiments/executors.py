"""Executors: jobs on many devices at once, in a process for each device of this machine, or on a
Ray cluster.

Both are iterators over the results of `work(*job)` in the order in which they come, each with the
number of its job. `work` is a function of a module and a job is plain values, so that another
machine needs nothing but the library. A job whose process or node dies begins again elsewhere. An
error that `work` raises is raised here.
"""

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

Work = Callable[..., Any]  # (*job, name of the device) -> a result
Jobs = Sequence[tuple[Any, ...]]
_TRIES = 3  # of a job whose process dies, on this machine


class Executor(NamedTuple):
    """The number of parallel slots, how many of them share one memory, and the function that runs
    jobs.
    """

    slots: int
    sharing: int
    run: Callable[[Work, Jobs], Iterator[tuple[int, Any]]]


def processes(devices: Sequence[str]) -> Executor:
    """A process for each of these devices of torch, such as `cuda:0`."""
    sharing = max(devices.count(device) for device in devices)

    def run(work: Work, jobs: Jobs) -> Iterator[tuple[int, Any]]:
        return _on_processes(work, jobs, devices)

    return Executor(slots=len(devices), sharing=sharing, run=run)


def _on_processes(
    work: Work,
    jobs: Jobs,
    devices: Sequence[str],
) -> Iterator[tuple[int, Any]]:
    waiting = list(reversed(range(len(jobs))))
    idle = list(reversed(range(len(devices))))
    tries = [0] * len(jobs)
    pools: dict[int, ProcessPoolExecutor] = {}
    running: dict[Future[Any], tuple[int, int]] = {}
    try:
        while waiting or running:
            while waiting and idle:
                slot = idle.pop()
                job = waiting.pop()
                if slot not in pools:
                    pools[slot] = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
                future = pools[slot].submit(work, *jobs[job], devices[slot])
                running[future] = slot, job
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                slot, job = running.pop(future)
                idle.append(slot)
                try:
                    yield job, future.result()
                except BrokenProcessPool as error:
                    tries[job] += 1
                    if tries[job] == _TRIES:
                        raise ChildProcessError(
                            f"the process of job {job + 1} died {_TRIES} times"
                        ) from error
                    pools.pop(slot).shutdown()
                    waiting.append(job)
    finally:
        for pool in pools.values():
            pool.shutdown(wait=True, cancel_futures=True)


def ray_cluster(
    address: str | None = None,
    device: str = "auto",
    threads: int = 1,
) -> Executor:
    """The slots of a Ray cluster, which stays connected until the program ends.

    A job takes one GPU if the cluster has any (and `device` is not `cpu`), or else `threads` CPUs.

    Args:
        address: Of the cluster; if None, that in RAY_ADDRESS, or else a cluster of this machine
            alone.
        device: `auto` or `cpu`.
        threads: CPUs that a job takes, >= 1.

    Raises:
        ValueError: Ray is not installed; there is no such cluster; no node has what a job takes.
    """
    ray = _ray(address)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpus = device != "cpu" and any(node.get("GPU") for node in nodes)
    resource = "GPU" if has_gpus else "CPU"
    amount = 1 if has_gpus else threads
    slots = [int(node.get(resource, 0) // amount) for node in nodes]
    if not sum(slots):
        raise ValueError(
            f"no node of the Ray cluster has {amount} {resource}(s), which a chunk takes"
        )
    options = {
        "max_retries": -1,
        "num_cpus": 0 if has_gpus else threads,
        "num_gpus": int(has_gpus),
        "scheduling_strategy": "SPREAD",
    }

    def run(work: Work, jobs: Jobs) -> Iterator[tuple[int, Any]]:
        return _on_ray(ray, work, jobs, options, device)

    return Executor(slots=sum(slots), sharing=1 if has_gpus else max(slots), run=run)


def _ray(address: str | None) -> Any:
    """Ray, connected to the cluster."""
    try:
        import ray
    except ImportError as error:
        raise ValueError("--cluster ray needs Ray: pip install 'clfunc[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ValueError(f"no Ray cluster at {address or 'RAY_ADDRESS'}: {error}") from error
    return ray


def _on_ray(
    ray: Any,
    work: Work,
    jobs: Jobs,
    options: dict[str, Any],
    device: str,
) -> Iterator[tuple[int, Any]]:
    remote = ray.remote(**options)(work)
    running = {}
    for number, job in enumerate(jobs):
        running[remote.remote(*job, device)] = number
    try:
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            number = running.pop(done)
            yield number, ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:
        for task in running:
            ray.cancel(task, force=True)
