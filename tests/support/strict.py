"""The type checker of the tests: beartype, which takes an int where a float is declared."""

import contextlib

from beartype import BeartypeConf, beartype
from jaxtyping import config

check = beartype(conf=BeartypeConf(is_pep484_tower=True))


@contextlib.contextmanager
def without_type_checks():
    """Call functions without type checks, which take a quarter of the time of a small step."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", before)
