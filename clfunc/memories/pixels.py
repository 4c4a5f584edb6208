"""Images kept as bytes, at a quarter of their size: any memory of images that were stored so.

A data set of whole numbers from 0 to 255 reaches a step as `(pixel - mean) / std`. The memory keeps
`pixel`, and gives back the same float32 numbers, bit for bit.
"""

import torch
from torch import Tensor

from clfunc.types import Batch, Key, Memory, State


def pixels(inner: Memory, mean: float, std: float) -> Memory:
    """`inner`, which keeps examples as bytes.

    Args:
        inner: Any memory.
        mean: Of all pixels, as the scenario has it: `pixels(inner, *scenario.pixels)`.
        std: Of all pixels, > 0.

    Raises:
        ValueError: A `std` that is not above 0.

    >>> import torch
    >>> from clfunc import memories
    >>> memory = memories.pixels(memories.reservoir(500), 72.9, 90.0)
    >>> memory.settings["capacity"]
    500
    """
    if not std > 0:
        raise ValueError(f"std must be above 0, given {std}")

    def scale(like: Tensor) -> tuple[Tensor, Tensor]:
        # as the scenario has them: float64 numbers, rounded to float32
        centre = torch.tensor(mean, dtype=torch.float64, device=like.device)
        spread = torch.tensor(std, dtype=torch.float64, device=like.device)
        return centre.to(torch.float32), spread.to(torch.float32)

    def init(key: Key, blank: Batch) -> State:
        return inner.init(key, blank._replace(x=blank.x.to(torch.uint8)))

    def add(s: State, batch: Batch) -> State:
        centre, spread = scale(batch.x)
        whole = (batch.x.to(torch.float32) * spread + centre).round().clamp(0, 255)
        return inner.add(s, batch._replace(x=whole.to(torch.uint8)))

    def rows(s: State) -> Batch:
        kept = inner.rows(s)
        centre, spread = scale(kept.x)
        return kept._replace(x=(kept.x.to(torch.float32) - centre) / spread)

    settings = inner.settings | {"pixels": [float(mean), float(std)]}
    return inner._replace(init=init, add=add, rows=rows, settings=settings)
