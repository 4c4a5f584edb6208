"""Many devices at once: a process for each device of this machine, or the tasks of a Ray cluster.

Both are iterators over the results of `work(*job)` as they come, each with its job's number. `work` is a function that a
module names and a job is plain values, so that another machine needs no more than the library. A job whose process or
node dies is begun again elsewhere; an error that `work` raises is raised here.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

Work = Callable[..., Any]
Jobs = Sequence[tuple[Any, ...]]
_TRIES = 3  # of a job whose process dies, on this machine


class Machines(NamedTuple):
    """Where jobs are done: how many at a time, how many of them in one memory, and by what."""

    devices: int
    sharing: int
    do: Callable[[Work, Jobs], Iterator[tuple[int, Any]]]


def processes(devices: Sequence[str]) -> Machines:
    """A process for each of these devices of torch's, whose name `work` is told as its last argument."""
    sharing = max(devices.count(device) for device in devices)
    return Machines(len(devices), sharing, lambda work, jobs: _on_processes(work, jobs, devices))


def _on_processes(work: Work, jobs: Jobs, devices: Sequence[str]) -> Iterator[tuple[int, Any]]:
    left, tries = list(range(len(jobs)))[::-1], [0] * len(jobs)
    pools: dict[int, ProcessPoolExecutor] = {}
    busy: dict[Future[Any], tuple[int, int]] = {}
    try:
        idle = list(range(len(devices)))[::-1]
        while left or busy:
            while left and idle:
                place, job = idle.pop(), left.pop()
                pools.setdefault(
                    place, ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
                )
                busy[pools[place].submit(work, *jobs[job], devices[place])] = place, job
            done, _ = wait(busy, return_when=FIRST_COMPLETED)
            for future in done:
                place, job = busy.pop(future)
                idle.append(place)
                try:
                    yield job, future.result()
                except BrokenProcessPool as error:
                    tries[job] += 1
                    if tries[job] == _TRIES:
                        raise ChildProcessError(
                            f"the process of job {job + 1} died {_TRIES} times"
                        ) from error
                    pools.pop(place).shutdown()
                    left.append(job)
    finally:
        for pool in pools.values():
            pool.shutdown(wait=True, cancel_futures=True)


def ray_cluster(address: "str | None" = None, device: str = "auto", threads: int = 1) -> Machines:
    """The Ray cluster at `address`, at RAY_ADDRESS, or one of this machine alone; connected until the program ends.

    A job takes one GPU where the cluster has any (and `device` is not `cpu`), else `threads` CPUs.

    Raises:
        ValueError: Ray is not installed or there is no such cluster; no node has what a job takes.
    """
    ray = _ray(address)
    totals = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = device != "cpu" and any(node.get("GPU") for node in totals)
    takes, resource = (1, "GPU") if gpus else (threads, "CPU")
    slots = [int(node.get(resource, 0) // takes) for node in totals]
    if not sum(slots):
        raise ValueError(
            f"no node of the Ray cluster has {takes} {resource}(s), which a chunk takes"
        )
    options = {"max_retries": -1, "num_cpus": 0 if gpus else threads, "num_gpus": int(gpus)}
    sharing = 1 if gpus else max(slots)
    return Machines(
        sum(slots), sharing, lambda work, jobs: _on_ray(ray, work, jobs, options, device)
    )


def _ray(address: "str | None") -> Any:
    try:
        import ray
    except ImportError as error:
        raise ValueError("--cluster ray needs Ray: pip install 'clfunc[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(address, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ValueError(f"no Ray cluster at {address or 'RAY_ADDRESS'}: {error}") from error
    return ray


def _on_ray(
    ray: Any, work: Work, jobs: Jobs, options: dict[str, Any], device: str
) -> Iterator[tuple[int, Any]]:
    remote = ray.remote(**options, scheduling_strategy="SPREAD")(work)
    busy = {remote.remote(*job, device): number for number, job in enumerate(jobs)}
    try:
        while busy:
            (done,), _ = ray.wait(list(busy), num_returns=1)
            number = busy.pop(done)
            yield number, ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:
        for task in busy:
            ray.cancel(task, force=True)
