"""A scenario: stored examples, a stream of tasks over them, and the way from a stored example to
the task's example.

The examples stay as they are stored, on the device. A task is a few lists of row numbers and a few
small tensors, its *view* (for example a permutation of pixels, a sampling table, a label table). A
batch is made from row numbers, inside the program of the step.
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

PARADIGMS = ("til", "cil", "dil")
ViewTables = dict[str, Tensor]  # by name, the tensors that turn a stored example into the task's
View = Callable[[ViewTables, Tensor, Tensor], tuple[Tensor, Tensor]]


class Examples(NamedTuple):
    """The examples of a scenario as they are stored."""

    x: Num[Tensor, "rows channels height width"]
    y: Int[Tensor, " rows"]


class Stream(NamedTuple):
    """One task.

    A list may be longer than the task: `sizes` says how many entries of each list count, and the
    rest is padding. Every tensor has a first axis of runs if the scenario has one.

    Fields:
        task: Number of the task, from 0. A mixture finds the task of each example in its entry, and
            this is its first task.
        view: The tensors that turn a stored example into the task's.
        train, valid, test: Row numbers for training, validation and testing.
        sizes: How many entries count, of `train`, `valid` and `test`.
    """

    task: Int[Tensor, ""]
    view: ViewTables
    train: Int[Tensor, " n"]
    valid: Int[Tensor, " m"]
    test: Int[Tensor, " k"]
    sizes: Int[Tensor, "3"]


class Scenario(NamedTuple):
    """A stream of tasks, as a pure function of its key.

    Fields:
        name: Name of the scenario.
        dataset: Name of the data set.
        paradigm: `til`, `cil`, `dil` or `regression`.
        num_tasks: Number of tasks.
        classes: Number of classes of each task; in regression, of numbers to predict.
        inputs: Shape of an example.
        data: The stored examples, which all tasks share.
        train: `phase -> Stream`: the stream that a training phase trains on.
        test: `task -> Stream`: the stream that a task is tested on.
        view: `(tables, x, y) -> (x, y)`: turns stored examples into the task's.
        phases: For each training phase, the number of tasks that are seen when it ends.
        mixed: Whether a phase mixes tasks; its lists then hold `task * rows + row`.
        runs: Number of runs, if every tensor of a stream has a first axis of runs.
        settings: The name and the numbers that the scenario is made of.
        pixels: Mean and standard deviation of the pixels, where every example is one of whole
            numbers from 0 to 255 that are standardised by them; None where it is not. See
            `clfunc.memories.pixels`.
    """

    name: str
    dataset: str
    paradigm: str
    num_tasks: int
    classes: tuple[int, ...]
    inputs: tuple[int, ...]
    data: Examples
    train: Callable[[int], Stream]
    test: Callable[[int], Stream]
    view: View
    phases: tuple[int, ...]
    mixed: bool = False
    runs: int | None = None
    settings: Settings = {}
    pixels: tuple[float, float] | None = None

    def head(self, *, together: bool = False) -> Head:
        """The head that fits the scenario.

        It is `til`, `cil` or `dil` as the paradigm says. For a mixture of tasks with a head each it
        is `mtl`; where one task or one set of labels remains, it is `stl`.

        Args:
            together: A head for steps that mix tasks, as they do with a memory: `mtl` in place of
                `til`, which trains one task's head at a time.

        >>> import clfunc as cl
        >>> digits = cl.datasets.load("digits")
        >>> scenario = cl.scenarios.split(digits, 5, cl.random.key(0), paradigm="cil")
        >>> scenario.head().classes
        10
        """
        if self.paradigm == "regression":
            return heads.regression(self.num_tasks, max(self.classes))
        if self.mixed and self.paradigm == "til":
            return heads.mtl(self.num_tasks, self.classes)
        if self.mixed or len(self.classes) == 1:
            one_set = sum(self.classes) if self.paradigm == "cil" else max(self.classes)
            return heads.stl(one_set)
        makers = {"til": heads.til, "cil": heads.cil, "dil": heads.dil}
        head = makers[self.paradigm](self.num_tasks, self.classes)
        return heads.together(head) if together else head

    def batch(
        self,
        data: Examples,
        stream: Stream,
        entries: Tensor,
        weight: Tensor | None = None,
    ) -> Batch:
        """The batch of some entries of a stream's lists.

        The arguments have no axis of runs: call it under `vmap` where they have one.

        Args:
            data: The scenario's `data`.
            stream: A task, of `train` or `test`.
            entries: `[batch]`: entries of `stream.train`, `stream.valid` or `stream.test`.
            weight: `[batch]`: the weight of each example; 1 if not given, and 0 ignores an example.

        >>> import clfunc as cl
        >>> digits = cl.datasets.load("digits")
        >>> scenario = cl.scenarios.permuted(digits, 3, cl.random.key(0))
        >>> stream = scenario.train(0)
        >>> batch = scenario.batch(scenario.data, stream, stream.train[:4])
        >>> batch.x.shape, batch.y.tolist()
        (torch.Size([4, 1, 8, 8]), [0, 1, 2, 3])
        """
        return make_batch(self.view, self.mixed, data, stream, entries, weight)

    def to(self, device: "torch.device | str | None") -> "Scenario":
        """The same scenario with its examples and its streams on `device`.

        >>> import clfunc as cl
        >>> digits = cl.datasets.load("digits")
        >>> scenario = cl.scenarios.permuted(digits, 3, cl.random.key(0)).to("cpu")
        >>> scenario.train(0).task.device
        device(type='cpu')
        """
        return self._replace(
            data=tree.to(self.data, device),
            train=lambda phase: tree.to(self.train(phase), device),
            test=lambda task: tree.to(self.test(task), device),
        )

    def part(self, runs: Sequence[int]) -> "Scenario":
        """The scenario of some of its runs; the scenario itself if all runs share it.

        Args:
            runs: Numbers of runs, from 0.

        >>> import clfunc as cl
        >>> keys = cl.random.split(cl.random.key(0), 8)
        >>> scenario = cl.scenarios.permuted(cl.datasets.load("digits"), 3, keys)
        >>> scenario.part([0, 5]).train(0).view["pixels"].shape
        torch.Size([2, 64])
        """
        if self.runs is None:
            return self
        chosen = torch.tensor(list(runs))
        return self._replace(
            train=lambda phase: tree.index(self.train(phase), chosen),
            test=lambda task: tree.index(self.test(task), chosen),
            runs=len(chosen),
        )


def make_batch(
    view: View,
    mixed: bool,
    data: Examples,
    stream: Stream,
    entries: Tensor,
    weight: Tensor | None = None,
) -> Batch:
    """`Scenario.batch`, as a function of the fields that it needs.

    Args:
        view: The scenario's `view`.
        mixed: The scenario's `mixed`.
        data: The stored examples.
        stream: A task, without an axis of runs.
        entries: `[batch]`: entries of the stream's lists.
        weight: `[batch]`, or 1 for every example if not given.
    """
    rows = entries
    task = stream.task
    tables = stream.view
    # The view of a mixture has an axis of tasks; that of one task, which is tested alone, has not.
    if mixed and tables["labels"].ndim == 2:
        stored = data.y.shape[0]
        rows = entries % stored
        task = entries // stored
        tables = tree.map(lambda table: table[task], tables)
    x, y = view(tables, data.x[rows], data.y[rows])
    if weight is None:
        weight = x.new_ones(x.shape[0])
    return Batch(x, y, task, weight, rows)


def epoch_entries(key: Key, stream: Stream, count: int) -> Int[Tensor, " count"]:
    """Training entries in the order of one epoch.

    The order is a random permutation of the task's entries. Where `count` is larger than the task,
    the permutation begins again.

    Args:
        key: Draws the permutation.
        stream: A task, without an axis of runs.
        count: Number of entries, >= 1.

    >>> import clfunc as cl
    >>> digits = cl.datasets.load("digits")
    >>> stream = cl.scenarios.permuted(digits, 3, cl.random.key(0)).train(0)
    >>> entries = cl.scenarios.epoch_entries(cl.random.key(1), stream, 128)
    >>> len(entries), len(set(entries.tolist()))
    (128, 128)
    """
    size = stream.sizes[0]
    order = permutation(key, stream.train.shape[0], size=size)
    places = torch.arange(count, device=key.device) % size
    return stream.train[order[places]]


def standardised(tables: ViewTables, x: Tensor) -> Tensor:
    """Images with zero mean and unit variance over the training images of their data set."""
    mean = tree.expand_last(tables["mean"], x.ndim).to(torch.float32)
    std = tree.expand_last(tables["std"], x.ndim).to(torch.float32)
    return (x.to(torch.float32) - mean) / std


def task_labels(tables: ViewTables, y: Tensor) -> Tensor:
    """The task's labels `[batch]` of stored classes `[batch]`.

    The label table is `[classes]`, or `[batch, classes]` where each example has a task of its own.
    """
    labels = tables["labels"]
    if labels.ndim == 1:
        return labels[y]
    return labels.gather(1, y[:, None])[:, 0]


def label_table(paradigm: str, task: int, classes: tuple[int, ...], device: torch.device) -> Tensor:
    """Label of each class, for a task that has all classes of its data set: `[classes[task]]`.

    Labels are the classes themselves. In `cil` they follow the labels of the tasks before.
    """
    offset = sum(classes[:task]) if paradigm == "cil" else 0
    return torch.arange(classes[task], device=device) + offset


def common_tables(dataset: Dataset, labels: Tensor) -> ViewTables:
    """The tables that every view holds: `labels`, and `mean` and `std` as 0-d float64."""
    device = labels.device
    return {
        "labels": labels,
        "mean": torch.tensor(dataset.mean, dtype=torch.float64, device=device),
        "std": torch.tensor(dataset.std, dtype=torch.float64, device=device),
    }


def pixels_of(dataset: Dataset) -> tuple[float, float] | None:
    """Mean and standard deviation of a data set of bytes; None for another."""
    return (dataset.mean, dataset.std) if dataset.x.dtype == torch.uint8 else None


class Rows(NamedTuple):
    """Row numbers of each part of the data."""

    train: Tensor
    valid: Tensor
    test: Tensor


def split_rows(key: Key, dataset: Dataset, valid: float) -> Rows:
    """Rows for training, for validation and for testing.

    The split depends on the key alone, so no task trains on a row that another validates on.

    Args:
        key: Draws which rows validate.
        dataset: The data set.
        valid: Share of the training rows of each class that validates, in [0, 1).
    """
    device = key.device
    y = dataset.y[: dataset.num_train].to(device)
    test = torch.arange(dataset.num_train, len(dataset.y), device=device)
    if valid == 0:
        return Rows(torch.arange(len(y), device=device), test[:0], test)

    stored = dataset.y[: dataset.num_train]
    counts = torch.bincount(stored, minlength=dataset.num_classes).tolist()
    held_out = [int(valid * count) for count in counts]
    starts = [sum(counts[:label]) for label in range(len(counts))]

    # Rows in random order, sorted by class: the first rows of each class validate.
    shuffled = permutation(fold_in(key, 1), len(y))
    by_class = shuffled[torch.argsort(y[shuffled], stable=True)]
    label = y[by_class]
    start = torch.tensor(starts, device=device)[label]
    quota = torch.tensor(held_out, device=device)[label]
    validates = torch.arange(len(y), device=device) - start < quota

    train_first = torch.argsort(validates.to(torch.int64), stable=True)
    ordered = by_class[train_first]
    num_train = len(y) - sum(held_out)
    return Rows(ordered[:num_train], ordered[num_train:], test)


def stream_of_all(task: int, tables: ViewTables, rows: Rows) -> Stream:
    """The stream of a task that uses all of these rows, so that no list is padded."""
    device = rows.train.device
    sizes = [len(part) for part in rows]
    return Stream(
        task=torch.tensor(task, device=device),
        view=tables,
        train=rows.train,
        valid=rows.valid,
        test=rows.test,
        sizes=torch.tensor(sizes, device=device),
    )


def streams_of_keys(
    make: Callable[[Key, int], Stream],
    key: Keys,
) -> tuple[Callable[[int], Stream], int | None]:
    """The function `task -> Stream` of one key or of many, and the number of runs.

    Args:
        make: `(key, task) -> Stream`, for one key.
        key: `[2]`, or `[runs, 2]`: the streams of all keys are then stacked along a first axis.
    """
    if key.ndim == 1:
        return lambda task: make(key, task), None
    return lambda task: vmap(lambda one: make(one, task))(key), key.shape[0]


def require_possible(num_tasks: int, paradigm: str, valid: float) -> None:
    """Raise ValueError for a number of tasks, a paradigm or a share that no scenario can have."""
    if num_tasks < 1:
        raise ValueError(f"tasks must be at least 1, given {num_tasks}")
    if paradigm not in PARADIGMS:
        raise ValueError(f"paradigm must be til, cil or dil, given {paradigm!r}")
    if not 0 <= valid < 1:
        raise ValueError(f"valid must be a share in [0, 1) of the training examples, given {valid}")
