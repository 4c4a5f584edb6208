"""Requests to forget, as they are typed on the command line."""

from collections.abc import Sequence


def requests(pairs: Sequence[str]) -> dict[int, list[int]]:
    """`2:1`, `4:2,3` as `{2: [1], 4: [2, 3]}`; ValueError for what is not like that."""
    found: dict[int, list[int]] = {}
    for pair in pairs:
        after, _, tasks = pair.partition(":")
        try:
            found.setdefault(int(after), []).extend(int(task) for task in tasks.split(","))
        except ValueError as error:
            example = "such as 4:2,3 to forget tasks 2 and 3 after task 4"
            raise ValueError(f"--request takes AFTER:TASKS, {example}, given {pair!r}") from error
    if not found:
        raise ValueError(
            "unlearn needs a --request, such as --request 2:1 to forget task 1 after task 2"
        )
    return found
