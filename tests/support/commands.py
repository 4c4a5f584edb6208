"""Helpers that the tests of the command line share."""

# Arguments that make a command quick.
QUICK = [
    *("--engine", "eager"),
    "--no-progress",
    *("--tasks", "2"),
    *("--hidden", "8"),
    *("--optimizer", "sgd"),
]


def refused(capsys, code, out):
    """The one line by which a command was refused.

    Asserts that the exit code is 2, that nothing else is printed, and that `out` does not exist.
    """
    printed = capsys.readouterr()
    assert code == 2
    assert not out.exists()
    assert printed.out == ""
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("clfunc: "), printed.err
    return lines[0]
