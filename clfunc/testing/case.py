"""A case: an algorithm as the laws take it."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from clfunc.models import mlp
from clfunc.scenarios import Scenario
from clfunc.testing.play import toy_stream
from clfunc.transforms import sgd
from clfunc.types import Algorithm, Keys, Model, Transform

Make = Callable[[Model, Transform], Algorithm]


def as_it_is(scenario: Scenario) -> Scenario:
    """The arrangement that changes nothing."""
    return scenario


class Case(NamedTuple):
    """An algorithm as the laws take it.

    Fields:
        name: Name of the case.
        make: `(model, transform) -> Algorithm`, at a strength that changes what is trained.
        neutral: The same at zero strength, at which the algorithm is finetuning bit for bit.
        vary: The same with other numbers, which give another member of the same program.
        arrange: What the algorithm trains on, made of a scenario: for example `scenarios.joint`.
        is_finetuning: Whether the algorithm is finetuning by definition, at any strength.
        together: Whether its steps mix tasks, as they do with a memory.
        learns: Whether the algorithm learns more than its head.
        hidden: Widths of the hidden layers of the small network.

    >>> import clfunc as cl
    >>> from clfunc.testing import Case, laws
    >>> case = Case("finetuning", cl.finetuning, is_finetuning=True)
    >>> for law in laws.algorithm_laws[:2]:
    ...     law(case)
    """

    name: str
    make: Make
    neutral: Make | None = None
    vary: Make | None = None
    arrange: Callable[[Scenario], Scenario] = as_it_is
    is_finetuning: bool = False
    together: bool = False
    learns: bool = True
    hidden: tuple[int, ...] = (8, 6)

    def scenario(self, paradigm: str = "til", keys: Keys | None = None) -> Scenario:
        """The small scenario that the algorithm trains on.

        Args:
            paradigm: `til`, `cil` or `dil`.
            keys: `[2]` or `[runs, 2]`: draws the scenario; `key(0)` if not given.
        """
        return self.arrange(toy_stream(keys, paradigm=paradigm))

    def build(
        self,
        make: Make,
        tx: Transform,
        dtype: torch.dtype = torch.float32,
        paradigm: str = "til",
    ) -> Algorithm:
        """The algorithm on a small network.

        Args:
            make: `self.make`, `self.neutral`, `self.vary` or another.
            tx: The transform of updates.
            dtype: Type of the parameters.
            paradigm: `til`, `cil` or `dil`.
        """
        scenario = self.scenario(paradigm)
        head = scenario.head(together=self.together)
        model = mlp(scenario.inputs, self.hidden, head, dtype=dtype)
        return make(model, tx)

    def members(
        self,
        dtype: torch.dtype = torch.float32,
        momentum: float | None = 0.9,
    ) -> list[Algorithm]:
        """Three members of one program, which differ in the learning rate and in their own numbers.

        Args:
            dtype: Type of the parameters.
            momentum: Of SGD.
        """
        vary = self.vary or self.make
        return [
            self.build(self.make, sgd(0.1, momentum), dtype),
            self.build(vary, sgd(0.05, momentum), dtype),
            self.build(self.make, sgd(0.01, momentum), dtype),
        ]
