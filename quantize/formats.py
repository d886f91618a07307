"""The narrow formats as data: their bits, their range, and what stands for infinity and for NaN."""

from dataclasses import dataclass
from typing import Literal

Name = Literal["float64", "float32", "float16", "bfloat16", "float8_e4m3", "float8_e5m2"]
"""What numkong calls a dtype."""


@dataclass(frozen=True, slots=True)
class Format:
    """A binary floating point format of one or two bytes."""

    name: str
    """A key of tensor.BITS."""
    kernel: Name
    codes: str
    """Its bits, as a numpy dtype."""
    sign: int
    normal: int
    """The bits of the smallest normal number: what is smaller is zero or subnormal."""
    largest: int
    """The bits of the largest finite value."""
    infinity: int | None
    """None where the format has no infinity: there one in the source is a value beyond the range."""
    nan: int
    nan_keeps: int
    """How far a NaN of F32 is shifted to the right to become the low bits of this one; 0 where none are kept."""
    nan_signed: bool
    maximum: float
    """The largest finite value."""
    limit: float
    """The smallest positive F32 that rounds to something beyond `maximum`."""


# NaN as torch 2.13 writes it: F16 keeps the upper bits of the payload, FP8 the sign, BF16 nothing.
FORMATS: dict[str, Format] = {
    "F16": Format("F16", "float16", "<u2", 0x8000, 0x0400, 0x7BFF, 0x7C00, 0x7E00, 13, True, 65504.0, 65520.0),
    "BF16": Format(
        "BF16", "bfloat16", "<u2", 0x8000, 0x0080, 0x7F7F, 0x7F80, 0xFFFF, 0, False,
        float.fromhex("0x1.fep127"), float.fromhex("0x1.ffp127"),
    ),
    "F8_E4M3": Format(
        "F8_E4M3", "float8_e4m3", "u1", 0x80, 0x08, 0x7E, None, 0x7F, 0, True,
        448.0, float.fromhex("0x1.d00002p8"),  # 464 itself is a tie, and goes to the even 448
    ),
    "F8_E5M2": Format("F8_E5M2", "float8_e5m2", "u1", 0x80, 0x04, 0x7B, 0x7C, 0x7F, 0, True, 57344.0, 61440.0),
}  # fmt: skip

# What is read as a number and cast: with its name in numkong and as a numpy dtype of its bits.
SOURCES: dict[str, tuple[Name, str]] = {
    "F64": ("float64", "<f8"), "F32": ("float32", "<f4"), "F16": ("float16", "<u2"), "BF16": ("bfloat16", "<u2"),
}  # fmt: skip
