"""Chunks on many devices and on a real Ray cluster whose workers and nodes die: the results are
those of this process.
"""

import os
import signal
import threading
import time

import numpy as np
import pytest
import xarray
from support import jobs

from clfunc.cli import arguments, build, main, many
from clfunc.experiments import chunks
from clfunc.experiments import executors as cluster

SMALL = [
    "--dataset",
    "digits",
    "--tasks",
    "2",
    "--hidden",
    "12",
    "--engine",
    "eager",
    "--no-progress",
]
SWEEP = ["sweep", *SMALL, "--seeds", "3", "--grid", "lr=0.03,0.01"]


QUICK = [*SWEEP, "--batch-size", "512"]


pytestmark = pytest.mark.usefixtures("no_figures")


def load(folder):
    return xarray.load_dataset(folder / "results.nc", engine="h5netcdf")


def here(stop_after=None):
    """A cluster that is this process; it is shut off after so many chunks."""
    done = []

    def run(work, jobs):
        for number, job in enumerate(jobs):
            if work is many.chunk and len(done) == stop_after:
                raise KeyboardInterrupt
            done.append(job[1]) if work is many.chunk else None
            yield number, work(*job, "cpu")

    return cluster.Executor(2, 1, run), done


def test_jobs_on_processes_each_have_a_device_and_all_come_back():
    machines = cluster.processes(["cpu", "cuda:1"])
    assert (
        machines.slots == 2
        and machines.sharing == 1
        and cluster.processes(["cpu"] * 3).sharing == 3
    )
    found = dict(machines.run(jobs.square, [(n,) for n in range(7)]))
    assert {n: value for n, (value, _, _) in found.items()} == {n: n * n for n in range(7)}
    by_device = {
        device: {pid for _, d, pid in found.values() if d == device} for device in ("cpu", "cuda:1")
    }
    assert (
        all(len(pids) == 1 for pids in by_device.values())
        and by_device["cpu"] != by_device["cuda:1"]
    )


def test_a_job_whose_process_dies_is_begun_again_and_its_error_is_raised(tmp_path):
    machines = cluster.processes(["cpu", "cpu"])
    assert sorted(machines.run(jobs.die_once, [(n, tmp_path) for n in range(3)])) == [
        (0, 0),
        (1, 1),
        (2, 2),
    ]
    with pytest.raises(ValueError, match="not 4"):
        list(machines.run(jobs.refuse, [(4,)]))
    with pytest.raises(ChildProcessError, match="died 3 times"):
        list(machines.run(jobs.always_die, [(4,)]))


def test_a_restarted_sweep_asks_the_cluster_only_for_what_it_has_not(tmp_path, monkeypatch, capsys):
    local, out = tmp_path / "local", tmp_path / "out"
    assert main([*QUICK, "--runs-at-once", "2", "--out", str(local)]) == 0
    machines, first = here(stop_after=2)
    monkeypatch.setattr(cluster, "ray_cluster", lambda *_: machines)
    command = [*QUICK, "--cluster", "ray", "--runs-at-once", "2", "--out", str(out)]
    assert main(command) == 1 and not (out / "results.nc").exists()
    machines, second = here()
    assert main(command) == 0
    assert (first, second) == ([[0, 1], [2, 3]], [[4, 5]])
    assert load(out).identical(load(local)) and not (out / "chunks").exists()
    capsys.readouterr()


def test_chunks_that_a_cluster_has_done_are_not_run_again_without_it(tmp_path, monkeypatch, capsys):
    machines, _ = here(stop_after=2)
    monkeypatch.setattr(cluster, "ray_cluster", lambda *_: machines)
    command = [*QUICK, "--runs-at-once", "2", "--out", str(tmp_path)]
    assert main([*command, "--cluster", "ray"]) == 1
    ran, real = [], chunks.run_with
    monkeypatch.setattr(
        chunks, "run_with", lambda *args, **how: ran.append(len(args[2])) or real(*args, **how)
    )
    assert main(command) == 0 and ran == [2]
    capsys.readouterr()


def test_a_machine_of_the_cluster_says_how_to_cut_and_which_engine_pays(
    tmp_path, monkeypatch, capsys
):
    machines, asked = here()
    monkeypatch.setattr(cluster, "ray_cluster", lambda *_: machines)
    command = [word for word in QUICK if word not in ("--engine", "eager", "--no-progress")]
    assert main([*command, "--cluster", "ray", "--out", str(tmp_path)]) == 0
    assert asked == [[0, 1, 2], [3, 4, 5]] and load(tmp_path).sizes["run"] == 6
    assert "6 runs, 3 at a time" in capsys.readouterr().err


def test_every_chunk_is_told_all_that_was_asked():
    asked = {"epochs": 3, "batch_size": 7, "engine": "trace", "probe_every": 5}
    args = arguments.Run(**asked, hidden=(4,), evaluate="current")
    told = vars(build.job(args).options)
    assert {name: told[name] for name in (*asked, "evaluate")} == asked | {"evaluate": "current"}


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--runs-at-once 0", "--runs-at-once must be auto or a number from 1, given '0'"),
        ("--runs-at-once some", "--runs-at-once must be auto or a number from 1, given 'some'"),
        ("--devices cpu", "--devices takes several"),
        ("--devices cpu,cpu --cluster ray", "--cluster and --devices do not go together"),
        ("--halving --until-ci 1", "--halving and --until-ci do not go together"),
        ("--halving --runs-at-once 2", "--halving runs all that is left at once"),
        ("--halving --eta 1", "eta must be at least 2, given 1"),
        ("--halving", "halving with eta=3 needs a sweep of 3 configurations or more, given 2"),
        ("--eta 5", "--eta is of --halving: give that too"),
        ("--max-seeds 5", "--max-seeds is of --until-ci: give that too"),
        ("--cluster-address host:1", "--cluster-address is of --cluster: give that too"),
        ("--until-ci 0", "width must be a number of percentage points above 0, given 0.0"),
        ("--until-ci 1 --max-seeds 2", "--max-seeds must be at least --seeds, which is 3, given 2"),
        (
            "--devices cpu,tpu9",
            "--devices must be auto, cpu or a device that torch can use, given 'tpu9'",
        ),
    ],
)
def test_wrong_ways_to_cut_are_refused_in_one_line(flags, message, tmp_path, capsys):
    assert main([*QUICK, "--out", str(tmp_path / "out"), *flags.split()]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.long
def test_a_sweep_on_two_processes_is_the_sweep_in_chunks(tmp_path, capsys):
    for name, flags in (("one", []), ("two", ["--devices", "cpu,cpu"])):
        assert main([*QUICK, "--runs-at-once", "3", "--out", str(tmp_path / name), *flags]) == 0
    assert load(tmp_path / "two").identical(load(tmp_path / "one"))
    capsys.readouterr()


@pytest.fixture
def ray_nodes():
    """A real cluster of three nodes of one CPU each, here; and two of the nodes, neither the head."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    for attempt in range(3):
        found = Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False})
        try:
            nodes = [found.add_node(**small) for _ in range(2)]
            break
        except Exception:  # Ray gives a node thirty seconds to start, which a busy machine may not
            found.shutdown()
            if attempt == 2:
                raise
    yield found, nodes
    ray.shutdown()
    found.shutdown()


class Faults(threading.Thread):
    """Kills workers that are at a chunk, and once a node, as a sweep goes on."""

    def __init__(self, found, node, chunks, kills):
        super().__init__(daemon=True)
        self.found, self.node, self.chunks, self.kills = found, node, chunks, kills
        self.killed, self.removed, self.over = [], False, False

    def run(self):
        import psutil

        while not self.over:
            done = len(list(self.chunks.glob("*.safetensors"))) if self.chunks.exists() else 0
            if done and not self.removed:
                self.found.remove_node(self.node, allow_graceful=False)
                self.removed = True
            for process in (
                psutil.Process().children(recursive=True) if len(self.killed) < self.kills else ()
            ):
                busy = self._title(process).startswith("ray::chunk")
                if busy and process.pid not in self.killed and len(self.killed) <= done:
                    time.sleep(0.3)
                    os.kill(process.pid, signal.SIGKILL)
                    self.killed.append(process.pid)
                    break
            time.sleep(0.05)

    @staticmethod
    def _title(process):
        import psutil

        try:
            return " ".join(process.cmdline())
        except psutil.Error:
            return ""


@pytest.mark.long
@pytest.mark.filterwarnings("default")
def test_a_sweep_on_a_ray_cluster_loses_nothing_when_workers_and_a_node_die(
    ray_nodes, tmp_path, capsys
):
    found, (node, _) = ray_nodes
    local, out = tmp_path / "local", tmp_path / "out"
    command = [*SWEEP, "--epochs", "30", "--runs-at-once", "1"]
    assert main([*command, "--out", str(local)]) == 0
    faults = Faults(found, node, out / "chunks", kills=3)
    faults.start()
    code = main(
        [*command, "--cluster", "ray", "--cluster-address", found.address, "--out", str(out)]
    )
    faults.over = True
    faults.join()
    assert code == 0, capsys.readouterr().err
    assert faults.removed and len(faults.killed) == 3
    assert load(out).identical(load(local))
    assert np.array_equal(load(out)["seed"].values, [0, 1, 2] * 2)
    capsys.readouterr()


@pytest.mark.long
@pytest.mark.filterwarnings("default")
def test_what_goes_wrong_on_a_ray_cluster_is_one_line(ray_nodes):
    found, _ = ray_nodes
    machines = cluster.ray_cluster(found.address)
    assert machines.slots == 3
    sent = {"command": "Run", "algorithm": "nonsense", "out": None, "data_root": None}
    with pytest.raises(ValueError, match="--algorithm must be one of"):
        list(machines.run(many.chunk, [(sent, [0], "eager", "", 1)]))
    with pytest.raises(ValueError, match=r"no node of the Ray cluster has 2 CPU"):
        cluster.ray_cluster(found.address, threads=2)
