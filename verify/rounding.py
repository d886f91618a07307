"""The exact rounding of numbers to a narrower format, worked out from the format's definition.

The commands that cast have kernels of their own; what is held against their output here is not made by them.
"""

from functools import cache
from typing import Any

from ckptool.convert.numbers import decoded
from ckptool.tensor import BITS

FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
"""What is compared as numbers; everything else is compared as it is stored."""
# The largest finite value, and the smallest that no longer rounds to a finite one.
RANGE: dict[str, tuple[float, float]] = {
    "F64": (float.fromhex("0x1.fffffffffffffp1023"), float("inf")),
    "F32": (float.fromhex("0x1.fffffep127"), float.fromhex("0x1.ffffffp127")),
    "F16": (65504.0, 65520.0),
    "BF16": (float.fromhex("0x1.fep127"), float.fromhex("0x1.ffp127")),
    "F8_E4M3": (448.0, 464.0),  # 464 itself is a tie, and goes to the even 448
    "F8_E5M2": (57344.0, 61440.0),
}
UNSIGNED = {8: "u1", 16: "<u2", 32: "<u4", 64: "<u8"}


def codes_of(piece: Any, dtype: str) -> Any:
    """The bits of whole elements as unsigned numbers, in place."""
    import numpy

    return numpy.frombuffer(piece, UNSIGNED.get(BITS[dtype], "u1"))


def numbers_of(codes: Any, dtype: str) -> Any:
    """The numbers behind the bits of a float format: F64 as they are, all narrower ones as F32, exactly."""
    import numpy

    match dtype:
        case "F64" | "F32":
            return codes.view(f"<f{BITS[dtype] // 8}")
        case "F16":
            return codes.view("<f2").astype("<f4")
        case "BF16":
            return (codes.astype("<u4") << 16).view("<f4")
        case _:
            return table(dtype)[codes.astype(numpy.intp)]


@cache
def table(dtype: str) -> Any:
    """The number behind each of the 256 codes of an FP8 format."""
    return decoded(bytearray(range(256)), dtype)


def rounded(numbers: Any, dtype: str) -> Any:
    """The codes of numbers (F32 or F64) in a format, to nearest, ties to even. What a NaN becomes is not defined."""
    import numpy

    with numpy.errstate(all="ignore"):
        match dtype:
            case "F64" | "F32" | "F16":
                width = BITS[dtype] // 8
                return numpy.ascontiguousarray(numbers).astype(f"<f{width}").view(f"<u{width}")
            case "BF16":
                bits = numpy.ascontiguousarray(numbers).astype("<f4").view("<u4")
                even = bits >> 16 & 1
                return ((bits.astype("<u8") + 0x7FFF + even) >> 16).astype("<u2")
            case _:
                return to_fp8(numbers, dtype)


def to_fp8(numbers: Any, dtype: str) -> Any:
    """By the middles between neighbouring values: how many of them lie below a number is its code."""
    import numpy

    middles = middles_of(dtype)
    sizes = numpy.abs(numbers).astype("<f8")
    codes = numpy.searchsorted(middles, sizes)
    tie = codes < len(middles)
    tie[tie] = middles[codes[tie]] == sizes[tie]
    codes += tie & (codes % 2 == 1)  # between an odd code and the next: the next is even
    return (codes | numpy.where(numpy.signbit(numbers), 0x80, 0)).astype("u1")


@cache
def middles_of(dtype: str) -> Any:
    """Between each magnitude and the next, the one that would follow the largest among them."""
    import numpy

    largest = RANGE[dtype][0]
    finite = [float(value) for value in table(dtype)[:0x80] if value <= largest]
    beyond = 2 * RANGE[dtype][1] - largest
    values = numpy.array([*finite, beyond])
    return (values[1:] + values[:-1]) / 2


def is_beyond(numbers: Any, dtype: str) -> Any:
    """Which numbers a format has no finite value for, infinities among them; NaN is not one."""
    import numpy

    largest, limit = RANGE[dtype]
    sizes = numpy.abs(numbers)
    return sizes > limit if dtype == "F8_E4M3" else (sizes >= limit) & (sizes > largest)
