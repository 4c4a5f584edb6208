"""Requests to forget, as they are typed on the command line.

A person counts tasks from 1, and the library from 0.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from clfunc.algorithms.amnesiac import amnesiac
from clfunc.types import Algorithm
from clfunc.unlearning.forget_sets import ForgetSet

_SPELLINGS = {  # option -> how its value is spelled, and an example
    "--request": ("AFTER:TASKS", "such as 4:2,3 to forget tasks 2 and 3 after task 4"),
    "--forget-rows": ("NAME=TASK:ROWS", "such as few=2:0-99,150 for 101 rows of task 2"),
    "--forget-classes": ("NAME=TASK:CLASSES", "such as threes=1:3 for class 3 of task 1"),
}
_NAME = re.compile(r"[^\W\d][\w-]*")
_MOST = 10**7  # rows of a set


class Forgetting(NamedTuple):
    """What is to be forgotten, with tasks counted from 0."""

    requests: dict[int, list[ForgetSet]]
    declared: list[ForgetSet]  # the sets of examples, in the order in which they are forgotten


def forgetting(
    request: Sequence[str], rows: Sequence[str], classes: Sequence[str], num_tasks: int
) -> Forgetting:
    """The values of `--request`, `--forget-rows` and `--forget-classes` as the library takes them.

    Raises:
        ValueError: A value that is not spelled so, or a request that cannot be met; tasks in
            messages count from 1.
    """
    named: dict[str, ForgetSet] = {}
    for option, values in (("--forget-rows", rows), ("--forget-classes", classes)):
        for value in values:
            name, forget_set = _named_set(option, value, num_tasks)
            if name in named:
                raise ValueError(f"{option} declares {name} a second time, given {value!r}")
            named[name] = forget_set

    wanted = requests(request, num_tasks, named)
    declared = []
    for after in sorted(wanted):
        declared += [one for one in wanted[after] if not one.is_whole_task]
    for name, forget_set in named.items():
        if forget_set not in declared:
            raise ValueError(f"nothing forgets {name}: add --request AFTER:{name}")
    return Forgetting(wanted, declared)


def requests(
    values: Sequence[str], num_tasks: int, named: Mapping[str, ForgetSet] | None = None
) -> dict[int, list[ForgetSet]]:
    """`4:2,few` as `{3: [ForgetSet(task=1), few]}`, where `named` holds `few`.

    >>> requests(["2:1"], num_tasks=2)
    {1: [ForgetSet(task=0, classes=(), rows=(), concerns=None)]}

    Raises:
        ValueError: Anything else, or a request that cannot be met.
    """
    found: dict[int, list[ForgetSet]] = {}
    words: dict[int, list[str]] = {}
    for value in values:
        after, listed = _parsed_request(value)
        _refuse_unless(1 <= after <= num_tasks, f"cannot forget after task {after}", num_tasks)
        for word in listed:
            forget_set = _requested(word, after, num_tasks, named or {})
            found.setdefault(after - 1, []).append(forget_set)
            words.setdefault(after - 1, []).append(word)
    if not found:
        raise ValueError(
            "unlearn needs a --request, such as --request 2:1 to forget task 1 after task 2"
        )
    _refuse_forgotten_already(found, words)
    return found


def declaring(algorithm: Algorithm, forgets: Forgetting, num_tasks: int) -> Algorithm:
    """The algorithm, wrapped in `amnesiac` where sets of examples are declared.

    Raises:
        ValueError: It can forget already, and its sets cannot be declared from outside.
    """
    if not forgets.declared:
        return algorithm
    if algorithm.unlearn is not None:
        raise ValueError(
            "--forget-rows and --forget-classes wrap the algorithm in amnesiac, given one that can"
            " unlearn already: leave out --wrap amnesiac"
        )
    return amnesiac(algorithm, num_tasks=num_tasks, forget_sets=forgets.declared)


def _parsed_request(value: str) -> tuple[int, list[str]]:
    """After which task, and the words that say what to forget: numbers of tasks, or names."""
    after, _, listed = value.partition(":")
    words = [word.strip() for word in listed.split(",")]
    for word in words:
        if not (_is_number(word) or _NAME.fullmatch(word)):
            raise _misspelt("--request", value)
    if not _is_number(after):
        raise _misspelt("--request", value)
    return int(after), words


def _requested(word: str, after: int, num_tasks: int, named: Mapping[str, ForgetSet]) -> ForgetSet:
    """The set that a word of a request names, which must be trained by then."""
    cannot = f"cannot forget {word} after task {after}"
    if _is_number(word):
        task = int(word)
        cannot = f"cannot forget task {task} after task {after}"
        _refuse_unless(1 <= task <= num_tasks, cannot, num_tasks)
        if task > after:
            raise ValueError(f"{cannot}: it is not trained yet")
        return ForgetSet(task=task - 1)
    if word not in named:
        raise ValueError(
            f"{cannot}: no set has this name; declare it by --forget-rows {word}=TASK:ROWS or"
            f" --forget-classes {word}=TASK:CLASSES"
        )
    task = named[word].task + 1
    if task > after:
        raise ValueError(f"{cannot}: task {task} is not trained yet")
    return named[word]


def _refuse_forgotten_already(
    found: Mapping[int, Sequence[ForgetSet]], words: Mapping[int, Sequence[str]]
) -> None:
    """Raise ValueError for a set that an earlier request, or the same one, has forgotten."""
    forgotten: list[ForgetSet] = []
    for after in sorted(found):
        for forget_set, word in zip(found[after], words[after], strict=True):
            if forget_set in forgotten or ForgetSet(task=forget_set.task) in forgotten:
                what = f"task {int(word)}" if _is_number(word) else word
                raise ValueError(
                    f"cannot forget {what} after task {after + 1}: it is forgotten already"
                )
            forgotten.append(forget_set)


def _named_set(option: str, value: str, num_tasks: int) -> tuple[str, ForgetSet]:
    """`few=2:0-99,150` as the name `few` and its set."""
    name, _, rest = value.partition("=")
    task, _, listed = rest.partition(":")
    if not (_NAME.fullmatch(name) and _is_number(task)):
        raise _misspelt(option, value)
    numbers = _numbers(option, value, listed)
    _refuse_unless(1 <= int(task) <= num_tasks, f"no set can be of task {int(task)}", num_tasks)
    if option == "--forget-rows":
        return name, ForgetSet(task=int(task) - 1, rows=numbers)
    return name, ForgetSet(task=int(task) - 1, classes=numbers)


def _numbers(option: str, value: str, listed: str) -> tuple[int, ...]:
    """`0-2,7` as `(0, 1, 2, 7)`, in increasing order."""
    numbers: set[int] = set()
    for part in listed.split(","):
        first, dash, last = part.strip().partition("-")
        if not (_is_number(first) and (not dash or _is_number(last))):
            raise _misspelt(option, value)
        end = int(last) if dash else int(first)
        if not int(first) <= end < _MOST:
            raise _misspelt(option, value)
        numbers |= set(range(int(first), end + 1))
    return tuple(sorted(numbers))


def _is_number(word: str) -> bool:
    return word.strip().isdecimal() and word.isascii() and len(word.strip()) < 10


def _misspelt(option: str, value: str) -> ValueError:
    spelling, example = _SPELLINGS[option]
    return ValueError(f"{option} takes {spelling}, {example}, given {value!r}")


def _refuse_unless(fine: bool, cannot: str, num_tasks: int) -> None:
    if not fine:
        raise ValueError(f"{cannot}: tasks are 1..{num_tasks}")
