"""HAT's sparsity regularisers: pure functions of the gates and of the units that earlier tasks use,
all in [0, 1].

    original  sum_l sum_i a_li (1 - A_li) / sum_l sum_i (1 - A_li)                         one ratio over the network [1]
    cross     (original + 1 - sum a A / sum A) / 2, once anything is used                  rewards sharing units [2]
    uniform   mean_l relu(sum_i a_li (1 - A_li) - n_l / T) / sum_i (1 - A_li)              free up to a fair share [3]

a: gates, A: cumulative masks (`used`), n_l: units of a layer, T: tasks. Where every unit is used
the ratio is 0, not 0 / 0.

[1] Serra et al. 2018, arXiv:1801.01423, eq. 5   [2] CLArena, as its text intends   [3] Duan et al.,
hat-cl
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from clfunc.types import choice

Units = Mapping[str, Tensor]  # unit group -> one value a unit


def original(gates: Units, used: Units) -> Tensor:
    return ratio(
        _total({g: gates[g] * (1 - used[g]) for g in gates}),
        _total({g: 1 - used[g] for g in gates}),
    )


def cross(gates: Units, used: Units) -> Tensor:
    alone, taken = original(gates, used), _total(used)
    overlap = ratio(_total({g: gates[g] * used[g] for g in gates}), taken)
    return torch.where(taken > 0, (alone + 1 - overlap) / 2, alone)


def uniform(gates: Units, used: Units, num_tasks: int) -> Tensor:
    excess = (
        ratio(
            torch.relu((gates[g] * (1 - used[g])).sum() - len(gates[g]) / num_tasks),
            (1 - used[g]).sum(),
        )
        for g in gates
    )
    return torch.stack(list(excess)).mean()


def share(gate: Tensor, used: Tensor) -> Tensor:
    """A layer's own ratio: of its units that are still unused, the share that the gate opens, in
    [0, 1].
    """
    return ratio((gate * (1 - used)).sum(), (1 - used).sum())


def regulariser_named(name: str, num_tasks: int) -> Callable[[Units, Units], Tensor]:
    """`original`, `cross` or `uniform`, of gates and used units.

    ValueError lists those there are.
    """
    modes: dict[str, Callable[[Units, Units], Tensor]] = {
        "original": original,
        "cross": cross,
        "uniform": partial(uniform, num_tasks=num_tasks),
    }
    return modes[choice(name, "mask_sparsity_reg_mode", modes)]


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 (with a zero gradient) where the whole is 0."""
    return torch.where(whole > 0, part, 0.0) / torch.where(whole > 0, whole, 1.0)


def _total(units: Units) -> Tensor:
    return torch.stack([values.sum() for values in units.values()]).sum()
