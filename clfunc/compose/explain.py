"""`explain`: what an algorithm is made of, in words."""

from typing import Any

from torch import Tensor

from clfunc import tree
from clfunc.random import key
from clfunc.settings import declares, find, shown
from clfunc.types import Algorithm, Settings, State

_NAMED = ("tx", "inner")  # settings under which a transform or an algorithm holds another
_HIDDEN = (
    "name",
    "draws",
    "notes",
    "remembers",
    "forgets",
    "needs",
    "heads",
    "place",
    "model",
    "of",
    *_NAMED,
)

Lines = list[tuple[str, str]]  # a word for the left, and what it says


def explain(algorithm: Algorithm) -> str:
    """Who trains, minimises, remembers and moves what, how many numbers each keeps for a run, and
    what cannot be combined with the algorithm.

    It makes the algorithm's first state, so it takes the memory of one run.

    Args:
        algorithm: Any, in wrappers too; of a sweep the first member is explained.

    >>> import clfunc as cl
    >>> model = cl.mlp(64, (16,), cl.dil(5, classes=10))
    >>> print(cl.explain(cl.er(model, cl.sgd(0.1), capacity=50, batch=8)))
    er
      trains      mlp with a dil head of 5 tasks: 1,210 numbers
      minimises   the loss of the batch
      minimises   replay (strength 1, batch 8, mean 'union'): 4 numbers
      remembers   reservoir (capacity 50): 3,522 numbers
      moves       sgd (lr 0.1, weight_decay 0, nesterov False): 2 numbers
      limits      amnesiac cannot wrap it, as er mixes tasks in a step
    """
    settings = algorithm.settings
    if settings.get("name") == "sweep":
        settings = settings["members"][0]
        algorithm = algorithm.init.algorithms[0]  # type: ignore[attr-defined]
    params, state = algorithm.init(key(0))
    lines = _around(settings)
    lines.append(("trains", f"{_network(settings)}: {_count(tree.leaves(params))}"))
    lines += _parts(settings, state)
    if algorithm.review is not None:
        lines.append(("reviews", "every example of a task once, when the task has been trained"))
    for limit in _limits(algorithm, settings):
        lines.append(("limits", limit))
    rows = [f"  {word:<11} {text}" for word, text in lines]
    return "\n".join([str(settings.get("name", "algorithm")), *rows])


def _around(settings: Settings) -> Lines:
    """The algorithms inside this one, from the outside in."""
    lines: Lines = []
    while isinstance(settings.get("inner"), dict):
        settings = settings["inner"]
        lines.append(("wraps", f"{settings.get('name')}{_shown(settings)}"))
    return lines


def _network(settings: Settings) -> str:
    model = find(settings, "model") or {}
    head = find(settings, "head") or {}
    return (
        f"{model.get('name', 'a network')} with a {head.get('name', '')} head of"
        f" {len(head.get('classes', []))} tasks"
    )


def _parts(settings: Settings, state: State) -> Lines:
    """The terms, the memory and the transform, each with the size of its state."""
    named = tree.items(state)

    def size(*path: str) -> str:
        inside = f".{'.'.join(path)}."
        return _count([leaf for name, leaf in named if inside in f".{name}."])

    lines: Lines = [("minimises", "the loss of the batch")]
    for name, term in (find(settings, "terms") or {}).items():
        lines.append(("minimises", f"{name}{_shown(term)}: {size('parts', 'terms', name)}"))
    memory = find(settings, "memory")
    if memory is not None:
        name = memory.get("name", "a memory")
        lines.append(("remembers", f"{name}{_shown(memory)}: {size('parts', 'memory')}"))
    transforms = _transforms(find(settings, "tx") or {})
    for place, text in enumerate(transforms, 1):
        total = f": {size('opt')}" if place == len(transforms) else ""
        lines.append(("moves", f"{text}{total}"))
    return lines


def _transforms(settings: Settings) -> list[str]:
    """The transforms in a transform: of a chain one after the other, of a wrapper from the outside
    in.
    """
    found = []
    if settings.get("name") != "chain":
        found.append(f"{settings.get('name', 'a transform')}{_shown(settings)}")
    inside = [settings[name] for name in _NAMED if isinstance(settings.get(name), dict)]
    for part in [*inside, *settings.get("of", [])]:
        found += _transforms(part)
    return found


def _shown(settings: Settings) -> str:
    """The settings of a part in brackets, without those of what it holds."""
    words = []
    for name, value in settings.items():
        is_plain = not isinstance(value, dict) and value is not None
        if name not in _HIDDEN and is_plain:
            words.append(f"{name} {shown(value)}")
    return f" ({', '.join(words)})" if words else ""


def _limits(algorithm: Algorithm, settings: Settings) -> list[str]:
    """What cannot be combined with the algorithm, from the fields that its parts declare."""
    limits = []
    mixing = declares(settings, "mixes")
    remembering = declares(settings, "remembers")
    if mixing is not None:
        limits.append(f"amnesiac cannot wrap it, as {mixing} mixes tasks in a step")
    elif remembering is not None:
        limits.append(f"amnesiac cannot wrap it, as {remembering} forgets no task")
    freezing = declares(settings, "freezes")
    if freezing is not None:
        limits.append(f"shrink_and_perturb cannot wrap it, as {freezing} freezes weights")
    last = declares(settings, "place", "last")
    if last is not None:
        limits.append(f"nothing may follow {last} in a chain")
    groups: tuple[str, ...] = ()
    if algorithm.bank is not None and algorithm.bank.groups is not None:
        groups = algorithm.bank.groups
    if "head" in groups:
        limits.append(
            "it takes no memory, as its heads are one task's at a time:"
            " use scenario.head(together=True)"
        )
    return limits


def _count(leaves: list[Any]) -> str:
    total = sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor))
    return f"{total:,} number{'' if total == 1 else 's'}"
