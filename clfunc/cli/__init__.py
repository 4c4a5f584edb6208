"""The command line: `clfunc run`, `sweep`, `unlearn`, `report`, `diff`, `list`."""

from clfunc.cli.command import entry as entry
from clfunc.cli.command import main as main
