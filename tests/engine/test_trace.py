"""A step as a list of operations gives the bits that the step gives, whatever is left out of the
list.
"""

import pytest
import torch

from clfunc.engine import trace as operations

X = torch.linspace(-2, 2, 12).reshape(3, 4)
UNARY = ("abs", "cosh", "exp", "log", "neg", "reciprocal", "relu", "sigmoid", "sqrt", "t")
BINARY = (
    "div",
    "eq",
    "ge",
    "gt",
    "le",
    "lt",
    "maximum",
    "minimum",
    "mul",
    "ne",
    "remainder",
    "rsub",
    "sub",
)
OTHERS = {
    "addcmul": lambda x: torch.addcmul(x, x, x + 1, value=0.3),
    "addmm": lambda x: torch.addmm(x[:, :3], x, x.T, beta=0.5, alpha=2),
    "add": lambda x: torch.add(x, x, alpha=0.3),
    "bmm": lambda x: torch.bmm(x[None], x.T[None]),
    "clamp": lambda x: (
        torch.clamp(x, None, 0.5) + torch.clamp(x, min=-0.5) + torch.clamp(x, max=x.mean())
    ),
    "detach": lambda x: x.detach() + x,
    "expand": lambda x: x[:, None].expand(3, 2, 4) * 2,
    "mean": lambda x: x.mean(0, keepdim=True) + x.mean(1, dtype=torch.float64)[:, None],
    "mm": lambda x: x @ x.T,
    "scalar_tensor": lambda x: torch.where(x > 0, x, 3.0),
    "stack": lambda x: torch.stack([x, x + 1], 1),
    "sum": lambda x: x.sum(-1, keepdim=True) + x.sum((0, 1), dtype=torch.float64),
    "transpose": lambda x: x.transpose(0, -1),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "view": lambda x: x.view(2, 6).view(torch.int32),
    "where": lambda x: torch.where(x > 0, x, x.exp()),
}


def of_two(name):
    return lambda x: getattr(torch, name)(x, x.flip(0))


CALLS = (
    {name: getattr(torch, name) for name in UNARY}
    | {name: of_two(name) for name in BINARY}
    | OTHERS
)


def run(f, *leaves):
    return operations.simplified(operations.traced(f, leaves))(*leaves)


def count(f, *leaves):
    found = operations.simplified(operations.traced(f, leaves))
    return sum(node.op == "call_function" for node in found.graph.nodes)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def test_every_operation_that_is_called_otherwise_is_among_those_tried():
    assert CALLS.keys() == {*operations._IN_TORCH, *operations._IN_TENSOR}


@pytest.mark.parametrize("name", CALLS)
def test_an_operation_called_otherwise_gives_the_same_bits(name):
    assert same(run(CALLS[name], X), CALLS[name](X))


def test_what_is_done_twice_is_done_once():
    def f(x):
        return (x + 1).exp() * (x + 1).exp()

    assert count(f, X) == 3
    assert same(run(f, X), f(X))


def test_numbers_that_are_equal_but_not_the_same_stay_apart():
    def f(x):
        return torch.where(x > 9, x, 0.0), torch.where(x > 9, x, -0.0)

    assert [bool(part.signbit().any()) for part in run(f, X)] == [False, True]

    def g(n):
        return n + 1, n + 1.0

    assert [part.dtype for part in run(g, torch.arange(3))] == [torch.int64, torch.float32]


def test_what_differs_in_a_named_argument_alone_is_two_things():
    def f(x):
        return torch.add(x, x), torch.add(x, x, alpha=3), x.sum(0), x.sum(0, dtype=torch.float64)

    assert all(same(a, b) for a, b in zip(run(f, X), f(X), strict=True))


def test_two_draws_stay_two():
    first, second = run(lambda x: (torch.rand_like(x), torch.rand_like(x)), X)
    assert not torch.equal(first, second)


def test_what_is_written_in_place_is_nobody_elses():
    def f(x):
        a, b = torch.zeros_like(x), torch.zeros_like(x)
        return a.add_(1), b

    assert [part.sum().item() for part in run(f, X)] == [12, 0]
