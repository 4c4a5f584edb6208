"""The stages of a small run, as its own driver sees them."""

import torch

import clfunc as cl
from clfunc.driver.algorithm_record import read_algorithm
from clfunc.driver.loop import play, start_and_order, steps_of
from clfunc.driver.options import RunOptions
from clfunc.driver.progress import Progress
from clfunc.driver.run import make_trainer
from clfunc.driver.schedule import Schedule
from clfunc.driver.timeline import timeline


def played(algorithm, scenario, **how):
    """The trainer, the key of the order, and all stages of a run in eager mode."""
    options = RunOptions(engine="eager", batch_size=16, progress=False).changed(**how)
    record = read_algorithm(algorithm)
    events = timeline(scenario, record, None, options.requests, options.skip)
    schedule = Schedule(
        scenario=scenario,
        runs=None,
        options=options,
        steps=steps_of(scenario, options.batch_size),
        timeline=events,
        review_size=record.review_size(options.batch_size),
    )
    trainer = make_trainer(algorithm, schedule, Progress(False, 0, 0, 0))
    start, order = start_and_order(cl.random.key(0))
    with torch.no_grad():
        stages = list(play(trainer, trainer.first_run_state(start), order))
    return trainer, order, stages
