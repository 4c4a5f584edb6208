"""HAT's promise, asserted after every call: used weights do not move, and no task is forgotten."""

import torch
from support.hats import parts_of

from clfunc import tree
from clfunc.algorithms import hat
from clfunc.random import key, normal
from clfunc.testing import play
from clfunc.testing.laws import identical
from clfunc.units import masks

TASKS = 4


class Promise:
    """A hook for `play` that asserts the promise after every call.

    Attributes:
        logits: The logits of each task, as they were when the task ended.
        frozen: How many weights stood still between two used units, over all steps.
        capacity: The metric `capacity` of every step.
    """

    def __init__(self, algorithm, model):
        self.algorithm = algorithm
        self.model = model
        self.x = normal(key(9), (7, 1, 4, 4))
        self.logits = {}
        self.frozen = 0
        self.capacity = []

    def __call__(self, name, function, *arguments):
        result = function(*arguments)
        if name == "step":
            params, state, metrics = result
            self.assert_used_weights_stand_still(*arguments[:2], params, state)
            self.capacity.append(metrics["capacity"])
        if name == "end_task":
            self.assert_nothing_is_forgotten(arguments[1], *result)
        return result

    def assert_used_weights_stand_still(self, params, state, new_params, new_state):
        used = masks.of_weights(self.model, params, state.attention.used)
        before = dict(tree.items(params))
        after = dict(tree.items(new_params))
        for name, mask in tree.items(used):
            if name.split(".")[0] in self.model.head.owns:
                continue
            still = before[name][mask == 1]
            assert torch.equal(still, after[name][mask == 1]), (
                f"{name} moved between two used units"
            )
            self.frozen += still.numel()
        assert identical(state.head, new_state.head)
        assert identical(state.attention.bank, new_state.attention.bank)

    def assert_nothing_is_forgotten(self, before, params, state):
        other_tasks = torch.arange(TASKS) != int(state.attention.current)
        for group, used in state.attention.used.items():
            assert (used >= before.attention.used[group]).all()
            assert (used <= 1).all()
            parked = before.attention.rows[group][other_tasks]
            assert torch.equal(parked, state.attention.rows[group][other_tasks])
        for task in torch.nonzero(state.attention.met).flatten().tolist():
            logits = self.algorithm.predict(params, state, self.x, torch.tensor(task))
            first = self.logits.setdefault(task, logits)
            assert torch.equal(first, logits), f"task {task} forgot"


def play_with_promise(model, scenario, tx, seed=0, **settings):
    """Train HAT on a scenario under the promise; the hook, and how many units were reset."""
    settings = {"num_tasks": TASKS, "s_max": 20.0} | settings
    algorithm = hat(model, tx, **parts_of(settings))
    promise = Promise(algorithm, model)
    _, state = play(algorithm, scenario, key(seed), promise, epochs=1, steps=3)
    units = getattr(state.opt.inner[-1], "units", {})
    promise.resets = sum(int(group.replaced) for group in units.values())
    return promise
