"""Requests to forget, as they are typed on the command line. A person counts tasks from 1, and the library from 0."""

from collections.abc import Sequence

from clfunc.unlearning.forget_sets import ForgetSet


def requests(pairs: Sequence[str]) -> dict[int, list[ForgetSet]]:
    """`2:1` and `4:2,3` as `{1: [ForgetSet(task=0)], 3: [ForgetSet(task=1), ForgetSet(task=2)]}`.

    Raises:
        ValueError: Anything else.
    """
    found: dict[int, list[ForgetSet]] = {}
    for pair in pairs:
        after, _, tasks = pair.partition(":")
        try:
            forget_sets = [ForgetSet(task=int(task) - 1) for task in tasks.split(",")]
            found.setdefault(int(after) - 1, []).extend(forget_sets)
        except ValueError as error:
            example = "such as 4:2,3 to forget tasks 2 and 3 after task 4"
            raise ValueError(f"--request takes AFTER:TASKS, {example}, given {pair!r}") from error
    if not found:
        raise ValueError(
            "unlearn needs a --request, such as --request 2:1 to forget task 1 after task 2"
        )
    return found
