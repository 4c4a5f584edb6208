"""The command line: `clfunc run`, `sweep`, `report`, `list`."""

from clfunc.cli.main import entry as entry
from clfunc.cli.main import main as main
