"""Which rank to lower a module to: a number, a share of its energy, or what stands out of its noise."""

from dataclasses import dataclass
from typing import Any, Literal

from ckptool.errors import UsageError

AUTO_ENERGY = 0.99
"""The least share of the squared singular values that `auto` holds: a relative error of at most 10 %."""
NOISE = 2.858
"""Singular values above this multiple of their median stand out of noise in a square matrix, whatever its level.

Source: Gavish and Donoho, The optimal hard threshold for singular values is 4/√3 (2014), ω(1).
"""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked for: of a rank and an energy the smaller result counts, of neither the exact rank."""

    rank: int | Literal["auto"] | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.rank, int) and self.rank < 1:
            raise UsageError(f"a rank of {self.rank}", "give a rank of 1 or more")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise UsageError(f"an energy of {self.energy}", "give a fraction above 0 and up to 1, 0.99 for example")

    @property
    def asks(self) -> bool:
        """Anything but the exact rank."""
        return self.rank is not None or self.energy is not None

    def of(self, values: Any, rows: int, columns: int) -> int:
        """The rank for singular values in descending order: at least 1, at most the number of those that are not 0."""
        rank = exact(values, rows, columns)
        if isinstance(self.rank, int):
            rank = min(rank, self.rank)
        if self.rank == "auto":
            rank = min(rank, max(standing_out(values), holding(values, AUTO_ENERGY)))
        if self.energy is not None:
            rank = min(rank, holding(values, self.energy))
        return max(rank, 1)


def exact(values: Any, rows: int, columns: int) -> int:
    """How many singular values are more than the rounding of float64."""
    import numpy

    return int((values > values[0] * (max(rows, columns) * numpy.finfo(numpy.float64).eps)).sum())


def holding(values: Any, energy: float) -> int:
    """The smallest rank whose squared singular values are at least that fraction of all."""
    tails = tails_of(values)
    return int((tails > (1 - energy) * tails[0]).sum())


def standing_out(values: Any) -> int:
    import numpy

    return int((values > NOISE * numpy.median(values)).sum())


def tails_of(values: Any) -> Any:
    """For each rank from 0 on, the squared singular values that it leaves out, relative to the largest."""
    import numpy

    peak = values[0] if values[0] > 0 else 1.0
    squares = (values / peak) ** 2
    return numpy.append(numpy.cumsum(squares[::-1])[::-1], 0.0)
