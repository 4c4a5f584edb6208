"""The kernel: what a step of every algorithm is made of.

    value     = the loss of the batch
    objective = value + what the algorithm adds + the terms' losses + the terms' penalties
    gradient  = d (objective without penalties) + d penalties      penalties are of params alone
    updates   = tx(push(gradient));   after = hold(params + updates)
    each term sees (params, after, the gradient without penalties);   the memory takes the batch in

Whatever reads the memory reads it as it was before the step. `push` and `hold` are the algorithm's
own (HAT's equation 4 and its clamp). Terms see only the groups of params that tasks share.
"""

import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value

from clfunc import tree
from clfunc.compose.context import Network, Store, context_of, seen
from clfunc.compose.wrapping import forget_groups
from clfunc.random import fold_in
from clfunc.settings import of_part, values_of
from clfunc.types import (
    Bank,
    Batch,
    Context,
    Key,
    Logits,
    Memory,
    Metrics,
    Model,
    Output,
    Params,
    Settings,
    State,
    Task,
    Term,
    Transform,
)

# Annotations of functions inside a step are names, since Dynamo cannot subscript a type.
_Objective = tuple[Tensor, tuple[Output, Tensor, Metrics]]
_Sum = tuple[Tensor, Metrics]
_TERMS, _MEMORY = 1, 2  # what the key of a run is folded with, so that no other draw moves
# What a memory can note of an example, by name.
_NOTES: dict[str, Callable[[Output], Tensor]] = {"logits": lambda output: output.logits}


class PartsState(NamedTuple):
    """What terms and memory keep. An algorithm without them keeps () in its place."""

    terms: dict[str, State]
    memory: State
    step: Tensor  # steps done in all: it numbers the draws from the memory


class Parts(NamedTuple):
    """The parts of an algorithm. Static; `bound` makes them."""

    model: Model
    tx: Transform
    terms: tuple[Term, ...]
    memory: Memory | None
    loss: Callable[[Logits, Batch], Tensor]
    parked: tuple[str, ...]  # groups of params that are one task's at a time

    def init(self, key: Key, params: Params) -> State:
        """The state of terms and memory, from the key of the run."""
        if not self.terms and self.memory is None:
            return ()
        terms = {}
        for term in self.terms:
            own = fold_in(key, _TERMS, _number(term))
            terms[term.name] = term.init(own, self.shared(params), self.model)
        memory: State = ()
        if self.memory is not None:
            memory = self.memory.init(fold_in(key, _MEMORY), self._blank(params))
        step = torch.zeros((), dtype=torch.int64, device=key.device)
        return PartsState(terms=terms, memory=memory, step=step)

    def shared(self, params: Params) -> Params:
        """The groups of params that tasks share, which are all that a term sees."""
        return {group: part for group, part in params.items() if group not in self.parked}

    def step(
        self,
        params: Params,
        state: State,
        batch: Batch,
        network: Network,
        noise: Key | None = None,
    ) -> tuple[Params, State, Metrics]:
        """One step.

        Args:
            params: All params.
            state: The algorithm's, with the fields `opt` and `parts`.
            batch: The batch.
            network: The network as the algorithm runs it.
            noise: A key for dropout; None for none.

        Returns:
            The params after the step, the state with both fields moved on, and the metrics.
        """
        own = state.parts
        gradient, (output, value, metrics) = self._gradient(params, own, batch, network, noise)
        everything, metrics = self._with_penalties(gradient, params, own, metrics)

        context = self._context(params, own, batch, network)
        context = seen(context, output, value=value)
        updates, opt = self.tx.update(network.push(everything), state.opt, params, context)
        updates = self._without_absent_rows(updates, gradient, own, batch)
        after = network.hold(params, tree.add(params, updates))

        metrics = metrics | self.tx.metrics(opt)
        own = self._after_step(own, params, after, gradient, context)
        return after, state._replace(opt=opt, parts=own), metrics

    def begin_task(self, params: Params, state: State, task: Task) -> State:
        """The algorithm's state as a task begins, with the task's own groups in params.

        The transform restarts, and what it knows of another task's groups is cleared.
        """
        opt = self.tx.begin_task(state.opt, params)
        opt = forget_groups(self.tx, opt, self.parked)

        def begun(term: Term, s: State) -> State:
            return term.begin_task(s, self.shared(params), task)

        return state._replace(opt=opt, parts=self._each_term(state.parts, begun))

    @property
    def reviews(self) -> bool:
        """Whether any part looks at the examples of a finished task."""
        return self.tx.review is not None or any(term.review for term in self.terms)

    def review(self, params: Params, state: State, batch: Batch, network: Network) -> State:
        """The algorithm's state after a batch of the review of a task."""
        context = self._context(params, state.parts, batch, network)

        def reviewed(term: Term, s: State) -> State:
            return term.review(s, self.shared(params), context) if term.review else s

        own = self._each_term(state.parts, reviewed)
        opt = state.opt
        if self.tx.review is not None:
            opt = self.tx.review(opt, params, context)
        return state._replace(opt=opt, parts=own)

    def end_task(self, params: Params, state: State) -> State:
        """The algorithm's state as a task ends, with the task's own groups in params."""

        def ended(term: Term, s: State) -> State:
            return term.end_task(s, self.shared(params))

        opt = self.tx.end_task(state.opt, params)
        return state._replace(opt=opt, parts=self._each_term(state.parts, ended))

    def forget(self, state: State, forgotten: Tensor) -> State:
        """The state of parts as if these tasks had taught them nothing. `forgotten` is Bool[tasks].

        A part without `forget` keeps its state: `amnesiac` refuses one that remembers tasks.
        """
        state = self._each_term(
            state, lambda term, s: term.forget(s, forgotten) if term.forget else s
        )
        if self.memory is not None and self.memory.forget is not None:
            state = state._replace(memory=self.memory.forget(state.memory, forgotten))
        return state

    @property
    def banks(self) -> dict[str, Bank]:
        """The bank of the field `parts`: restoring it lets the parts forget; none without parts."""
        if not self.terms and self.memory is None:
            return {}

        def init(key: Key, params: Params) -> State:
            raise TypeError("the state of parts is made by their own init")

        def restore(
            params: Params, state: State, rows: Params, forgotten: Tensor
        ) -> tuple[Params, State]:
            return params, self.forget(state, forgotten)

        return {"parts": Bank(init=init, restore=restore)}

    @property
    def settings(self) -> Settings:
        """The settings of the model and of all parts, terms by their names."""
        found: Settings = {
            "model": of_part(self.model, self.model.apply),
            "tx": of_part(self.tx, self.tx.update),
        }
        if self.terms:
            found["terms"] = {term.name: of_term(term) for term in self.terms}
        if self.memory is not None:
            found["memory"] = of_part(self.memory, self.memory.add)
            found["mixes"] = True
        return found

    def _context(
        self,
        params: Params,
        state: State,
        batch: Batch,
        network: Network,
        noise: Key | None = None,
    ) -> Context:
        store = Store(memory=None, state=(), step=())
        if state != ():
            store = Store(memory=self.memory, state=state.memory, step=state.step)
        return context_of(network, self.loss, store, self.model.wires, params, batch, noise)

    def _gradient(
        self, params: Params, state: State, batch: Batch, network: Network, noise: Key | None
    ) -> tuple[Params, tuple[Output, Tensor, Metrics]]:
        """The gradient of all but the penalties; the output, the batch's own loss, the metrics."""
        losses = [term for term in self.terms if term.loss is not None]

        def objective(params: Params) -> _Objective:
            output = network.forward(params, batch, noise)
            logits = network.mask(output.logits, batch.task)
            value = self.loss(logits, batch)
            metrics = {"loss": value} | self.model.head.measure(logits, batch.y, batch.weight)
            total = value
            if network.extra is not None:
                more, named = network.extra(output)
                total = value + more
                metrics = metrics | named
            for term in losses:
                own = None if noise is None else fold_in(noise, _number(term))
                live = self._context(params, state, batch, network, own)
                live = live._replace(output=output, value=value)
                assert term.loss is not None
                one = term.loss(state.terms[term.name], self.shared(params), live)
                total = total + _one_number(one, term, "loss")
                metrics[term.name] = one
            if total is not value:
                metrics["objective"] = total
            return total, (output, value, metrics)

        gradient, (_, found) = grad_and_value(objective, has_aux=True)(params)
        return gradient, tree.map(torch.detach, found)

    def _with_penalties(
        self, gradient: Params, params: Params, state: State, metrics: Metrics
    ) -> tuple[Params, Metrics]:
        """The gradient and the metrics with the terms' penalties."""
        penalties = [term for term in self.terms if term.penalty is not None]
        if not penalties:
            return gradient, metrics

        def sum_of(params: Params) -> _Sum:
            each = {}
            for term in penalties:
                assert term.penalty is not None
                one = term.penalty(state.terms[term.name], params)
                each[term.name] = _one_number(one, term, "penalty")
            return torch.stack(list(each.values())).sum(), each

        pull, (total, each) = grad_and_value(sum_of, has_aux=True)(self.shared(params))
        gradient = gradient | tree.add(self.shared(gradient), pull)
        objective = metrics.get("objective", metrics["loss"]) + total.detach()
        return gradient, metrics | tree.map(torch.detach, each) | {"objective": objective}

    def _without_absent_rows(
        self, updates: Params, gradient: Params, state: State, batch: Batch
    ) -> Params:
        """Updates with zeros for what is a task's own and lies side by side in params, where the
        task is neither in the batch nor in the memory, and no term's loss depends on it.
        """
        rows = self.model.head.spec.rows
        if not rows:
            return updates
        count = self.model.head.num_tasks
        here = _tasks_of(batch, count)
        if self.memory is not None:
            here = here | _tasks_of(self.memory.rows(state.memory), count)
        if any(term.loss for term in self.terms):
            for leaf in tree.leaves([gradient[group] for group in rows]):
                here = here | leaf.flatten(1).any(1)
        still = {}
        for group in rows:
            part = updates[group]
            still[group] = tree.where(here, part, tree.zeros_like(part))
        return updates | still

    def _after_step(
        self, state: State, before: Params, after: Params, gradient: Params, context: Context
    ) -> State:
        """The state of the parts after a step from `before` to `after`."""
        if state == ():
            return state
        views = self.shared(before), self.shared(after), self.shared(gradient)

        def seeing(term: Term, s: State) -> State:
            return term.after_step(s, *views, context) if term.after_step else s

        state = self._each_term(state, seeing)
        if self.memory is not None:
            batch = self._noted(context.batch, context.output)
            state = state._replace(memory=self.memory.add(state.memory, batch))
        return state._replace(step=state.step + 1)

    def _each_term(self, state: State, hook: Callable[[Term, State], State]) -> State:
        if state == ():
            return state
        terms = {term.name: hook(term, state.terms[term.name]) for term in self.terms}
        return state._replace(terms=terms)

    @property
    def _notes(self) -> list[str]:
        """What the memory is to note of each example."""
        return list(dict.fromkeys(values_of(self.settings, "notes")))

    def _noted(self, batch: Batch, output: Output) -> Batch:
        """The batch as a memory takes it: flat examples, each with its task and its notes."""
        n = len(batch.weight)
        notes = {name: _NOTES[name](output) for name in self._notes}
        return batch._replace(x=batch.x.reshape(n, -1), task=batch.task.expand(n), notes=notes)

    def _blank(self, params: Params) -> Batch:
        """A batch of one example of zeros, as the memory keeps examples."""
        assert self.model.inputs is not None  # `bound` refuses a memory without it
        head, like = self.model.head, params["head"]["weight"]
        shape, dtype = self.model.inputs
        label = torch.zeros(1, dtype=torch.int64, device=like.device)
        of_outputs = like.new_zeros(1, head.classes)
        output = Output(logits=of_outputs, features={})
        wide = torch.promote_types(like.dtype, torch.float32)
        return Batch(
            x=torch.zeros(1, math.prod(shape), dtype=dtype, device=like.device),
            y=of_outputs if head.paradigm == "regression" else label,
            task=label,
            weight=torch.zeros(1, dtype=wide, device=like.device),
            rows=label,
            notes={name: _NOTES[name](output) for name in self._notes},
        )


def of_term(term: Term) -> Settings:
    """The settings of a term; where it declares none, the functions that it is made of."""
    if term.settings:
        return term.settings
    functions: dict[str, Any] = {}
    for name, field in term._asdict().items():
        if callable(field):
            functions[name] = field
    return functions


def _one_number(value: Tensor, term: Term, what: str) -> Tensor:
    """The value, if it is 0-d."""
    if value.ndim:
        raise ValueError(
            f"the {what} of {term.name} must be one number, given the shape {list(value.shape)}"
        )
    return value


def _number(term: Term) -> int:
    """A number that tells a term's draws from those of others, wherever it stands."""
    return zlib.crc32(term.name.encode())


def _tasks_of(batch: Batch, count: int) -> Tensor:
    """Which tasks have an example that counts, `Bool[count]`."""
    task = batch.task.reshape(-1, 1) == torch.arange(count, device=batch.weight.device)
    return (task & (batch.weight > 0)[:, None]).any(0)
