"""Distances between features, with loops."""

import math


def dot(u, v):
    return sum(x * y for x, y in zip(u, v, strict=True))


def naive_distances(a, b):
    a, b = a.tolist(), b.tolist()
    pairs = list(zip(a, b, strict=True))
    differences = [[x - y for x, y in zip(u, v, strict=True)] for u, v in pairs]
    angles = []
    for u, v in pairs:
        lengths = math.sqrt(dot(u, u)) * math.sqrt(dot(v, v))
        angles.append(1 - dot(u, v) / lengths if lengths else float(dot(u, u) != dot(v, v)))
    return {
        "euclidean": sum(math.sqrt(dot(d, d)) for d in differences) / len(pairs),
        "manhattan": sum(sum(abs(x) for x in d) for d in differences) / len(pairs),
        "cosine": sum(angles) / len(pairs),
    }
