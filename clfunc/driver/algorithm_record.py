"""`AlgorithmRecord`: what the driver knows of an algorithm, read once at the entrance of `run`."""

from typing import NamedTuple

from clfunc.settings import find, values_of
from clfunc.types import Algorithm, Settings


class HeadRecord(NamedTuple):
    """What the driver knows of an algorithm's head."""

    name: str  # til, cil, dil, mtl, stl or regression
    classes: tuple[int, ...]  # how many classes each task has

    @property
    def width(self) -> int:
        """How many classes the head can tell apart in one task."""
        return sum(self.classes) if self.name == "cil" else max(self.classes)

    @property
    def label(self) -> str:
        """The head as a message names it."""
        return f"{self.name} head for {len(self.classes)} task(s)"


class AlgorithmRecord(NamedTuple):
    """What the driver knows of an algorithm besides its functions."""

    name: str  # of a sweep, the name of its members
    members: int | None  # how many members a sweep has; None for one algorithm
    num_tasks: int | None  # how many tasks it has room for; None where it has no limit
    head: HeadRecord | None  # None where its settings declare no head
    forget_sets: tuple[Settings, ...]  # the declared forget sets, as settings
    can_unlearn: bool
    reviews: bool  # whether it looks at the examples of a finished task
    at_once: int | None  # the most examples that it can take in a batch of a review
    settings: Settings

    def review_size(self, batch_size: int) -> int:
        """Examples in a batch of a review: those of a step, or fewer; 0 where it makes none."""
        if not self.reviews:
            return 0
        return batch_size if self.at_once is None else min(batch_size, self.at_once)


def read_algorithm(algorithm: Algorithm) -> AlgorithmRecord:
    """Reads what the driver knows of an algorithm, or of a sweep, from its fields and settings.

    >>> import clfunc as cl
    >>> head = cl.scenarios.permuted(cl.datasets.load("digits"), 2, cl.random.key(0)).head()
    >>> record = read_algorithm(cl.finetuning(cl.mlp((64,), (8,), head), cl.sgd(0.1)))
    >>> record.name, record.head.label, record.can_unlearn
    ('finetuning', 'til head for 2 task(s)', False)
    """
    settings = algorithm.settings
    is_sweep = settings.get("name") == "sweep"
    members = settings["members"] if is_sweep else None
    first = settings if members is None else members[0]
    return AlgorithmRecord(
        name=first.get("name", "algorithm"),
        members=None if members is None else len(members),
        num_tasks=find(settings, "num_tasks"),
        head=head_record(find(settings, "head")),
        forget_sets=tuple(find(settings, "forget_sets") or ()),
        can_unlearn=algorithm.unlearn is not None,
        reviews=algorithm.review is not None,
        at_once=min(values_of(settings, "at_once"), default=None),
        settings=settings,
    )


def head_record(settings: Settings | None) -> HeadRecord | None:
    """A head's record, from its settings."""
    if settings is None:
        return None
    return HeadRecord(name=settings["name"], classes=tuple(settings["classes"]))
