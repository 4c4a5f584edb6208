"""Continual backpropagation: finetuning that keeps resetting its least useful units, and so stays able to learn [1].

    cbp(model, tx, ...) = finetuning(model, reinit(model, tx, ...))

See `clfunc.transforms.reinit` for the method. The presets are what was published under the name: four different methods, which
also keep the optimiser's memory across tasks, as `carry(tx)`. Ages and utilities always last. Rates and thresholds differ
between the papers' experiments; the defaults are those of the permuted MNIST ones, 1e-4 and 100.

| preset           | utility                                    | running means | units due at a step          | bias transfer |
|------------------|--------------------------------------------|---------------|------------------------------|---------------|
| `cbp_nature2024` | contribution                               | plain         | rate * eligible, one at most | no            |
| `cbp_lop_mlp`    | adaptable_contribution                     | debiased      | rate * eligible              | no            |
| `cbp_lop_conv`   | adaptable_contribution                     | debiased      | rate * all, if any eligible  | no            |
| `cbp_arxiv2023`  | adaptable_contribution                     | lagged        | rate * eligible              | yes           |

`cbp` itself is `cbp_lop_mlp` with every setting open, and an optimiser that restarts at each task unless it is carried.

[1] Dohare et al. 2024, doi:10.1038/s41586-024-07711-7; arXiv:2306.13812 [cbp_arxiv2023]; shibhansh/loss-of-plasticity [cbp_lop]
"""

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor

from clfunc.algorithms.finetuning import FinetuningState, finetuning
from clfunc.transforms import carry, reinit
from clfunc.transforms.reinit import told
from clfunc.types import Algorithm, Batch, Model, Number, Params, Transform


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
    """Finetuning with `reinit` around its optimiser: arguments and errors as there."""
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

    measure = cast(Callable[..., dict[str, Tensor]], inner.probe)

    def probe(params: Params, state: FinetuningState, batch: Batch) -> dict[str, Tensor]:
        return measure(params, state, batch) | told(state.opt)

    return inner._replace(probe=probe, settings=inner.settings | {"name": "cbp"})


def cbp_nature2024(
    model: Model,
    tx: Transform,
    *,
    replacement_rate: Number = 1e-4,
    maturity_threshold: Number = 100,
    utility_decay_rate: Number = 0.99,
) -> Algorithm:
    """Algorithm 1 of [1] as printed; numbers as in `reinit`."""
    numbers = _numbers(replacement_rate, maturity_threshold, utility_decay_rate)
    made = cbp(
        model, carry(tx), utility="contribution", estimate="plain", budget="one", slots=1, **numbers
    )
    return _named(made, "cbp_nature2024")


def cbp_lop_mlp(
    model: Model,
    tx: Transform,
    *,
    replacement_rate: Number = 1e-4,
    maturity_threshold: Number = 100,
    utility_decay_rate: Number = 0.99,
) -> Algorithm:
    """The code of [1] for fully connected networks (gnt.py); numbers as in `reinit`."""
    made = cbp(
        model, carry(tx), **_numbers(replacement_rate, maturity_threshold, utility_decay_rate)
    )
    return _named(made, "cbp_lop_mlp")


def cbp_lop_conv(
    model: Model,
    tx: Transform,
    *,
    replacement_rate: Number = 3e-4,
    maturity_threshold: Number = 100,
    utility_decay_rate: Number = 0.99,
) -> Algorithm:
    """The code of [1] for convolutional networks (convGnT.py), at Continual ImageNet's rate; numbers as in `reinit`."""
    made = cbp(
        model,
        carry(tx),
        budget="total",
        **_numbers(replacement_rate, maturity_threshold, utility_decay_rate),
    )
    return _named(made, "cbp_lop_conv")


def cbp_arxiv2023(
    model: Model,
    tx: Transform,
    *,
    replacement_rate: Number = 1e-4,
    maturity_threshold: Number = 100,
    utility_decay_rate: Number = 0.99,
) -> Algorithm:
    """The preprint's equations 3 to 8, with the transfer to the consumers' biases; numbers as in `reinit`."""
    numbers = _numbers(replacement_rate, maturity_threshold, utility_decay_rate)
    made = cbp(model, carry(tx), estimate="lagged", bias_transfer=True, **numbers)
    return _named(made, "cbp_arxiv2023")


def _numbers(rate: Number, threshold: Number, decay: Number) -> dict[str, Any]:
    return {"replacement_rate": rate, "maturity_threshold": threshold, "utility_decay_rate": decay}


def _named(algorithm: Algorithm, name: str) -> Algorithm:
    return algorithm._replace(settings=algorithm.settings | {"name": name})
