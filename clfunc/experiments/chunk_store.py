"""The folder in which the chunks of a sweep are kept until all of them are done.

A chunk is taken from it only by the sweep that left it: its file has a label with a digest of
everything that decides the sweep's results, and a checksum. A chunk of another sweep, or a damaged
one, is run again.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from clfunc import tree
from clfunc.driver.checkpoint import digest
from clfunc.driver.options import RunOptions
from clfunc.experiments.cutting import ChunkPlan, cut, describe
from clfunc.results import result as results
from clfunc.results.files import check_writable, write, write_text
from clfunc.results.packing import label_of, unpack
from clfunc.results.result import Result
from clfunc.scenarios import Scenario
from clfunc.settings import plain
from clfunc.types import Algorithm, Keys

Runs = Sequence[int]

_ELSEWHERE = ("checkpoint_every", "config", "device", "progress")  # options that decide no result
_PLACES = (
    "out",
    "progress",
    "resume",
    "resume_anyway",
    "checkpoint_every",
    "device",
    "devices",
    "runs_at_once",
    "cluster",
    "cluster_address",
)


def sweep_digest(
    algorithm: Algorithm,
    scenario: Scenario,
    key: Keys,
    options: RunOptions,
) -> str:
    """A digest of everything that decides the results of a sweep's runs.

    Raises:
        ValueError: A setting is a function that no description tells apart from another one.
    """
    deciding = {}
    for name, value in vars(options).items():
        if name not in _ELSEWHERE:
            deciding[name] = plain(_sorted(value))
    device = key.device if options.device is None else torch.device(options.device)
    words = {
        "settings": plain(algorithm.settings),
        "scenario": _described(scenario),
        "options": deciding,
        "config": plain(_without_places(options.config)),
        "device": device.type,
        "versions": results.versions(),
        "threads": torch.get_num_threads(),
    }
    tensors = [key, *tree.leaves((scenario.data, _streams(scenario)))]
    return digest(tensors, json.dumps(words, sort_keys=True))


def _described(scenario: Scenario) -> dict[str, Any]:
    fields = scenario._asdict()
    for name in ("data", "train", "test", "view"):  # tensors, and functions that make them
        del fields[name]
    return plain(fields)


def _streams(scenario: Scenario) -> list[Any]:
    """The first and the last task, and of every other one its view and sizes."""
    streams: list[Any] = [scenario.train(0), scenario.test(scenario.num_tasks - 1)]
    for phase in range(len(scenario.phases)):
        stream = scenario.train(phase)
        streams.append((stream.task, stream.view, stream.sizes))
    for task in range(scenario.num_tasks):
        stream = scenario.test(task)
        streams.append((stream.task, stream.view, stream.sizes))
    return streams


def _sorted(value: Any) -> Any:
    """Sets have no order, so they are lists in order, wherever they are nested."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_sorted(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _sorted(entry) for name, entry in value.items()}
    return value


def _without_places(config: dict[str, Any] | None) -> dict[str, Any]:
    """The config without the arguments of a command line that name places and devices."""
    kept = dict(config or {})
    arguments = kept.get("arguments")
    if isinstance(arguments, dict):
        kept["arguments"] = {n: value for n, value in arguments.items() if n not in _PLACES}
    return kept


def _is_cut_to(chunks: list[range], runs_at_once: int | str) -> bool:
    is_number = isinstance(runs_at_once, int) and runs_at_once >= 1
    return is_number and chunks == cut(chunks[-1].stop, int(runs_at_once))


class ChunkStore:
    """The chunks of a sweep that are done, and how the sweep was cut; without a folder it is always
    empty.
    """

    def __init__(
        self,
        out: str | Path | None,
        algorithm: Algorithm,
        scenario: Scenario,
        key: Keys,
        options: RunOptions,
    ) -> None:
        self.algorithm = algorithm
        self.out: Path | None = None
        self.digest = ""
        if out is not None:
            self.out = Path(out)
            check_writable(self.out)
            self.digest = sweep_digest(algorithm, scenario, key, options)

    def label(self, runs: Runs) -> str:
        """The label of the chunk of these runs of this sweep."""
        return f"{self.digest} {list(runs)}"

    def saved_plan(
        self,
        runs: int,
        runs_at_once: int | str,
    ) -> ChunkPlan | None:
        """How this sweep was cut before; None if no chunk is left of it, or if another cut is asked
        for now.
        """
        if self.out is None:
            return None
        try:
            found = json.loads((self._folder / "plan.json").read_text())
            size = int(found["size"])
            engine = str(found["engine"])
            is_same_sweep = found["digest"] == self.digest
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if size < 1 or not is_same_sweep:
            return None
        chunks = cut(runs, size)
        if runs_at_once != "auto" and not _is_cut_to(chunks, runs_at_once):
            return None
        done = sum(self.find(chunk) is not None for chunk in chunks)
        if not done:
            return None
        counts = f"{done} of {len(chunks)} done before (in {self._folder})"
        return ChunkPlan(chunks, f"chunks: {describe(chunks)}, {counts}", engine)

    def find(self, runs: Runs) -> Result | None:
        """The result of the chunk of these runs; None if it is not there, damaged, or of another
        sweep.
        """
        if self.out is None:
            return None
        try:
            data = self._path(runs).read_bytes()
            is_ours = label_of(data) == self.label(runs)
            return unpack(data, self.algorithm) if is_ours else None
        except (OSError, ValueError):
            return None

    def keep(self, runs: Runs, data: bytes, plan: ChunkPlan) -> None:
        """Write the packed result of a chunk, whole or not at all."""
        if self.out is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        words = {"digest": self.digest, "size": len(plan.chunks[0]), "engine": plan.engine}
        write_text(self._folder / "plan.json", json.dumps(words) + "\n")
        write(self._path(runs), lambda temporary: Path(temporary).write_bytes(data))

    def clear(self) -> None:
        """Remove the chunks."""
        if self.out is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _folder(self) -> Path:
        assert self.out is not None
        return self.out / "chunks"

    def _path(self, runs: Runs) -> Path:
        return self._folder / f"{runs[0]}-{runs[-1]}.safetensors"
