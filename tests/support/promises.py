"""HAT's promise, asserted after every call of a run."""

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
    """A hook for `play` that asserts the promise after every call."""

    def __init__(self, algorithm, model):
        self.algorithm, self.model = algorithm, model
        self.x = normal(key(9), (7, 1, 4, 4))
        self.logits, self.frozen, self.capacity = {}, 0, []

    def __call__(self, name, f, *args):
        result = f(*args)
        if name == "step":
            self.check_step(*args[:2], *result[:2])
            self.capacity.append(result[2]["capacity"])
        if name == "end_task":
            self.check_end(args[1], *result)
        return result

    def check_step(self, params, state, moved, new):
        used = masks.of_weights(self.model, params, state.attention.used)
        shared = {
            name: mask
            for name, mask in tree.items(used)
            if name.split(".")[0] not in self.model.head.owns
        }
        for name, mask in shared.items():
            before, after = (dict(tree.items(p))[name][mask == 1] for p in (params, moved))
            assert torch.equal(before, after), f"{name} moved between two used units"
            self.frozen += before.numel()
        assert identical(state.head, new.head) and identical(
            state.attention.bank, new.attention.bank
        )

    def check_end(self, before, params, state):
        done, current = state.attention.met, int(state.attention.current)
        for group, used in state.attention.used.items():
            assert (used >= before.attention.used[group]).all() and (used <= 1).all()
            rows = torch.arange(TASKS) != current
            assert torch.equal(
                before.attention.rows[group][rows], state.attention.rows[group][rows]
            )
        for task in torch.nonzero(done).flatten().tolist():
            logits = self.algorithm.predict(params, state, self.x, torch.tensor(task))
            assert torch.equal(self.logits.setdefault(task, logits), logits), f"task {task} forgot"


def lived_by(model, scenario, tx, seed=0, **settings):
    given = {"num_tasks": TASKS, "s_max": 20.0} | settings
    algorithm = hat(model, tx, **parts_of(given))
    promise = Promise(algorithm, model)
    _, state = play(algorithm, scenario, key(seed), promise, epochs=1, steps=3)
    promise.resets = sum(
        int(known.replaced) for known in getattr(state.opt.inner[-1], "units", {}).values()
    )
    return promise
