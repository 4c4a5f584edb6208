"""What is put in the place of weights lost, and for whom the change is recorded, weight by weight,
with loops.
"""

import torch

from clfunc import tree
from clfunc.random import bits, key, normal
from clfunc.unlearning import compensation as repair
from clfunc.unlearning.records import blank, every

TASKS, SHAPE = 4, (3, 5)


def drawn(seed):
    """Random marks `[tasks, ...]`, about half of them set."""
    return {"a": {"weight": bits(key(seed), (TASKS, *SHAPE)) % 2 == 1}}


def entries():
    return [(i, j) for i in range(SHAPE[0]) for j in range(SHAPE[1])]


def test_a_lost_weight_becomes_the_backup_of_the_first_forgotten_task_that_could_move_it():
    params, backups = (
        {"a": {"weight": normal(key(0), SHAPE)}},
        {"a": {"weight": normal(key(1), (TASKS, *SHAPE))}},
    )
    reach, users = drawn(2), drawn(3)
    gone = torch.tensor([False, True, True, True])
    found = repair.restored(params, backups, reach, gone, users)["a"]["weight"]
    several = 0
    for at in entries():
        able = [t for t in range(TASKS) if gone[t] and reach["a"]["weight"][t][at]]
        used = any(users["a"]["weight"][t][at] for t in range(TASKS))
        expected = (
            backups["a"]["weight"][able[0]][at] if able and used else params["a"]["weight"][at]
        )
        assert found[at] == expected
        several += len(able) > 1 and used
    assert several > 2


def test_a_change_is_recorded_for_the_first_task_that_uses_the_weight_and_no_other():
    change, users = {"a": {"weight": normal(key(4), SHAPE)}}, drawn(5)
    records = blank(tree.zeros_like(change), TASKS)
    found = every(repair.credited(records, change, users))["a"]["weight"]
    for at in entries():
        using = [t for t in range(TASKS) if users["a"]["weight"][t][at]]
        expected = [
            change["a"]["weight"][at].item() if using[:1] == [t] else 0.0 for t in range(TASKS)
        ]
        assert found[(slice(None), *at)].tolist() == expected
    assert (users["a"]["weight"].sum(0) > 1).sum() > 2
