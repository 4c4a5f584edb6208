"""Forget a class, as Graves et al. 2021 (arXiv:2010.10981) do: take off the updates of the batches
that held it, then repair.

    python scripts/reproduce/forget_a_class.py                    # needs the extra: pip install 'clfunc[mnist5k]'
    python scripts/reproduce/forget_a_class.py --kept 10 400      # with other numbers of the class's images

5,000 real MNIST digits (every fifth for testing), one task of ten classes, 784-256-256, Adam 0.001,
batches of 64, 10 epochs. Amnesiac unlearning records every batch that holds a 3. How many those are
is all that matters: the paper keeps 100 of the 6,000 threes, which a tenth of its batches hold;
`--kept` says how many images of the class to train on. Prints the accuracy on the class and on the
other nine (test images, %): after training, right after unlearning, after each epoch of repair
without the class, and that of the oracle, trained without it from the start. The optimiser's memory
is kept, as in the paper.
"""

import dataclasses
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.func import vmap

import clfunc as cl
from clfunc.driver.evaluate import bare, with_runs
from clfunc.driver.loop import make_step
from clfunc.random import fold_in
from clfunc.scenarios import Scenario, epoch_entries
from clfunc.unlearning.forget_sets import mask


@dataclasses.dataclass(frozen=True)
class Setting:
    """What to reproduce."""

    forget: int = 3
    """The class."""
    kept: tuple[int, ...] = (8, 20, 50, 400)
    """How many of its training images to train on (there are 400): an experiment each."""
    epochs: int = 10
    """Passes over the training images."""
    repair: int = 2
    """Passes over those of the other classes, after the class was taken off."""
    batch_size: int = 64
    seeds: int = 8
    width: int = 256
    """Of both hidden layers."""
    lr: float = 1e-3
    """Adam's."""
    engine: str = "auto"


def with_some(data: cl.datasets.Dataset, forget: int, kept: int) -> cl.datasets.Dataset:
    """The data set with so many training images of a class, and all of the others."""
    train = torch.arange(data.num_train)
    own = data.y[: data.num_train] == forget
    rows = torch.cat([train[~own], train[own][:kept]])
    both = torch.cat([rows, torch.arange(data.num_train, len(data.y))])
    return data._replace(x=data.x[both], y=data.y[both], num_train=len(rows))


def main(setting: Setting) -> None:
    try:
        data = cl.datasets.load("mnist5k")
    except ValueError as error:
        print(f"skipped: {error}")
        return
    table = Table(
        title=f"accuracy (%) on test images, mean ± sd over {setting.seeds} seeds",
        title_justify="left",
    )
    repaired = [f"repair {n}" for n in range(1, setting.repair + 1)]
    for column in ("kept", "recorded", "digits", "trained", "unlearned", *repaired, "oracle"):
        table.add_column(column, justify="right", no_wrap=True)
    for kept in setting.kept:
        share, scores = experiment(setting, data, kept)
        table.add_row(
            str(kept), f"{100 * share:.0f} %", str(setting.forget), *(shown(s[0]) for s in scores)
        )
        table.add_row("", "", "other nine", *(shown(s[1]) for s in scores), end_section=True)
    Console(width=120).print(table)


def experiment(
    setting: Setting, data: cl.datasets.Dataset, kept: int
) -> tuple[float, list[Tensor]]:
    """The share of batches recorded; then for each stage the accuracy on the class and on the
    others, `[2, seeds]`.
    """
    keys = torch.stack([cl.random.key(seed) for seed in range(setting.seeds)])
    some, none = (single_task(with_some(data, setting.forget, n), keys) for n in (kept, 0))
    model = cl.mlp(some.inputs, (setting.width, setting.width), some.head())
    a_class = cl.ForgetSet(task=0, classes=(setting.forget,))
    inner = cl.finetuning(model, cl.adam(setting.lr))
    algorithm = cl.amnesiac(inner, num_tasks=1, forget_sets=[a_class])
    many = cl.sweep([algorithm] * setting.seeds)
    how = {
        "epochs": setting.epochs,
        "batch_size": setting.batch_size,
        "engine": setting.engine,
        "evaluate": "none",
    }

    trained = cl.run(many, some, keys, **how)
    oracle = cl.run(many, none, keys, **how)
    wanted = mask(1, [a_class], [a_class]).expand(setting.seeds, -1)
    params, state = many.unlearn(trained.params, trained.state, wanted)

    scores = [
        score(setting, many, some, trained.params, trained.state),
        score(setting, many, some, params, state),
    ]
    for epoch in range(setting.repair):
        params, state = repair(setting, many, none, keys, epoch, params, state)
        scores.append(score(setting, many, some, params, state))
    scores.append(score(setting, many, none, oracle.params, oracle.state))
    share = trained.state.records.held.to(torch.float64).mean() / trained.steps
    return float(share), scores


def single_task(data: cl.datasets.Dataset, keys: Tensor) -> Scenario:
    return cl.scenarios.permuted(data, 1, keys, first_identity=True)


def repair(
    setting: Setting,
    many: cl.Algorithm,
    none: Scenario,
    keys: Tensor,
    epoch: int,
    params: Any,
    state: Any,
) -> tuple[Any, Any]:
    """An epoch without the class, going on with the optimiser's memory as it is."""
    stream = with_runs(none, none.train(0), setting.seeds)
    steps = stream.train.shape[-1] // setting.batch_size

    def draw(key: Tensor, stream: cl.scenarios.Stream) -> Tensor:
        return epoch_entries(fold_in(key, 1000 + epoch), stream, steps * setting.batch_size)

    entries = (
        vmap(draw)(keys, stream)
        .unflatten(1, (steps, setting.batch_size))
        .movedim(1, 0)
        .contiguous()
    )
    carry = (params, state, none.data, bare(stream))
    with torch.no_grad():
        (params, state, *_), _ = cl.scan(
            make_step(many, none, setting.seeds), carry, entries, engine="eager"
        )
    return params, state


def score(
    setting: Setting, many: cl.Algorithm, scenario: Scenario, params: Any, state: Any
) -> Tensor:
    """Accuracy on the test images of the class, and on the others, `[2, seeds]`."""
    stream = with_runs(scenario, scenario.test(0), setting.seeds)
    batch = vmap(scenario.batch, in_dims=(None, 0, 0))(scenario.data, bare(stream), stream.test)
    right = many.predict(params, state, batch.x, batch.task).argmax(-1) == batch.y
    own = batch.y == setting.forget
    return torch.stack([(right & of).sum(1) / of.sum(1) for of in (own, ~own)])


def shown(accuracy: Tensor) -> str:
    return f"{100 * accuracy.mean():.1f} ± {100 * accuracy.std():.1f}"


if __name__ == "__main__":
    main(tyro.cli(Setting, description=__doc__))
