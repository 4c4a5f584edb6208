"""AdaHAT [1]: HAT whose used weights still move, the less, the more tasks use them and the less
free their layer is.

    rate_ij = r / (claims_ij + r),  r = alpha / (epsilon + free share of the layer)        `clfunc.hard_attention.rates.adahat`

It gives up a little of the past for room to learn when every unit is taken. Departs from [1]: by
default the rate scales what moves. Under Adam, which [1] uses, a gradient scaled down moves a
weight as far as before (`scale_at="gradients"`).

[1] Wang et al. 2024, "AdaHAT: Adaptive Hard Attention to the Task in Task-Incremental Learning",
ECML PKDD
"""

from clfunc.algorithms.hat import hat
from clfunc.hard_attention import Rates
from clfunc.types import Algorithm, Model, Number, Transform


def adahat(
    model: Model,
    tx: Transform,
    *,
    num_tasks: int,
    s_max: Number = 400.0,
    mask_sparsity_reg_factor: Number = 0.1,
    alpha: Number = 1e-6,
    epsilon: Number = 0.1,
    no_reg: bool = False,
    no_sum: bool = False,
    scale_at: str = "updates",
    freeze_head_after: int | None = None,
) -> Algorithm:
    """`hat` with the rates of AdaHAT and the paper's numbers; arguments that are not listed, and
    errors, as there.

    Args:
        model: Its unit groups are gated.
        tx: The optimiser.
        num_tasks: Tasks to keep an embedding for, >= 1.
        alpha: How much a used weight moves, > 0; towards 0 it is HAT.
        epsilon: Keeps the rate finite where a layer has no free unit, > 0.
        no_reg: The paper's first ablation: without the free share.
        no_sum: The paper's second ablation: every weight counts all tasks.
        scale_at: See `clfunc.hard_attention.Rates`.

    >>> from clfunc import adahat, mlp, sgd, til
    >>> algorithm = adahat(mlp(64, (16,), til(5, classes=10)), sgd(0.05), num_tasks=5)
    """
    algorithm = hat(
        model,
        tx,
        num_tasks=num_tasks,
        s_max=s_max,
        mask_sparsity_reg_factor=mask_sparsity_reg_factor,
        rates=Rates(
            adjustment_mode="adahat",
            alpha=alpha,
            epsilon=epsilon,
            no_reg=no_reg,
            no_sum=no_sum,
            scale_at=scale_at,
        ),
        freeze_head_after=freeze_head_after,
    )
    return algorithm._replace(settings=algorithm.settings | {"name": "adahat"})
