"""A step as the list of its tensor operations, found by running it on tensors without data.

`make_fx` sees through `vmap` and `grad`, so it finds a straight line of tensor operations. Run one
after the other, they give the bits that the step gives, without the Python around them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from clfunc import tree

# Operations that `torch` has under the same name, with the same arguments. A call of it takes half
# the time of a call by `torch.ops`.
_IN_TORCH = """abs add addcmul addmm bmm clamp cosh div eq exp ge gt le log lt maximum mean minimum
mm mul ne neg reciprocal relu remainder rsub scalar_tensor sigmoid sqrt stack sub sum t transpose
unsqueeze where""".split()  # noqa: SIM905
_IN_TENSOR = ("detach", "expand", "view")  # the same for methods of tensors


def traced(f: Callable[..., Any], leaves: tuple[Tensor, ...]) -> fx.GraphModule:
    """The operations of `f(*leaves)`."""
    # `make_fx` takes a tensor that comes twice for one leaf; `detach` makes two objects of it
    apart = [leaf.detach() for leaf in leaves]
    return make_fx(f, tracing_mode="fake", _allow_non_fake_inputs=True)(*apart)


class Operations:
    """One step as a list of operations, which is found at its first call."""

    def __init__(
        self,
        step: Callable[[Any, Any], tuple[Any, Any]],
        carry: Any,
        x: Any,
    ) -> None:
        """`carry` and `x` are the structures of what the step takes."""
        self.step = step
        self.inputs = (carry, x)
        self.graph: fx.GraphModule | None = None
        self.carry: Any = None  # the structures of what the step returns
        self.ys: Any = None

    def run(self, leaves: list[Tensor]) -> list[Tensor]:
        """The leaves of the next carry, then those of y, for the leaves of a carry and of an x."""
        if self.graph is None:
            self.graph = simplified(traced(self._flat, tuple(leaves)))
        return self.graph(*leaves)

    def _flat(self, *leaves: Tensor) -> list[Tensor]:
        carry_structure, x_structure = self.inputs
        count = carry_structure.num_leaves
        carry = tree.unflatten(list(leaves[:count]), carry_structure)
        x = tree.unflatten(list(leaves[count:]), x_structure)
        carry, y = self.step(carry, x)
        carry_leaves, self.carry = tree.flatten(carry)
        y_leaves, self.ys = tree.flatten(y)
        return [*carry_leaves, *y_leaves]


def simplified(graph: fx.GraphModule) -> fx.GraphModule:
    """Removes dead and duplicate operations and calls torch directly; the result is bit-identical.

    Writes to `graph`.
    """
    graph.graph.eliminate_dead_code()
    calls = _calls(graph)
    # two operations that look the same differ if a tensor that they read is written in between
    if not any(operation._schema.is_mutable for _, operation in calls):
        _merge_duplicates(graph)
    for node, operation in _calls(graph):
        name = operation.overloadpacket.__name__
        if name in _IN_TORCH:
            node.target = getattr(torch, name)
        elif name in _IN_TENSOR:
            node.target = getattr(Tensor, name)
    graph.recompile()
    return graph


def _merge_duplicates(graph: fx.GraphModule) -> None:
    """Computes each operation once. torch's own pass takes 0.0 for -0.0; `repr` does not."""
    known: dict[str, fx.Node] = {}
    for node, operation in _calls(graph):
        if torch.Tag.nondeterministic_seeded in operation.tags:
            continue
        first = known.setdefault(repr((operation, node.args, node.kwargs)), node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.graph.erase_node(node)


def keep_copies(graph: fx.GraphModule) -> fx.GraphModule:
    """The same operations, with two negations in place of each clone. Writes to `graph`.

    Inductor drops a clone even if its source is written before the clone is read. It keeps
    negations, and two of them change no bit.
    """
    for node, operation in _calls(graph):
        if operation is not torch.ops.aten.clone.default or node.kwargs:
            continue
        negation = _negation(node.meta["val"])
        with graph.graph.inserting_before(node):
            once = graph.graph.call_function(negation, node.args)
            twice = graph.graph.call_function(negation, (once,))
        node.replace_all_uses_with(twice)
        graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _negation(value: Tensor) -> torch._ops.OpOverload:
    """An operation that gives `value` back when it is done twice, whatever the bits are."""
    if value.is_floating_point():
        return torch.ops.aten.neg.default
    return torch.ops.aten.bitwise_not.default


def _calls(graph: fx.GraphModule) -> list[tuple[fx.Node, torch._ops.OpOverload]]:
    found = []
    for node in graph.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            found.append((node, node.target))
    return found
