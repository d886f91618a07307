"""How far two outputs are apart."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, isfinite, log10, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PIECE = 1 << 17
"""Numbers that are compared at a time: in float64 they stay in a core's own cache."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The distance of a candidate's output from the original's."""

    max_abs: float
    relative_l2: float
    """|difference| / |original|; infinite where one has NaN or infinity and the other has not the same."""
    psnr: float
    """Decibels; the peak is the original's largest absolute value. Infinite for equal outputs."""
    cosine: float


class Distance:
    """Sums over any number of outputs."""

    def __init__(self) -> None:
        self.count = 0
        self.largest = self.peak = 0.0
        self.error = self.ours = self.theirs = self.product = 0.0

    def add(self, original: "torch.Tensor", candidate: "torch.Tensor") -> None:
        one, two = original.flatten(), candidate.flatten()
        for at in range(0, one.numel(), PIECE):
            self.add_piece(one[at : at + PIECE].double(), two[at : at + PIECE].double())

    def add_piece(self, one: "torch.Tensor", two: "torch.Tensor") -> None:
        import torch

        self.count += one.numel()
        apart = one - two
        sums = [float(apart @ apart), float(one @ one), float(two @ two), float(one @ two)]
        if not all(map(isfinite, sums)):  # NaN or infinity in one of them: equal where both have the same
            same = (one == two) | (one.isnan() & two.isnan())
            apart = torch.where(same, 0.0, apart).nan_to_num(nan=inf, posinf=inf, neginf=-inf)
            one, two = torch.where(one.isfinite(), one, 0.0), torch.where(two.isfinite(), two, 0.0)
            sums = [float(apart @ apart), float(one @ one), float(two @ two), float(one @ two)]
        self.largest = max(self.largest, extent(apart))
        self.peak = max(self.peak, extent(one))
        self.error += sums[0]
        self.ours += sums[1]
        self.theirs += sums[2]
        self.product += sums[3]

    def figures(self) -> Figures:
        if not self.largest:
            return Figures(0.0, 0.0, inf, 1.0)
        if not isfinite(self.error) or not self.ours:
            return Figures(self.largest, inf, -inf, 0.0)
        noise = sqrt(self.error / self.count)
        both = sqrt(self.ours) * sqrt(self.theirs)
        return Figures(
            self.largest,
            sqrt(self.error / self.ours),
            20 * log10(self.peak / noise) if noise else inf,
            self.product / both if both else 0.0,
        )


def extent(values: "torch.Tensor") -> float:
    """The largest absolute value."""
    low, high = values.aminmax()
    return max(-float(low), float(high))


def figures(pairs: "Iterable[tuple[torch.Tensor, torch.Tensor]]") -> Figures:
    """Of several outputs taken together."""
    distance = Distance()
    for original, candidate in pairs:
        distance.add(original, candidate)
    return distance.figures()
