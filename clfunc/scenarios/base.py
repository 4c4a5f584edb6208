"""What a scenario is: stored examples, a stream of tasks over them, and how a stored example becomes a task's.

Examples stay as they are stored, on the device. A task is lists of rows and a few small tensors (its *view*: a
permutation, an angle's sampling table, a label table). A batch is made of indices, inside the step's program.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int, Num
from torch import Tensor
from torch.func import vmap

from clfunc import tree
from clfunc.datasets.load import Dataset
from clfunc.models import heads
from clfunc.random import fold_in, permutation
from clfunc.types import Batch, Head, Key, Keys, Settings

View = dict[str, Tensor]


class Examples(NamedTuple):
    x: Num[Tensor, "rows channels height width"]
    y: Int[Tensor, " rows"]


class Stream(NamedTuple):
    """One task. Lists may be longer than the task: `sizes` says how much of each counts, and the rest is padding."""

    task: Int[
        Tensor, ""
    ]  # its id; for a mixture, which says it example by example, the first task's
    view: View
    train: Int[Tensor, " n"]
    valid: Int[Tensor, " m"]
    test: Int[Tensor, " k"]
    sizes: Int[Tensor, "3"]  # of train, valid, test


class Scenario(NamedTuple):
    """A stream of tasks, as a pure function of its key. With `runs`, every tensor of a stream has a first axis of runs."""

    name: str
    dataset: str
    paradigm: str  # til, cil, dil or regression
    num_tasks: int
    classes: tuple[int, ...]  # classes of each task; numbers to predict, in regression
    inputs: tuple[int, ...]  # shape of an example
    data: Examples
    train: Callable[[int], Stream]  # phase -> what is trained in it
    test: Callable[[int], Stream]  # task -> what is tested
    view: Callable[[View, Tensor, Tensor], tuple[Tensor, Tensor]]  # stored (x, y) -> the task's
    phases: tuple[int, ...]  # for each training phase, how many tasks have been seen when it ends
    mixed: bool = False  # a phase mixes tasks; its lists hold task * rows + row
    runs: int | None = None
    settings: Settings = {}

    def head(self) -> Head:
        """The head that fits: `til`, `cil` or `dil`; for a mixture of separate heads `mtl`, for one task or labels `stl`."""
        if self.paradigm == "regression":
            return heads.regression(self.num_tasks, max(self.classes))
        total = sum(self.classes)
        if self.mixed or len(self.classes) == 1:
            if self.paradigm == "til" and self.mixed:
                return heads.mtl(self.num_tasks, self.classes)
            return heads.stl(total if self.paradigm == "cil" else max(self.classes))
        return {"til": heads.til, "cil": heads.cil, "dil": heads.dil}[self.paradigm](
            self.num_tasks, self.classes
        )

    def batch(
        self, data: Examples, stream: Stream, entries: Tensor, weight: Tensor | None = None
    ) -> Batch:
        """The batch of these entries of a stream's lists (without a runs axis: under `vmap` where there is one)."""
        return make_batch(self.view, self.mixed, data, stream, entries, weight)

    def to(self, device: "torch.device | str | None") -> "Scenario":
        """The same scenario with its examples and streams on `device`."""
        return self._replace(
            data=tree.to(self.data, device),
            train=lambda phase: tree.to(self.train(phase), device),
            test=lambda task: tree.to(self.test(task), device),
        )

    def part(self, runs: Sequence[int]) -> "Scenario":
        """The scenario of some of its runs, by number; as it is where all runs share it."""
        if self.runs is None:
            return self
        chosen = torch.tensor(list(runs))
        return self._replace(
            train=lambda phase: tree.index(self.train(phase), chosen),
            test=lambda task: tree.index(self.test(task), chosen),
            runs=len(chosen),
        )


def make_batch(
    view: Callable[[View, Tensor, Tensor], tuple[Tensor, Tensor]],
    mixed: bool,
    data: Examples,
    stream: Stream,
    entries: Tensor,
    weight: Tensor | None = None,
) -> Batch:
    """`Scenario.batch`, by all that it needs of a scenario."""
    rows, task, tables = entries, stream.task, stream.view
    if mixed and tables["labels"].ndim == 2:
        rows, task = entries % data.y.shape[0], entries // data.y.shape[0]
        tables = tree.map(lambda table: table[task], tables)
    x, y = view(tables, data.x[rows], data.y[rows])
    return Batch(x, y, task, x.new_ones(x.shape[0]) if weight is None else weight, rows)


def epoch_entries(key: Key, stream: Stream, count: int) -> Int[Tensor, " count"]:
    """`count` training entries in the order of one epoch: a permutation, begun again where it is too short."""
    order = permutation(key, stream.train.shape[0], size=stream.sizes[0])
    return stream.train[order[torch.arange(count, device=key.device) % stream.sizes[0]]]


def normalised(view: View, x: Tensor) -> Tensor:
    """Zero mean and unit variance, by the data set's own figures."""
    mean, std = (tree.expand_last(view[name], x.ndim).to(torch.float32) for name in ("mean", "std"))
    return (x.to(torch.float32) - mean) / std


def relabelled(view: View, y: Tensor) -> Tensor:
    """The task's labels, by its table; one table for the batch, or one for each example."""
    labels = view["labels"]
    return labels[y] if labels.ndim == 1 else labels.gather(1, y[:, None])[:, 0]


def label_table(paradigm: str, task: int, classes: tuple[int, ...], device: torch.device) -> Tensor:
    """Labels of a task that has all its data set's classes: as they are, or after those of the tasks before it (CIL)."""
    offset = sum(classes[:task]) if paradigm == "cil" else 0
    return torch.arange(classes[task], device=device) + offset


def base_view(dataset: Dataset, labels: Tensor) -> View:
    numbers = {"mean": dataset.mean, "std": dataset.std}
    return {"labels": labels} | {
        k: torch.tensor(v, dtype=torch.float64, device=labels.device) for k, v in numbers.items()
    }


class Rows(NamedTuple):
    train: Tensor
    valid: Tensor
    test: Tensor


def split_rows(key: Key, dataset: Dataset, valid: float) -> Rows:
    """Row numbers for training, validation (this share of each class's training rows, drawn by key) and testing.

    The split depends on the key alone, so no task trains on a row that another validates on.
    """
    y = dataset.y[: dataset.num_train].to(key.device)
    test = torch.arange(dataset.num_train, len(dataset.y), device=key.device)
    if valid == 0:
        return Rows(torch.arange(len(y), device=key.device), test[:0], test)
    counts = torch.bincount(dataset.y[: dataset.num_train], minlength=dataset.num_classes).tolist()
    held = torch.tensor([int(valid * n) for n in counts], device=key.device)
    starts = torch.tensor([sum(counts[:c]) for c in range(len(counts))], device=key.device)
    shuffled = permutation(fold_in(key, 1), len(y))
    by_class = shuffled[torch.argsort(y[shuffled], stable=True)]
    label = y[by_class]
    is_valid = torch.arange(len(y), device=key.device) - starts[label] < held[label]
    order = torch.argsort(is_valid.to(torch.int64), stable=True)  # training rows first
    total = sum(int(valid * n) for n in counts)
    return Rows(by_class[order[: len(y) - total]], by_class[order[len(y) - total :]], test)


def whole(task: int, view: View, rows: Rows) -> Stream:
    """The stream of a task that uses all its rows."""
    device = rows.train.device
    sizes = torch.tensor([len(part) for part in rows], device=device)
    return Stream(torch.tensor(task, device=device), view, *rows, sizes)


def per_run(
    make: Callable[[Key, int], Stream], key: Keys
) -> tuple[Callable[[int], Stream], int | None]:
    """`make` for one key, or stacked over a key a run; and the number of runs."""
    if key.ndim == 1:
        return lambda task: make(key, task), None
    return lambda task: vmap(lambda k: make(k, task))(key), key.shape[0]


def check(num_tasks: int, paradigm: str, valid: float) -> None:
    """Raise ValueError for what no scenario can be."""
    if num_tasks < 1:
        raise ValueError(f"tasks must be at least 1, given {num_tasks}")
    if paradigm not in ("til", "cil", "dil"):
        raise ValueError(f"paradigm must be til, cil or dil, given {paradigm!r}")
    if not 0 <= valid < 1:
        raise ValueError(f"valid must be a share in [0, 1) of the training examples, given {valid}")
