"""Jobs for other processes, which import this module alone to run them."""

import os
import signal
from pathlib import Path


def square(number, device):
    """A job that succeeds, and says which process ran it."""
    return number * number, device, os.getpid()


def refuse(number, device):
    """A job that raises an error."""
    raise ValueError(f"not {number}")


def die_once(number, folder, device):
    """A job that kills its process the first time, and succeeds the second time."""
    mark = Path(folder) / str(number)
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def always_die(number, device):
    """A job that kills its process every time."""
    os.kill(os.getpid(), signal.SIGKILL)
