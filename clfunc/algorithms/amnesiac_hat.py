"""AmnesiacHAT [1]: hard attention that can forget a task, and make up for what that costs later
ones.

    amnesiac_hat(model, tx, ...) = compensated(amnesiac(hat(model, tx, ...), ...), ...)

Without `compensate` and `repair_steps` it is `amnesiac(hat(...))`. With them,
`clfunc.unlearning.compensated` treats the weights that a remaining task shares with the forgotten
one.

Exact: earlier tasks keep their very bits, since later tasks' updates are 0 on their weights. Start
plus records is the parameters, also after compensation and repair, whose changes are recorded for
the first task that uses the weight. Units that the forgotten task alone used are free at once; its
embedding and head are those of its start, its kept examples are deleted. Not exact: what later
tasks learned, and which units they chose, came of a network that knew the forgotten task.
Compensation and repair are training, not undoing; and a backup keeps what was added to it by a
later task that is itself forgotten.

Departs from [1]: training is `hat`'s, to the bit, where [1] adds the backups' loss to it; one
backup a task, where [1] has one for each pair; all weights that the task could move, where [1]
restores those between units that both use; a repair of all remaining tasks together. Backups cost a
forward and a backward pass for each task at every step, and its memory.

[1] CLArena's AmnesiacHAT; Serra et al. 2018, arXiv:1801.01423 (HAT)
"""

from clfunc.algorithms.amnesiac import amnesiac
from clfunc.algorithms.hat import hat
from clfunc.types import Algorithm, Model, Number, Transform
from clfunc.unlearning.compensated import compensated


def amnesiac_hat(
    model: Model,
    tx: Transform,
    *,
    num_tasks: int,
    s_max: Number = 400.0,
    mask_sparsity_reg_factor: Number = 0.75,
    freeze_head_after: int | None = None,
    optimizer_state: str = "keep",
    precision: str = "params",
    compensate: bool = False,
    repair_steps: int = 0,
    repair_lr: Number = 0.01,
    distillation: Number = 0.5,
    buffer_size: int = 100,
) -> Algorithm:
    """`amnesiac` around `hat`, with compensation: arguments that are not listed, and errors, as
    there.

    Args:
        model: Its unit groups are gated.
        tx: The optimiser, of the network and of each backup.
        num_tasks: Tasks to keep an embedding and a record for, >= 1.
        compensate: Train backups, and put them in place of what is subtracted.
        repair_steps: Steps of gradient descent on kept examples after each unlearning; 0 keeps
            none.
        repair_lr: Learning rate of these steps, > 0.
        distillation: Weight of the stored logits beside the labels, >= 0.
        buffer_size: Examples of each task to keep, its last ones, >= 1.

    >>> from clfunc import amnesiac_hat, mlp, sgd, til
    >>> model = mlp(64, (16,), til(5, classes=10))
    >>> algorithm = amnesiac_hat(model, sgd(0.05), num_tasks=5, compensate=True)
    """
    strict = hat(
        model,
        tx,
        num_tasks=num_tasks,
        s_max=s_max,
        mask_sparsity_reg_factor=mask_sparsity_reg_factor,
        freeze_head_after=freeze_head_after,
    )
    inner = amnesiac(
        strict,
        num_tasks=num_tasks,
        optimizer_state=optimizer_state,
        precision=precision,
    )
    algorithm = compensated(
        inner,
        model,
        tx,
        num_tasks=num_tasks,
        compensate=compensate,
        repair_steps=repair_steps,
        repair_lr=repair_lr,
        distillation=distillation,
        buffer_size=buffer_size,
    )
    return algorithm._replace(settings=algorithm.settings | {"name": "amnesiac_hat"})
