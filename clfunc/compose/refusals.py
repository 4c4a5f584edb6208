"""What may not be together, from the fields that parts declare in their settings; and the sentence
that a user gets, when an algorithm is built.

| field       | who declares it, and what it says                                              |
|-------------|--------------------------------------------------------------------------------|
| `draws`     | a part that reads the memory: how many examples it draws at once                |
| `notes`     | a term: what the memory is to note beside each example                          |
| `remembers` | a part whose state holds what tasks taught, and that cannot forget a task       |
| `forgets`   | `tasks`: a part whose state holds what tasks taught, and that forgets whole tasks |
| `mixes`     | an algorithm with steps that hold several tasks                                 |
| `at_once`   | a part that reviews: the most examples that it can take at once                 |
| `num_tasks` | a part with room for so many tasks                                             |
| `needs`     | `classes`: a part that has no meaning for a head of numbers                     |
| `heads`     | `all`: a part that needs all params at once, the heads of all tasks too         |
| `place`     | `last`: a transform that nothing may follow; `gradient`: one that no optimiser may precede |
| `apart`     | a part that needs a memory with as many tasks, each in rows of its own              |
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from clfunc.compose.kernel import Parts, of_term
from clfunc.settings import declared, declares, of_part
from clfunc.types import Batch, Head, Logits, Memory, Model, Settings, Term, Transform


def bound(
    model: Model,
    tx: Transform,
    terms: Sequence[Term] = (),
    memory: Memory | None = None,
    *,
    loss: Callable[[Logits, Batch], Tensor] | None = None,
    parked: Sequence[str] = (),
) -> Parts:
    """The parts of an algorithm.

    Args:
        model: The network and its head.
        tx: The transform.
        terms: What is minimised beside the batch's own loss, in order.
        memory: What terms and transforms draw from; None for none.
        loss: `(masked logits, batch) -> 0-d`; the head's own if not given.
        parked: Groups of params that are one task's at a time, beside those of the head.

    Raises:
        ValueError: Parts that do not go together, in one line.
    """
    if isinstance(terms, Term):
        raise ValueError(f"terms must be a tuple of terms, given one: write ({terms.name}(...),)")
    terms = tuple(terms)
    _refuse_others(terms, memory)
    _refuse_unfit(model.head, terms, memory, tx, parked)
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two terms are named {name}: give one, or another name")
        if name in ("loss", "accuracy", "objective"):
            raise ValueError(f"a term cannot be named {name}, as a metric is: give another name")
    readers = declared({term.name: of_term(term) for term in terms}, "draws")
    readers += declared(of_part(tx, tx.update), "draws")
    _refuse_memory(model, memory, readers)
    for name, tasks in declared(of_part(tx, tx.update), "apart"):
        _refuse_mixed_rows(name, tasks, memory)

    def own_loss(logits: Logits, batch: Batch) -> Tensor:
        return model.head.loss(logits, batch.y, batch.weight)

    return Parts(
        model=model,
        tx=tx,
        terms=terms,
        memory=memory,
        loss=loss or own_loss,
        parked=(*model.head.owns, *parked),
    )


def check_batch(head: Head, batch: Batch) -> Batch:
    """The batch, if its labels and tasks are those of the head. It reads the values of tensors, so
    it is for the place where data enter a loop of your own, and not for a step.

    Raises:
        ValueError: A label or a task out of its range, or a label of another task, where the
            weight is above 0.

    >>> import torch
    >>> from clfunc import mtl
    >>> pair = torch.tensor([0, 1])
    >>> batch = Batch(x=torch.zeros(2, 4), y=pair, task=pair, weight=torch.ones(2))
    >>> check_batch(mtl(2, classes=2), batch).y.tolist()
    [0, 1]
    """
    if head.paradigm == "regression":
        return batch
    counts = (head.classes,) if head.paradigm == "stl" else head.spec.classes
    weights = batch.weight.tolist()
    tasks = batch.task.expand(batch.weight.shape).tolist()
    for row, (label, task, weight) in enumerate(zip(batch.y.tolist(), tasks, weights, strict=True)):
        if weight == 0:
            continue
        known = 0 if head.paradigm == "stl" else task
        if not 0 <= known < len(counts):
            raise ValueError(f"tasks are 0..{len(counts) - 1}, given task {task} in row {row}")
        first = sum(counts[:known]) if head.paradigm == "cil" else 0
        last = first + counts[known] - 1
        if not first <= label <= last:
            raise ValueError(
                f"labels of task {task} are {first}..{last} under a {head.paradigm} head, given"
                f" {label} in row {row}"
            )
    return batch


def check_forgettable(settings: Settings, *, in_part: bool = False) -> None:
    """Raise ValueError for an algorithm whose updates cannot be taken off task by task.

    Args:
        settings: Of the algorithm.
        in_part: Whether a part of a task can be forgotten without the rest.
    """
    mixing = declares(settings, "mixes")
    if mixing is not None:
        raise ValueError(
            f"amnesiac records updates by task, and {mixing} mixes tasks in a step: wrap another"
        )
    remembering = declares(settings, "remembers")
    if remembering is not None:
        raise ValueError(
            f"amnesiac takes updates off, and {remembering} of {settings.get('name')} would pull"
            " them back: wrap one without, or one that forgets a task (num_tasks=...)"
        )
    whole = declares(settings, "forgets", "tasks")
    if in_part and whole is not None:
        raise ValueError(
            f"forget sets are parts of a task, and {whole} of {settings.get('name')} forgets whole"
            " tasks: leave forget_sets out, or the term"
        )


def _refuse_others(terms: tuple[Term, ...], memory: Memory | None) -> None:
    """Raise ValueError for what is neither a term nor a memory."""
    for term in terms:
        if callable(term) and not isinstance(term, Term):
            name = getattr(term, "__name__", "it")
            raise ValueError(
                f"terms must be terms, given the function {name}: call it, {name}(...)"
            )
        if not isinstance(term, Term):
            raise ValueError(f"terms must be terms, such as terms.ewc(1.0), given {term!r:.60}")
    if memory is not None and not isinstance(memory, Memory):
        raise ValueError(
            f"memory must be a memory, such as memories.reservoir(500), given {memory!r:.60}"
        )


def _refuse_unfit(
    head: Head,
    terms: tuple[Term, ...],
    memory: Memory | None,
    tx: Transform,
    parked: Sequence[str],
) -> None:
    """Raise ValueError for parts that do not fit the head."""
    settings: Settings = {term.name: of_term(term) for term in terms}
    settings["tx"] = of_part(tx, tx.update)
    if memory is not None:
        settings["memory"] = of_part(memory, memory.add)
    for name, tasks in declared(settings, "num_tasks"):
        if tasks < head.num_tasks:
            raise ValueError(
                f"num_tasks of {name} must be at least the head's {head.num_tasks}, given {tasks}"
            )
    for name, _ in declared(settings, "needs"):
        if head.paradigm == "regression":
            raise ValueError(f"{name} needs classes, and a regression head has none: leave it out")
    for name, _ in declared(settings, "heads"):
        if head.owns:
            raise ValueError(
                f"{name} looks at the heads of all tasks, and {', '.join(head.owns)} is one task's"
                f" at a time under a {head.paradigm} head: use scenario.head(together=True)"
            )
        if parked:
            raise ValueError(
                f"{name} looks at all params, and {', '.join(parked)} is one task's at a time:"
                f" leave out {name}, or wrap finetuning"
            )


def _refuse_memory(model: Model, memory: Memory | None, readers: list[tuple[str, int]]) -> None:
    """Raise ValueError for readers without a memory, or a memory that cannot serve."""
    if memory is None:
        for name, _ in readers:
            raise ValueError(f"{name} needs a memory: give memory=memories.reservoir(500)")
        return
    name = memory.settings.get("name", "memory")
    capacity = memory.settings.get("capacity")
    if not readers:
        raise ValueError(
            f"the memory {name} is read by no term and no transform: give"
            " terms=(terms.replay(32),), or leave it out"
        )
    for reader, rows in readers:
        if capacity is not None and rows > capacity:
            raise ValueError(f"{reader} draws {rows} examples, from a memory of {capacity}")
    if model.head.owns:
        raise ValueError(
            f"a memory mixes tasks in a step, and {', '.join(model.head.owns)} is one task's at a"
            f" time under a {model.head.paradigm} head: use scenario.head(together=True)"
        )
    if model.inputs is None:
        raise ValueError(
            "a memory stores examples, and the model does not say what they are: give"
            " Model(inputs=InputSpec(shape, dtype))"
        )


def _refuse_mixed_rows(name: str, tasks: int, memory: Memory | None) -> None:
    """Raise ValueError for a memory that does not keep so many tasks in equal blocks of rows."""
    settings = {} if memory is None else memory.settings
    if settings.get("num_tasks") != tasks:
        raise ValueError(
            f"{name} needs the examples of {tasks} tasks apart, and {settings.get('name')} does not"
            f" keep them so: give memory=memories.ring(500, num_tasks={tasks})"
        )
