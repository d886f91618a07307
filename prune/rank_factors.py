"""Two balanced factors of the first singular values, in the dtypes of a file, with the alpha that goes with them."""

from dataclasses import dataclass
from math import frexp, isfinite, sqrt
from typing import Any

from ckptool.prune.rank_choice import tails_of
from ckptool.prune.svd import Svd, Unfit, norm_of_product
from ckptool.tensor import Tensor

HALF_RANGE = (2.0**-10, 2.0**15)
"""Where the largest number of a factor in F16 should lie: others keep their digits then, and none overflows."""
MOST_SHIFT = 511
"""4 to its power is still finite in float64."""
INTEGERS = {"U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8", "U64": "<u8"}
FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True, slots=True)
class Frame:
    """What the factors are written as."""

    up_dtype: str
    down_dtype: str
    alpha_dtype: str | None
    """None where the file has no alpha, so that the scale is 1 whatever the rank."""


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """alpha / rank · up · down is the update, as well as the dtypes hold it."""

    up: bytes
    down: bytes
    alpha: bytes
    alpha_value: float | None
    energy: float
    """Share of the squared singular values that the rank holds."""
    error: float
    """Frobenius norm of what the update lost, rounding included, relative to that of the update."""


def factors(svd: Svd, rank: int, scale: float, alpha: float, frame: Frame) -> Factors:
    """The first `rank` singular values of scale · svd, half of each on either side.

    `alpha` is the one wished for: what its dtype cannot say of it goes into the factors. Raises Unfit when they
    leave the range of their dtypes.
    """
    import numpy

    roots = numpy.sqrt(svd.values[:rank])
    left, right = svd.left(rank) * roots, roots[:, None] * svd.right(rank)
    code, value = b"", None
    if frame.alpha_dtype is not None:
        peak = float(max(abs(left).max(), abs(right).max()))
        code, value = alpha_of(alpha, scale * rank, peak, frame)
        scale = scale * rank / value
    half = sqrt(abs(scale))
    left, right = left * (half if scale > 0 else -half), right * half
    up, down = encode(left, frame.up_dtype), encode(right, frame.down_dtype)
    rounding = rounding_error(left, right, decode(up, left, frame.up_dtype), decode(down, right, frame.down_dtype))
    tail, total = float(tails_of(svd.values)[rank]), float(tails_of(svd.values)[0])
    norm = sqrt(total) * float(svd.values[0]) * abs(scale)
    share = tail / total if total else 0.0
    error = sqrt(share + (rounding / norm) ** 2) if norm else 0.0
    return Factors(up, down, code, value, 1 - share, error)


def alpha_of(alpha: float, product: float, peak: float, frame: Frame) -> tuple[bytes, float]:
    """An alpha that its dtype can say, with which the factors, `peak` at alpha = product, fit into F16."""
    assert frame.alpha_dtype is not None
    found = encode_alpha(alpha, frame.alpha_dtype)
    if "F16" in (frame.up_dtype, frame.down_dtype) and peak > 0:
        reached = peak * sqrt(abs(product / (found[1] if found else alpha)))
        if not HALF_RANGE[0] <= reached <= HALF_RANGE[1]:
            moved = encode_alpha(alpha * 4.0 ** min(frexp(reached)[1], MOST_SHIFT), frame.alpha_dtype)
            found = moved or found
    if found is None:
        raise Unfit(f"its alpha would be {alpha:g}, which {frame.alpha_dtype} cannot say")
    return found


def encode_alpha(value: float, dtype: str) -> tuple[bytes, float] | None:
    """The bytes of an alpha and what they say; None where nothing near it can be said (0 and infinity are not near)."""
    import numpy

    if not isfinite(value):
        return None
    if dtype in INTEGERS:
        limits = numpy.iinfo(INTEGERS[dtype])
        whole = max(round(value), 1) if value > 0 else min(round(value), -1)
        return (numpy.array(whole, INTEGERS[dtype]).tobytes(), whole) if limits.min <= whole <= limits.max else None
    if dtype not in FLOATS and dtype != "BF16":
        return None  # no numbers to choose from
    array = numpy.array(value)
    with numpy.errstate(over="ignore", under="ignore"):
        code = cast(array, dtype)
    said = float(decode(code, array, dtype))
    return (code, said) if isfinite(said) and abs(said - value) <= abs(value) / 64 and said != 0 else None


def encode(array: Any, dtype: str) -> bytes:
    """Raises Unfit where a number becomes infinite."""
    import numpy

    with numpy.errstate(over="ignore", under="ignore"):
        code = cast(array, dtype)
    if not numpy.isfinite(decode(code, array, dtype)).all():
        raise Unfit(f"its factors leave the range of {dtype}")
    return code


def cast(array: Any, dtype: str) -> bytes:
    """Numbers rounded to the nearest, ties to even, in row-major order."""
    import numpy

    if dtype == "BF16":
        bits = numpy.ascontiguousarray(array, "<f4").view("<u4")
        return bytes(((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes())
    return bytes(numpy.ascontiguousarray(array, FLOATS[dtype]).tobytes())


def decode(code: bytes, like: Any, dtype: str) -> Any:
    from ckptool.convert.numbers import decoded

    return decoded(bytearray(code), dtype).reshape(like.shape).astype("<f8")


def rounding_error(left: Any, right: Any, up: Any, down: Any) -> float:
    """The norm of up·down − left·right, as (up − left)·right + up·(down − right): nothing cancels in it."""
    import numpy

    return norm_of_product(numpy.hstack([up - left, up]), numpy.vstack([right, down - right]))


def widest(tensors: list[Tensor]) -> str:
    """One float dtype that holds all of them: the dtype that they share, or F32 or F64."""
    dtypes = {tensor.dtype for tensor in tensors}
    return dtypes.pop() if len(dtypes) == 1 else "F64" if "F64" in dtypes else "F32"
