"""Which runs of a sweep take part in a stage: what the stage made of the others is left out.

Every run executes every stage. For a run that skips the task or has diverged, the old state is
selected afterwards, outside the compiled step. `active` is `Bool[*runs]` on the CPU, so asking it
costs the device nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clfunc import tree
from clfunc.driver.run_state import RunState
from clfunc.types import Metrics, Params, State


def select(active: Tensor, new: Any, old: Any) -> Any:
    """`new` for the active runs and `old` for the others; the first axis is that of the runs."""
    if active.all():
        return new
    device = tree.leaves(new)[0].device
    return tree.where(active.to(device), new, old)


def apply_hook(
    run_state: RunState,
    active: Tensor,
    hook: Callable[..., tuple[Params, State]],
    *arguments: Any,
) -> RunState:
    """Calls a hook of the algorithm on the params and state of the active runs."""
    old = run_state.params, run_state.state
    params, state = select(active, hook(*old, *arguments), old)
    return run_state._replace(params=params, state=state)


def nan_unless(active: Tensor, metrics: Metrics) -> Metrics:
    """The metrics with NaN for the runs that are not active. The last axis is that of the runs."""
    if active.all():
        return metrics
    return tree.map(lambda v: torch.where(active.to(v.device), v, torch.nan), metrics)
