"""Make values near zero zero: exactly those below a limit, on the bits, inside the buffer that they flow through."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite, sqrt
from typing import Any

from ckptool.convert.numbers import decoded
from ckptool.tensor import BITS

# Dtypes with values that can be near zero, each with the bits of its infinity, or of the first NaN where it has none.
TOP: dict[str, int] = {
    "F64": 0x7FF0000000000000, "F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80, "F8_E5M2": 0x7C, "F8_E4M3": 0x7F,
}  # fmt: skip
# The first bits that are NaN.
NAN: dict[str, int] = {dtype: top + (dtype != "F8_E4M3") for dtype, top in TOP.items()}
BLOCK = 1 << 16
"""Elements that are looked at together: what is computed of them stays in the cache."""


@dataclass(slots=True, eq=False)
class Tally:
    """What became zero in one component. Several threads add to it."""

    total: int = 0
    """Values in all tensors that were looked at."""
    zeroed: int = 0
    nan: int = 0
    squares: float = 0.0
    """Sum of the squares of all finite values."""
    lost: float = 0.0
    """The same of those that became zero."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, total: int, zeroed: int, nan: int, squares: float, lost: float) -> None:
        with self.lock:
            self.total += total
            self.zeroed += zeroed
            self.nan += nan
            self.squares += squares
            self.lost += lost

    @property
    def fraction(self) -> float:
        return self.zeroed / self.total if self.total else 0.0

    @property
    def relative_error(self) -> float | None:
        """The L2 norm of what is lost over that of all; None where the squares are no numbers."""
        if not self.zeroed:
            return 0.0
        if not isfinite(self.squares) or self.squares == 0:
            return None
        return sqrt(self.lost / self.squares)


def limit_bits(dtype: str, threshold: float) -> int:
    """The smallest magnitude, as bits, that is not below `threshold`: magnitudes and bits are in the same order.

    All magnitudes of these dtypes are exact in F64, so the comparison is exact.
    """
    low, high = 0, TOP[dtype]
    while low < high:
        middle = (low + high) // 2
        if magnitude(dtype, middle) < threshold:
            low = middle + 1
        else:
            high = middle
    return low


def magnitude(dtype: str, bits: int) -> float:
    return float(decoded(bytearray(bits.to_bytes(BITS[dtype] // 8, "little")), dtype)[0])


def zeroing(dtype: str, threshold: float, tally: Tally) -> Callable[[memoryview], None]:
    """The change of a buffer of `dtype` that makes each value v with 0 < |v| < threshold zero.

    Zeros of either sign, NaN and infinity stay as they are, to the bit.
    """
    width = BITS[dtype] // 8
    mask, limit, nan = (1 << (8 * width - 1)) - 1, limit_bits(dtype, threshold), NAN[dtype]

    def change(elements: memoryview) -> None:
        import numpy

        whole = numpy.frombuffer(elements, f"<u{width}")
        for start in range(0, len(whole), BLOCK):
            bits = whole[start : start + BLOCK]
            sizes = bits & bits.dtype.type(mask)
            small = (sizes < bits.dtype.type(limit)) & (sizes > 0)
            squares = squared(sizes, dtype)
            found = int(numpy.count_nonzero(small))
            missing = int(numpy.count_nonzero(sizes >= bits.dtype.type(nan)))
            tally.add(len(bits), found, missing, total(squares), total(squares[small]) if found else 0.0)
            if found:
                bits[small] = 0

    return change


def squared(sizes: Any, dtype: str) -> Any:
    """The squares of magnitudes as F64, with 0 in the place of NaN and infinity.

    Not by BLAS, which would bring threads of its own into those of the writer.
    """
    import numpy

    with numpy.errstate(invalid="ignore", over="ignore", under="ignore"):  # signalling NaN; what F64 cannot square
        numbers = decoded(bytearray(sizes.tobytes()), dtype).astype(numpy.float64)
        if int(sizes.max()) >= TOP[dtype]:
            numbers[sizes >= sizes.dtype.type(TOP[dtype])] = 0.0
        numbers *= numbers
    return numbers


def total(squares: Any) -> float:
    import numpy

    with numpy.errstate(over="ignore"):
        return float(squares.sum())
