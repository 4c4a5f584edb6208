"""Rows of the tests' tables as parameters of a test."""

import pytest


def some_at_length(cases, is_at_length):
    """The cases by their names; those at length are left to `scripts/test --all`."""
    rows = []
    for case in cases:
        if is_at_length(case):
            row = pytest.param(case, id=f"{case.name}_at_length", marks=pytest.mark.long)
        else:
            row = pytest.param(case, id=case.name)
        rows.append(row)
    return rows
