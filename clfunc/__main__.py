"""`python -m clfunc` is the command `clfunc`."""

from clfunc.cli import entry

entry()
