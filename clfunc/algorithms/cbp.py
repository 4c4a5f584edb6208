"""Continual backpropagation [1]: finetuning that keeps resetting its least useful units.

    cbp(model, tx, ...) = finetuning(model, reinit(model, tx, ...))

See `clfunc.transforms.reinit`. Four different methods have the name; their presets also carry the
optimiser's state across tasks. The default rate and threshold are those for permuted MNIST.

| preset           | utility                                    | running means | units due at a step          | bias transfer |
|------------------|--------------------------------------------|---------------|------------------------------|---------------|
| `cbp_nature2024` | contribution                               | plain         | rate * eligible, one at most | no            |
| `cbp_lop_mlp`    | adaptable_contribution                     | debiased      | rate * eligible              | no            |
| `cbp_lop_conv`   | adaptable_contribution                     | debiased      | rate * all, if any eligible  | no            |
| `cbp_arxiv2023`  | adaptable_contribution                     | lagged        | rate * eligible              | yes           |

`cbp` is `cbp_lop_mlp` with every setting open; its optimiser restarts unless it is carried.

[1] Dohare et al. 2024, doi:10.1038/s41586-024-07711-7; arXiv:2306.13812 [cbp_arxiv2023];
shibhansh/loss-of-plasticity [cbp_lop]
"""

from typing import Any

from torch import Tensor

from clfunc.algorithms.finetuning import FinetuningState, finetuning
from clfunc.transforms import carry, reinit
from clfunc.transforms.reinit import measures
from clfunc.types import Algorithm, Batch, Model, Number, Params, Transform

_PRINTED = {"utility": "contribution", "estimate": "plain", "budget": "one", "slots": 1}


def cbp(
    model: Model,
    tx: Transform,
    *,
    replacement_rate: Number = 1e-4,
    maturity_threshold: Number = 100,
    utility_decay_rate: Number = 0.99,
    utility: str = "adaptable_contribution",
    accumulate: bool = True,
    bias_transfer: bool = False,
    estimate: str = "debiased",
    budget: str = "eligible",
    slots: int | None = None,
) -> Algorithm:
    """Finetuning with `reinit` around its optimiser: arguments and errors as there.

    >>> from clfunc import cbp, mlp, sgd, til
    >>> algorithm = cbp(mlp(64, (16,), til(5, classes=10)), sgd(0.1), replacement_rate=1e-3)
    """
    resetting = reinit(
        model,
        tx,
        replacement_rate=replacement_rate,
        maturity_threshold=maturity_threshold,
        utility_decay_rate=utility_decay_rate,
        utility=utility,
        accumulate=accumulate,
        bias_transfer=bias_transfer,
        estimate=estimate,
        budget=budget,
        slots=slots,
    )
    inner = finetuning(model, resetting)
    plasticity = inner.probe
    assert plasticity is not None  # finetuning always has one

    def probe(params: Params, state: FinetuningState, batch: Batch) -> dict[str, Tensor]:
        return plasticity(params, state, batch) | measures(state.opt)

    return inner._replace(probe=probe, settings=inner.settings | {"name": "cbp"})


def cbp_nature2024(
    model: Model,
    tx: Transform,
    *,
    replacement_rate: Number = 1e-4,
    maturity_threshold: Number = 100,
    utility_decay_rate: Number = 0.99,
) -> Algorithm:
    """Algorithm 1 of [1] as printed; numbers as in `reinit`.

    >>> from clfunc import cbp_nature2024, mlp, sgd, til
    >>> algorithm = cbp_nature2024(mlp(64, (16,), til(5, classes=10)), sgd(0.1))
    """
    numbers = (replacement_rate, maturity_threshold, utility_decay_rate)
    return _preset("cbp_nature2024", model, tx, numbers, **_PRINTED)


def cbp_lop_mlp(
    model: Model,
    tx: Transform,
    *,
    replacement_rate: Number = 1e-4,
    maturity_threshold: Number = 100,
    utility_decay_rate: Number = 0.99,
) -> Algorithm:
    """The code of [1] for fully connected networks (gnt.py); numbers as in `reinit`.

    >>> from clfunc import cbp_lop_mlp, mlp, sgd, til
    >>> algorithm = cbp_lop_mlp(mlp(64, (16,), til(5, classes=10)), sgd(0.1))
    """
    numbers = (replacement_rate, maturity_threshold, utility_decay_rate)
    return _preset("cbp_lop_mlp", model, tx, numbers)


def cbp_lop_conv(
    model: Model,
    tx: Transform,
    *,
    replacement_rate: Number = 3e-4,
    maturity_threshold: Number = 100,
    utility_decay_rate: Number = 0.99,
) -> Algorithm:
    """The code of [1] for convolutions (convGnT.py), at Continual ImageNet's rate; see `reinit`.

    >>> from clfunc import cbp_lop_conv, mlp, sgd, til
    >>> algorithm = cbp_lop_conv(mlp(64, (16,), til(5, classes=10)), sgd(0.1))
    """
    numbers = (replacement_rate, maturity_threshold, utility_decay_rate)
    return _preset("cbp_lop_conv", model, tx, numbers, budget="total")


def cbp_arxiv2023(
    model: Model,
    tx: Transform,
    *,
    replacement_rate: Number = 1e-4,
    maturity_threshold: Number = 100,
    utility_decay_rate: Number = 0.99,
) -> Algorithm:
    """The preprint's equations 3 to 8, with the transfer to biases; numbers as in `reinit`.

    >>> from clfunc import cbp_arxiv2023, mlp, sgd, til
    >>> algorithm = cbp_arxiv2023(mlp(64, (16,), til(5, classes=10)), sgd(0.1))
    """
    numbers = (replacement_rate, maturity_threshold, utility_decay_rate)
    return _preset("cbp_arxiv2023", model, tx, numbers, estimate="lagged", bias_transfer=True)


def _preset(
    name: str, model: Model, tx: Transform, numbers: tuple[Number, Number, Number], **rule: Any
) -> Algorithm:
    """`cbp` under this name, with its three numbers and an optimiser that is carried."""
    names = ("replacement_rate", "maturity_threshold", "utility_decay_rate")
    rule |= dict(zip(names, numbers, strict=True))
    algorithm = cbp(model, carry(tx), **rule)
    return algorithm._replace(settings=algorithm.settings | {"name": name})
