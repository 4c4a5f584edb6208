"""The laws of scenarios: what their batches hold."""

import torch

from clfunc import tree
from clfunc.compose import check_batch
from clfunc.driver.evaluate import bare, with_runs
from clfunc.scenarios import Scenario
from clfunc.testing.compare import identical

PARTS = ("train", "valid", "test")


def scenario(made: Scenario) -> None:
    """Every law of scenarios, for one without an axis of runs.

    >>> from clfunc.testing import toy_stream
    >>> scenario(toy_stream(paradigm="cil"))
    """
    assert made.runs is None, "give the scenario of one run: scenario.part([0]), or one key"
    labels_and_tasks_are_the_heads_own(made)
    streams_are_pure(made)
    no_row_is_in_two_parts_of_a_task(made)
    examples_have_one_shape(made)


def labels_and_tasks_are_the_heads_own(made: Scenario) -> None:
    """Every label and task of a batch is in the range of the head that fits the scenario."""
    for phase in range(len(made.phases)):
        stream = made.train(phase)
        for part, size in zip(PARTS, stream.sizes.tolist(), strict=True):
            entries = getattr(stream, part)[:size]
            if size:
                check_batch(made.head(), made.batch(made.data, bare(stream), entries))


def streams_are_pure(made: Scenario) -> None:
    """A stream asked for twice is the same."""
    for phase in range(len(made.phases)):
        assert identical(made.train(phase), made.train(phase)), f"phase {phase} changes"
    for task in range(made.num_tasks):
        assert identical(made.test(task), made.test(task)), f"the test of task {task} changes"


def no_row_is_in_two_parts_of_a_task(made: Scenario) -> None:
    """No example of a task trains and validates, or trains and tests; and none comes twice."""
    for phase in range(len(made.phases)):
        stream = made.train(phase)
        entries = []
        for part, size in zip(PARTS, stream.sizes.tolist(), strict=True):
            entries += getattr(stream, part)[:size].tolist()
        assert len(entries) == len(set(entries)), f"phase {phase} has an example twice"


def examples_have_one_shape(made: Scenario) -> None:
    """Every batch has examples of the scenario's shape, in floating point, of weight 1."""
    for phase in range(len(made.phases)):
        stream = made.train(phase)
        batch = made.batch(made.data, bare(stream), stream.train[:2])
        assert tuple(batch.x.shape[1:]) == tuple(made.inputs), f"examples are {batch.x.shape[1:]}"
        assert batch.x.is_floating_point() and bool((batch.weight == 1).all())
        runs = with_runs(made, stream, 2)
        assert identical(tree.index(runs, 0), stream)
        assert torch.equal(runs.task[0], stream.task)
