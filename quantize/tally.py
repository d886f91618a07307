"""What a cast did to the values of one tensor, counted by several threads."""

import sys
import threading
from dataclasses import dataclass, field
from math import hypot, sqrt


@dataclass(slots=True)
class Counts:
    """What one pass over some elements found."""

    elements: int = 0
    overflowed: int = 0
    """Finite before, beyond the range of the format."""
    underflowed: int = 0
    """Not zero before, zero now."""
    subnormal: int = 0
    """Left with fewer bits than the format has, since they are so small."""
    nan: int = 0
    inf: int = 0
    max_error: float = 0.0
    """Of finite values, as are both norms."""
    error_norm: float = 0.0
    norm: float = 0.0


@dataclass(slots=True)
class Tally:
    """The sum of all passes over one tensor.

    Tied tensors share one, since they are the same bytes; each that is written is one pass over them.
    """

    size: int
    """Elements of the tensor."""
    parts: list[Counts] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, counts: Counts) -> None:
        with self.lock:
            self.parts.append(counts)

    @property
    def complete(self) -> bool:
        """Whether the tensor has passed at all (on a dry run it has not)."""
        return self.size == 0 or sum(part.elements for part in self.parts) >= self.size

    def total(self) -> Counts:
        """Of one pass over the whole tensor, the same in whatever order its parts came."""
        seen = sum(part.elements for part in self.parts)
        passes = max(1, seen // self.size) if self.size else 1

        def count(name: str) -> int:
            return sum(int(getattr(part, name)) for part in self.parts) // passes

        return Counts(
            elements=seen // passes,
            overflowed=count("overflowed"),
            underflowed=count("underflowed"),
            subnormal=count("subnormal"),
            nan=count("nan"),
            inf=count("inf"),
            max_error=max((part.max_error for part in self.parts), default=0.0),
            error_norm=self.norm("error_norm", passes),
            norm=self.norm("norm", passes),
        )

    def norm(self, name: str, passes: int) -> float:
        """The norm over all parts, sorted so that the sum does not depend on which thread was first."""
        parts: list[float] = sorted(getattr(part, name) for part in self.parts)
        whole = hypot(*parts) / sqrt(passes)
        return min(whole, sys.float_info.max)

    def relative_error(self) -> float:
        """||cast - before|| / ||before||, 0 where there is nothing but zeros."""
        total = self.total()
        return total.error_norm / total.norm if total.norm else 0.0
