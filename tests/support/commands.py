"""What the tests of the command line share."""

QUICK = [
    "--engine",
    "eager",
    "--no-progress",
    "--tasks",
    "2",
    "--hidden",
    "8",
    "--optimizer",
    "sgd",
]


def refused(capsys, code, out):
    """The one line with which a command was refused, having written nothing."""
    said = capsys.readouterr()
    assert code == 2 and not out.exists() and said.out == ""
    lines = said.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("clfunc: "), said.err
    return lines[0]
