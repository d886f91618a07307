"""A few values of a tensor without numpy, whose import would take longer than everything else that inspect does."""

import struct
from math import isnan, prod
from typing import Any

from ckptool.convert.numbers import read_bytes
from ckptool.convert.sums import base_of
from ckptool.errors import CkptoolError
from ckptool.tensor import BITS, Data, Inline, Span, Tensor

FORMATS = {
    "F64": "d", "F32": "f", "F16": "e", "BF16": "H", "I64": "q", "I32": "i", "I16": "h", "I8": "b", "U64": "Q",
    "U32": "I", "U16": "H", "U8": "B",
}  # fmt: skip

MAX_INFLATED = 1 << 20
"""Bytes of a deflated record that are inflated for a few values."""


def numbers_of(tensor: Tensor, most: int) -> list[float] | list[int] | None:
    """All values of a tensor; None when there are more than `most`, or they cannot be read or are no numbers.

    None too where they are a small part of a large deflated record, all of which would have to be inflated.
    """
    if tensor.dtype not in FORMATS or prod(tensor.shape) > most or inflates_much(tensor.data):
        return None
    try:
        return decoded(bytes(read_bytes(tensor)), tensor.dtype)
    except (CkptoolError, OSError, ValueError):
        return None


def inflates_much(data: Data) -> bool:
    base = base_of(data)
    return not isinstance(base, Inline) and base.record.packed is not None and base.record.size > MAX_INFLATED


def first_bytes(tensor: Tensor, count: int) -> bytes | None:
    """The first `count` bytes of a tensor (fewer, when there are fewer); None where that takes reading more of it."""
    count = min(count, tensor.nbytes)
    data = tensor.data
    try:
        match data:
            case Span() if data.record.packed is None:
                return data.record.read(data.offset, count)
            case Inline():
                return data.data[:count]
            case _:
                return None
    except (CkptoolError, OSError):
        return None


def decoded(data: bytes, dtype: str) -> list[Any]:
    """Little-endian elements of a dtype of FORMATS as numbers. Raises ValueError when the bytes are no whole number."""
    width = BITS[dtype] // 8
    if len(data) % width:
        raise ValueError("bytes that are no whole number of elements")
    numbers: tuple[Any, ...] = struct.unpack(f"<{len(data) // width}{FORMATS[dtype]}", data)
    if dtype == "BF16":  # the upper half of an F32
        whole = b"".join(b"\0\0" + data[at : at + 2] for at in range(0, len(data), 2))
        numbers = struct.unpack(f"<{len(data) // 2}f", whole)
    return list(numbers)


def finite(numbers: list[Any], huge: float = 1e30) -> bool:
    """Whether all are numbers whose squares can be added up."""
    return all(not isnan(number) and abs(number) < huge for number in numbers)
