"""A step as the list of operations that it comes to, found by running it on tensors without data.

`make_fx` sees through `vmap` and `grad`, so what it finds is a straight line of tensor operations. Run one after the other they
give what the step gives, to the bit, without the Python around them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from clfunc import tree

# operations that `torch` offers under the same name, with the same arguments, in half the time of a call by `torch.ops`
_OFFERED = """abs add addcmul addmm bmm clamp cosh div eq exp ge gt le log lt maximum mean minimum mm mul ne neg reciprocal relu
remainder rsub scalar_tensor sigmoid sqrt stack sub sum t transpose unsqueeze where""".split()  # noqa: SIM905
_METHODS = ("detach", "expand", "view")  # the same, of tensors


def traced(f: Callable[..., Any], leaves: tuple[Tensor, ...]) -> fx.GraphModule:
    """The operations of `f(*leaves)`."""
    apart = (
        leaf.detach() for leaf in leaves
    )  # a tensor that is given twice would be taken for one leaf
    return make_fx(f, tracing_mode="fake", _allow_non_fake_inputs=True)(*apart)


class Operations:
    """One step as a list of operations, found at its first call."""

    def __init__(self, step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, x: Any) -> None:
        self.step, self.given = step, (carry, x)  # and the forms of what it is given
        self.graph: fx.GraphModule | None = None
        self.carry: Any = None  # the form of the carry that it gives
        self.ys: Any = None

    def run(self, leaves: list[Tensor]) -> list[Tensor]:
        """The leaves of the next carry, then those of the y, for the `leaves` of a carry and an x."""
        if self.graph is None:
            self.graph = lean(traced(self._flat, tuple(leaves)))
        return self.graph(*leaves)

    def _flat(self, *leaves: Tensor) -> list[Tensor]:
        carry, x = self.given
        carry, y = self.step(
            tree.unflatten(list(leaves[: carry.num_leaves]), carry),
            tree.unflatten(list(leaves[carry.num_leaves :]), x),
        )
        found, self.carry = tree.flatten(carry)
        more, self.ys = tree.flatten(y)
        return [*found, *more]


def lean(found: fx.GraphModule) -> fx.GraphModule:
    """The same operations, to the same bits: none that nobody reads, none twice, and called without detours."""
    found.graph.eliminate_dead_code()
    if not any(op._schema.is_mutable for _, op in _calls(found)):
        _merge(found)
    for node, op in _calls(found):
        name = op.overloadpacket.__name__
        if name in _OFFERED or name in _METHODS:
            node.target = getattr(torch if name in _OFFERED else Tensor, name)
    found.recompile()
    return found


def _merge(found: fx.GraphModule) -> None:
    """Do once what is done twice. (torch's own passes take 0.0 for -0.0.)"""
    known: dict[str, fx.Node] = {}
    for node, op in _calls(found):
        if torch.Tag.nondeterministic_seeded not in op.tags:
            first = known.setdefault(repr((op, node.args, node.kwargs)), node)
            if first is not node:
                node.replace_all_uses_with(first)
                found.graph.erase_node(node)


def copying(found: fx.GraphModule) -> fx.GraphModule:
    """The same operations, where a clone is two negations: Inductor drops a clone even of what is written before it is read."""
    for node, op in _calls(found):
        if op is torch.ops.aten.clone.default and not node.kwargs:
            real = node.meta["val"].is_floating_point()
            turned = torch.ops.aten.neg.default if real else torch.ops.aten.bitwise_not.default
            with found.graph.inserting_before(node):
                once = found.graph.call_function(turned, node.args)
                node.replace_all_uses_with(found.graph.call_function(turned, (once,)))
            found.graph.erase_node(node)
    found.recompile()
    return found


def _calls(found: fx.GraphModule) -> list[tuple[fx.Node, torch._ops.OpOverload]]:
    return [
        (node, node.target)
        for node in found.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    ]
