"""Learning without forgetting (LwF) [1]: on the new task's examples the network keeps saying what it
said of the earlier classes when the last task ended.

    q = softmax(teacher's logits / T),   p = softmax(logits / T)      over the classes of task u
    loss = strength * sum over earlier tasks u of the mean over the batch of - sum_c q_c log p_c

With one head for all tasks there is one such sum, over the classes met before the task. Paper:
lambda_o -> strength. The teacher is the params at the last task's end. Heads of earlier tasks train
too. Departs from [1]: the new head has no epochs of its own first.

[1] Li & Hoiem 2016, arXiv:1606.09282
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from clfunc import tree
from clfunc.losses import weighted_mean
from clfunc.types import Context, Key, Model, Number, Params, Scalar, Task, Term, scalar


class LwFState(NamedTuple):
    strength: Scalar
    temperature: Scalar
    teacher: Params
    # [tasks, rows, classes]: which classes each task has, in a row for each head
    classes: Tensor
    old: Tensor  # [rows, classes]: those of the tasks that have ended
    task: Tensor  # the one that trains


def lwf(
    strength: Number = 1.0,
    temperature: Number = 2.0,
    *,
    scaled: bool = False,
    name: str = "lwf",
) -> Term:
    """The cross-entropy to what the last task's network says of earlier classes.

    Args:
        strength: Its weight, >= 0; 0 is none, and the paper's is 1.
        temperature: T, > 0; the paper's is 2.
        scaled: Whether it is multiplied by T^2, as Hinton's distillation is.
        name: Of the term.

    Raises:
        ValueError: A number out of its range; when bound, a head of one task at a time.

    >>> from clfunc import cil, finetuning, mlp, sgd, terms
    >>> model = mlp(64, (16,), cil(5, classes=2))
    >>> algorithm = finetuning(model, sgd(0.1), terms=(terms.lwf(),))
    """
    number = scalar(strength, "strength", 0)
    soft = scalar(temperature, "temperature", 0, above=True)

    def init(key: Key, params: Params, model: Model) -> LwFState:
        classes = _classes_of(model, key.device)
        return LwFState(
            strength=number,
            temperature=soft,
            teacher=params,
            classes=classes,
            old=torch.zeros_like(classes[0]),
            task=torch.zeros((), dtype=torch.int64, device=key.device),
        )

    def loss(s: LwFState, params: Params, context: Context) -> Scalar:
        has_old = s.old.any(1)
        # a row without a class says nothing; all of them stand in, so that no number is NaN
        counts = (s.old | ~has_old[:, None])[:, None]

        def log_soft(params: Params) -> Tensor:
            logits = of_all_heads(params, context, len(s.old)) / s.temperature
            return torch.log_softmax(torch.where(counts, logits, -torch.inf), 2)

        log_q, log_p = log_soft(s.teacher), log_soft(params)
        crossed = torch.where(counts, log_q.exp() * torch.where(counts, log_p, 0.0), 0.0).sum(2)
        each = -torch.where(has_old[:, None], crossed, 0.0).sum(0)
        factor = s.temperature**2 if scaled else 1.0
        return s.strength * factor * weighted_mean(each, context.batch.weight)

    settings = {"strength": number, "temperature": soft, "scaled": scaled}
    return Term(
        name=name,
        init=init,
        loss=loss,
        begin_task=_begin_task,
        end_task=_end_task,
        settings=settings | {"remembers": True, "needs": "classes", "heads": "all"},
    )


def _begin_task(s: LwFState, params: Params, task: Task) -> LwFState:
    """The state as a task begins."""
    return s._replace(task=task.id)


def _end_task(s: LwFState, params: Params) -> LwFState:
    """The state with the params as the teacher, and the task's classes among the old ones."""
    return s._replace(teacher=params, old=s.old | tree.take(s.classes, s.task))


def _classes_of(model: Model, device: torch.device) -> Tensor:
    """`Bool[tasks, rows, classes]`: which classes each task has. There is a row for each task that
    has a head of its own, else one.
    """
    spec = model.head.spec
    count = len(spec.classes)
    found = torch.zeros(count, count if spec.rows else 1, spec.width, dtype=torch.bool)
    first = 0
    for task, classes in enumerate(spec.classes):
        start = first if spec.paradigm == "cil" else 0
        found[task, task if spec.rows else 0, start : start + classes] = True
        first += classes
    return found.to(device)


def of_all_heads(params: Params, context: Context, rows: int) -> Tensor:
    """The logits `[rows, batch, classes]` of the batch by the head of each task, or by the one."""
    batch = context.batch
    if rows == 1:
        return context.forward(params, batch).logits[None]

    def of_task(task: Tensor) -> Tensor:
        return context.forward(params, batch._replace(task=task)).logits

    return vmap(of_task)(torch.arange(rows, device=batch.weight.device))
