"""The library's algorithm and the naive run of `support.naive_protocol`, trained on the same batches
and compared at every step.
"""

import math

import torch
from support.naive_protocol import INPUTS, UNITS, Example, entries

import clfunc as cl
from clfunc import memories
from clfunc.random import key, normal, randint

COUNTS = (2, 3, 2)  # classes of each task
HEADS = {"til": cl.heads.together(cl.til(3, COUNTS)), "cil": cl.cil(3, COUNTS)}
HEADS["dil"] = cl.dil(3, COUNTS)
SGD = (0.2, 0.9, 0.3)  # learning rate, momentum, weight decay
CAPACITY, DRAWS = 7, 5
ROWS = 6  # of each task
# The rows and the weights of each step: one row counts for nothing, one is twice in a batch.
STEPS = (
    ((0, 1, 2, 3, 4), (1.0, 0.5, 1.0, 0.0, 2.0)),
    ((5, 0, 1, 1, 2), (1.0, 1.0, 1.0, 0.5, 1.0)),
    ((3, 4, 5, 0, 2), (1.0, 1.0, 0.5, 1.0, 0.0)),
)
REVIEW = (((0, 1, 2, 3), (1.0, 1.0, 0.5, 1.0)), ((4, 5, 0, 0), (1.0, 1.0, 0.0, 0.0)))
RUN = key(5)
TOLERANCE = 1e-12


def rows_of(paradigm, task):
    """The examples of a task: inputs and labels."""
    x = normal(key(105), (ROWS, INPUTS), at=task, dtype=torch.float64)
    y = randint(key(205), (ROWS,), 0, COUNTS[task], at=task)
    first = sum(COUNTS[:task]) if paradigm == "cil" else 0
    return x, y + first


def batch_of(paradigm, task, rows, weights):
    """The same batch for the library and for the naive run."""
    x, y = rows_of(paradigm, task)
    batch = cl.Batch(
        x=x[list(rows)],
        y=y[list(rows)],
        task=torch.tensor(task),
        weight=torch.tensor(weights, dtype=torch.float64),
        rows=torch.tensor(rows),
    )
    examples = []
    for row, weight in zip(rows, weights, strict=True):
        examples.append(Example(tuple(x[row].tolist()), int(y[row]), task, weight, row))
    return batch, examples


def apart(numbers, found):
    """The largest difference of the numbers to those of the same names."""
    worst = 0.0
    for name, number in numbers.items():
        difference = abs(number - found[name]) / max(1.0, abs(number))
        assert math.isfinite(difference), name
        worst = max(worst, difference)
    return worst


def assert_equal(run, params, state, where):
    """Assert that all parameters are equal to rounding, and all that the parts and memory keep."""
    found = entries(params)
    assert found.keys() == run.w.keys()
    assert apart(run.w, found) < TOLERANCE, where
    for part in run.parts:
        for field, numbers in part.state().items():
            kept = getattr(state.parts.terms[part.name], field)
            found = entries(kept) if isinstance(kept, dict) else {("",): float(kept)}
            assert apart(numbers, found) < TOLERANCE, (part.name, field, where)
    if run.memory is not None:
        assert_same_memory(run.memory, state.parts.memory, where)


def assert_same_memory(memory, state, where):
    """Assert that every slot holds the same example."""
    held = memories.reservoir(CAPACITY).rows(state)
    for slot, example in enumerate(memory.slots):
        if example is None:
            assert held.weight[slot] == 0, where
            continue
        found = Example(
            x=tuple(held.x[slot].tolist()),
            y=held.y[slot].item(),
            task=held.task[slot].item(),
            weight=held.weight[slot].item(),
            row=held.rows[slot].item(),
        )
        assert found == example._replace(logits=()), where
        for noted in held.notes.values():
            noted = dict(enumerate(noted[slot].tolist()))
            assert apart(dict(enumerate(example.logits)), noted) < TOLERANCE, where


def side_by_side(paradigm, algorithm, run, params, state):
    """Train both on three tasks, and compare them at every step.

    Yields:
        The parameters, the state and the metrics after each step.
    """
    count = torch.tensor(len(STEPS))
    for task in range(len(COUNTS)):
        about = cl.Task(torch.tensor(task), steps_per_epoch=count, epochs=torch.tensor(1))
        params, state = algorithm.begin_task(params, state, about)
        run.begin_task(task)
        for step, (rows, weights) in enumerate(STEPS):
            batch, examples = batch_of(paradigm, task, rows, weights)
            params, state, metrics = algorithm.step(params, state, batch)
            run.step(examples)
            assert_equal(run, params, state, f"task {task}, step {step}")
            assert abs(metrics["loss"] - run.loss) < TOLERANCE
            yield params, state, metrics
        if algorithm.review is not None:
            for rows, weights in REVIEW:
                batch, examples = batch_of(paradigm, task, rows, weights)
                state = algorithm.review(params, state, batch)
                for part in run.parts:
                    part.review(run, examples)
                assert_equal(run, params, state, f"review of task {task}")
        params, state = algorithm.end_task(params, state)
        run.end_task()
        assert_equal(run, params, state, f"end of task {task}")


def network(paradigm):
    return cl.mlp(INPUTS, (UNITS,), HEADS[paradigm], dtype=torch.float64)
