"""How large the weights of each component are: a histogram over powers of two, made while they are compared."""

import threading
from dataclasses import dataclass, field
from typing import Any

from ckptool.verify.difference import Change
from ckptool.verify.rounding import numbers_of

LOWEST, HIGHEST = -40, 24
"""Powers of two: smaller values fall into the first bin, larger ones and infinities into the last."""
BINS = HIGHEST - LOWEST
BIAS = 127


@dataclass(slots=True)
class Bins:
    """Of one component in one file."""

    zeros: int = 0
    nan: int = 0
    counts: list[int] = field(default_factory=lambda: [0] * BINS)
    """Values v with 2^(LOWEST+i) <= |v| < 2^(LOWEST+i+1)."""


@dataclass(slots=True, eq=False)
class Histograms:
    """By component, for the original and the candidate. Several threads add to it."""

    original: dict[str, Bins] = field(default_factory=dict)
    candidate: dict[str, Bins] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, component: str, original: Any, candidate: Any, change: Change) -> None:
        if not change.as_numbers:
            return
        found = [counted(original, change.before), counted(candidate, change.after)]
        with self.lock:
            for side, (zeros, nan, counts) in zip((self.original, self.candidate), found, strict=True):
                bins = side.setdefault(component, Bins())
                bins.zeros += zeros
                bins.nan += nan
                bins.counts = [one + int(other) for one, other in zip(bins.counts, counts, strict=True)]


def counted(codes: Any, dtype: str) -> tuple[int, int, Any]:
    """Zeros, NaN, and the values of each bin, told by the exponents of F32."""
    import numpy

    with numpy.errstate(all="ignore"):
        numbers = numbers_of(codes, dtype)
        bits = numpy.ascontiguousarray(numbers, "<f4").view("<u4") & 0x7FFFFFFF
    nan = int(numpy.count_nonzero(bits > 0x7F800000))
    zeros = int(numpy.count_nonzero(bits == 0))
    places = numpy.clip((bits >> 23).astype(numpy.intp) - (BIAS + LOWEST), 0, BINS - 1)
    counts = numpy.bincount(places, minlength=BINS)
    counts[0] -= zeros
    counts[BINS - 1] -= nan
    return zeros, nan, counts
