"""What the command line prints: tables of results, and the list of what can be named."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from clfunc import metrics
from clfunc.cli import registry
from clfunc.results import plots
from clfunc.results import store as archive

if TYPE_CHECKING:
    import xarray


def results_table(named: "dict[str, xarray.Dataset]") -> Table:
    """Final metrics in percent, mean ± standard deviation over runs; a row for each result and swept setting.

    Forward transfer needs an `independent` result of the same tasks beside it, the forgetting ratio `joint` and `random`.
    """
    rows = [
        (name, label, data, runs)
        for name, data in named.items()
        for label, runs in plots.groups(data)
    ]
    table = Table(
        header_style="bold", caption="mean ± standard deviation over runs, %, after the last task"
    )
    for column in ("", "runs", "average accuracy", "backward transfer", "forgetting"):
        table.add_column(column, justify="left" if column == "" else "right")
    extra = {"forward transfer": _forward_transfer, "forgetting ratio": _forgetting_ratio}
    found = {
        column: [f(named, data, runs) for _, _, data, runs in rows] for column, f in extra.items()
    }
    online = [_online_loss(data, runs) for _, _, data, runs in rows]
    shown = {
        column: values for column, values in found.items() if any(v is not None for v in values)
    }
    for column in shown:
        table.add_column(column, justify="right")
    if any(online):
        table.add_column("online loss", justify="right")
    for i, (name, label, data, runs) in enumerate(rows):
        values = [
            data[m].values[runs, -1]
            for m in ("average_accuracy", "backward_transfer", "forgetting")
        ]
        more = [_percent(found[i]) for found in shown.values()]
        diverged = np.isnan(values[0]).all() and data.attrs["paradigm"] != "regression"
        scores = [
            "diverged" if diverged else _percent(values[0]),
            *map(_percent, values[1:]),
            *more,
        ]
        scores += [online[i]] if any(online) else []
        table.add_row(" ".join(filter(None, (name, label))), str(len(runs)), *scores)
    return table


def _percent(values: "np.ndarray | None") -> str:
    if values is None or np.isnan(values).all():
        return "-"
    kept = values[~np.isnan(values)]
    spread = f" ± {100 * kept.std(ddof=1):.2f}" if len(kept) > 1 else ""
    diverged = f" ({len(values) - len(kept)} diverged)" if len(kept) < len(values) else ""
    return f"{100 * kept.mean():.2f}{spread}{diverged}"


def _online_loss(data: "xarray.Dataset", runs: np.ndarray) -> str:
    """In regression, the mean squared error while learning, over all tasks; else nothing."""
    if data.attrs["paradigm"] != "regression":
        return ""
    kept = data["online_loss"].values[runs].mean(1)
    if "diverged" in data:
        kept = kept[data["diverged"].values[runs] < 0]
    if not len(kept):
        return "diverged"
    diverged = f" ({len(runs) - len(kept)} diverged)" if len(kept) < len(runs) else ""
    return f"{kept.mean():.4f}" + (f" ± {kept.std(ddof=1):.4f}" if len(kept) > 1 else "") + diverged


def _accuracy(data: "xarray.Dataset", runs: np.ndarray) -> torch.Tensor:
    """`[trained, tested, runs]`."""
    trained = data["kind"].values == "trained" if "kind" in data.coords else slice(None)
    return torch.from_numpy(data["accuracy"].values[runs][:, trained]).movedim(0, -1)


def _reference(
    named: "dict[str, xarray.Dataset]", algorithm: str, like: "xarray.Dataset"
) -> "torch.Tensor | None":
    """Accuracy on each task of a result of this algorithm on the same tasks, the mean over its runs."""
    same = ("scenario", "dataset", "paradigm")
    for data in named.values():
        fits = data.attrs["algorithm"] == algorithm and data.sizes["tested"] == like.sizes["tested"]
        if fits and all(data.attrs[a] == like.attrs[a] for a in same):
            return _accuracy(data, np.arange(data.sizes["run"])).mean(-1)
    return None


def _each_run(values: torch.Tensor, runs: np.ndarray) -> torch.Tensor:
    return values[:, None].expand(-1, len(runs))


def _forward_transfer(
    named: "dict[str, xarray.Dataset]", data: "xarray.Dataset", runs: np.ndarray
) -> np.ndarray | None:
    independent = _reference(named, "independent", data)
    if independent is None or data.attrs["algorithm"] in ("independent", "joint", "random"):
        return None
    return metrics.forward_transfer(_accuracy(data, runs), _each_run(independent.diagonal(), runs))[
        -1
    ].numpy()


def _forgetting_ratio(
    named: "dict[str, xarray.Dataset]", data: "xarray.Dataset", runs: np.ndarray
) -> np.ndarray | None:
    joint, untrained = _reference(named, "joint", data), _reference(named, "random", data)
    if joint is None or untrained is None or data.attrs["algorithm"] in ("joint", "random"):
        return None
    return metrics.forgetting_ratio(
        _accuracy(data, runs), _each_run(joint[-1], runs), _each_run(untrained[-1], runs)
    )[-1].numpy()


def load_results(folders: "tuple[Path, ...]") -> "dict[str, xarray.Dataset]":
    """The results in these folders by the shortest names that tell them apart; a `report` among them is passed over.

    Raises:
        ValueError: A folder holds no results, or none that are sound.
    """
    for folder in folders:
        if not (folder / "results.nc").is_file() and folder.name != "report":
            raise ValueError(f"no results.nc in {folder}: give folders that --out named")
    found = [folder.absolute() for folder in folders if (folder / "results.nc").is_file()]
    if not found:
        raise ValueError("report takes the folders of finished runs, given none")
    shared = len(Path(os.path.commonpath([str(path.parent) for path in found])).parts)
    return {"/".join(path.parts[shared:]): archive.load(path) for path in found}


def report(named: "dict[str, xarray.Dataset]", out: Path, console: Console) -> None:
    """Print the table of finished runs, and draw their average accuracy in one figure under `out`."""
    console.print(results_table(named))
    console.print(f"figure: {plots.compare(named, out)}", highlight=False)


def differences(settings: list[str], values: list[str]) -> int:
    """Print in what two runs differ; the exit code."""
    for line in settings:
        print(f"setting {line}")
    for line in values:
        print(line)
    print("results differ" if values else "no difference in results")
    return 1 if values else 0


def list_all(console: Console) -> None:
    """Print everything that has a name, with its settings and papers."""
    kinds = {"algorithms": registry.ALGORITHMS, "wrappers (--wrap)": registry.WRAPPERS}
    kinds |= {
        "optimizers": registry.OPTIMIZERS,
        "models": registry.MODELS,
        "scenarios": registry.SCENARIOS,
    }
    for kind, table in kinds.items():
        console.print(f"[bold]{kind}[/bold]")
        for name, factory in table.items():
            sentence, papers = registry.about(factory)
            console.print(f"  [bold cyan]{name}[/bold cyan]  {sentence}", highlight=False)
            for option, default in registry.options(factory).items():
                value = (
                    ""
                    if default is default.__class__ or repr(default).startswith("<class")
                    else f"={default}"
                )
                console.print(f"      --set {option}{value}", highlight=False, markup=False)
            if papers:
                console.print(f"      {papers}", highlight=False, markup=False, style="dim")
    console.print("[bold]datasets[/bold]")
    console.print("  " + ", ".join(registry.DATASETS), highlight=False)
