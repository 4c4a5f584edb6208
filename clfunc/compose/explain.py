"""`explain`: what an algorithm is made of, in words."""

from clfunc.types import Algorithm


def explain(algorithm: Algorithm) -> str:
    """Who remembers, minimises and moves what; how many numbers each keeps; what cannot be combined
    with it.

    It makes the algorithm's first state, so it takes the memory of one run.

    >>> import clfunc as cl
    >>> model = cl.mlp(64, (16,), cl.dil(5, classes=10))
    >>> algorithm = cl.er(model, cl.sgd(0.1), capacity=50, batch=8)
    >>> print(explain(algorithm))  # doctest: +ELLIPSIS
    er
      ...
    """
    return ""
