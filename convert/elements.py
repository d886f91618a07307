"""Changes to elements that a file asks for: byte order, and torch's conjugate and negative bits."""

from collections.abc import Callable
from functools import cache
from typing import Any

from ckptool.tensor import BITS

Change = Callable[[memoryview], None]
SIGNED = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "C64": 4}
"""Width of the number that carries a sign."""


@cache  # one function for the same change, so that tied tensors are seen to be tied
def change(dtype: str, swap: bool, conj: bool, neg: bool) -> Change | None:
    """What to do with the bytes of whole elements, in place; None when nothing is."""
    width = 4 if dtype == "C64" else BITS[dtype] // 8
    swap = swap and width > 1
    if not (swap or conj or neg):
        return None

    def apply(buffer: memoryview) -> None:
        if swap:
            numbers(buffer, width).byteswap(inplace=True)
        if neg:
            flip_signs(numbers(buffer, SIGNED[dtype]))
        if conj:
            flip_signs(numbers(buffer, 4)[1::2])

    return apply


def numbers(buffer: memoryview, width: int) -> Any:
    """The bytes as unsigned integers of `width` bytes, in place."""
    import numpy  # only files that need it pay for the import

    return numpy.frombuffer(buffer, dtype=f"<u{width}")


def flip_signs(values: Any) -> None:
    values ^= values.dtype.type(1 << (values.dtype.itemsize * 8 - 1))
