"""The values of tensors that are small enough to hold, as numpy numbers: for planning, never for writing."""

from math import prod
from typing import Any

from ckptool.convert.gather import pieces
from ckptool.convert.inflate import inflated
from ckptool.convert.sums import base_of
from ckptool.convert.writer import moved
from ckptool.errors import OverBudget
from ckptool.source import Memory, Record
from ckptool.tensor import BITS, Data, Inline, Span, Tensor

MOST = 1 << 28
"""Bytes that are ever held at once: more than the largest module of an adapter."""


def read_bytes(tensor: Tensor) -> bytearray:
    """All bytes of a tensor, row-major. Raises OverBudget beyond MOST."""
    if tensor.nbytes > MOST:
        raise OverBudget(f"tensor {tensor.name!r:.80}: {tensor.nbytes:,} bytes are too many to hold", "do not trust it")
    whole = bytearray(tensor.nbytes)
    for offset, piece in pieces(in_memory(tensor.data)):
        whole[offset : offset + len(piece)] = piece
    return whole


def in_memory(data: Data) -> Data:
    """Data of a deflated record moved onto its bytes; all other data as they are. Raises OverBudget beyond MOST."""
    base = base_of(data)
    if isinstance(base, Inline) or base.record.packed is None:
        return data
    record = base.record
    if record.size > MOST:
        raise OverBudget(f"{record.label}: {record.size:,} bytes are too many to hold", "repack the archive")
    return moved(data, Record.whole(Memory(b"".join(inflated(record)), record.label)))


def values(tensor: Tensor) -> Any:
    """A tensor as a numpy array of its shape; BF16 and FP8 come as F32, exactly."""
    return decoded(read_bytes(tensor), tensor.dtype).reshape(tensor.shape)


def head(tensor: Tensor, count: int) -> Any:
    """The first `count` values (fewer, when there are fewer) of a tensor whose bytes lie together; None of another."""
    count = min(count, prod(tensor.shape))
    width = BITS[tensor.dtype] // 8
    if not isinstance(tensor.data, Span) or tensor.data.record.packed is not None or width == 0:
        return None
    return decoded(first_bytes(tensor.data, count * width), tensor.dtype)


def first_bytes(data: Span, count: int) -> bytearray:
    return bytearray(data.record.read(data.offset, count))


def decoded(data: bytearray, dtype: str) -> Any:
    """Little-endian elements of `dtype` as numbers. Raises KeyError for dtypes that are not numbers of whole bytes."""
    import numpy

    match dtype:
        case "BF16":
            return (numpy.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        case "F8_E5M2":
            return (numpy.frombuffer(data, "u1").astype("<u2") << 8).view("<f2").astype("<f4")
        case "F8_E4M3":
            return e4m3()[numpy.frombuffer(data, "u1")]
        case _:
            return numpy.frombuffer(data, NUMPY[dtype])


NUMPY = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "I32": "<i4", "U32": "<u4",
    "F32": "<f4", "C64": "<c8", "F64": "<f8", "I64": "<i8", "U64": "<u8",
}  # fmt: skip


def e4m3() -> Any:
    """The 256 values of E4M3 without infinities: bias 7, 0x7f and 0xff are NaN."""
    import numpy

    codes = numpy.arange(256)
    exponent, fraction = codes >> 3 & 15, codes & 7
    size = numpy.where(exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
    size[codes & 0x7F == 0x7F] = numpy.nan
    return numpy.where(codes & 0x80, -size, size).astype("<f4")
