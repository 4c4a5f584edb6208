"""Distances between features, written with loops."""

import math


def dot(u, v):
    """The scalar product of two lists."""
    return sum(x * y for x, y in zip(u, v, strict=True))


def naive_distances(a, b):
    """The mean distances between the rows of two tensors `[rows, units]`, by name."""
    euclidean = []
    manhattan = []
    cosine = []
    for u, v in zip(a.tolist(), b.tolist(), strict=True):
        difference = [x - y for x, y in zip(u, v, strict=True)]
        euclidean.append(math.sqrt(dot(difference, difference)))
        manhattan.append(sum(abs(x) for x in difference))
        lengths = math.sqrt(dot(u, u)) * math.sqrt(dot(v, v))
        if lengths:
            cosine.append(1 - dot(u, v) / lengths)
        else:
            cosine.append(float(dot(u, u) != dot(v, v)))
    return {
        "euclidean": sum(euclidean) / len(euclidean),
        "manhattan": sum(manhattan) / len(manhattan),
        "cosine": sum(cosine) / len(cosine),
    }
