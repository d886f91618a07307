"""Tensors that a conversion puts beside those of the original: scales of FP8 weights, and their marker."""

from math import isfinite, prod
from typing import Any

from ckptool.convert.numbers import values
from ckptool.errors import CkptoolError
from ckptool.quantize.weights import scale_name
from ckptool.tensor import Tensor
from ckptool.verify.compare import PIECE
from ckptool.verify.items import Item
from ckptool.verify.reach import Reach
from ckptool.verify.rounding import RANGE, codes_of, table

FP8 = frozenset({"F8_E4M3", "F8_E5M2"})
MARKER = "scaled_fp8"
MOST = 1 << 16
"""Positions; CLIP has 77."""
FILLED = 0.5
"""The largest value of a scaled weight comes near the end of the range: too large a scale loses the small ones."""


def scales_of(candidate: dict[str, Tensor], new: list[Tensor]) -> dict[str, float]:
    """Name of an FP8 weight -> the scale beside it that the original does not have."""
    added = {tensor.name: tensor for tensor in new}
    found: dict[str, float] = {}
    for tensor in candidate.values():
        beside = added.get(scale_name(tensor))
        if tensor.dtype in FP8 and beside is not None and (scale := single(beside)):
            found[tensor.name] = scale
    return found


def single(tensor: Tensor) -> float | None:
    """The value of a scale; None where it is no positive number."""
    if tensor.dtype not in ("F32", "F16", "BF16") or prod(tensor.shape) != 1:
        return None
    try:
        found = float(values(tensor).reshape(()))
    except CkptoolError:
        return None
    return found if isfinite(found) and found > 0 else None


def underfilled(item: Item) -> str:
    """Why the scale of an explained weight is none that a conversion would choose; empty where it may be."""
    reach = item.comparison.candidate
    largest = largest_of(reach)
    if largest == 0 or largest >= FILLED * RANGE[reach.tensor.dtype][0]:
        return ""
    return f"its scale is too large: the largest of its FP8 values is {largest:g}, and small ones are lost"


def largest_of(reach: Reach) -> float:
    largest = 0
    for start in range(0, reach.span.length, PIECE):
        buffer = memoryview(bytearray(min(PIECE, reach.span.length - start)))
        reach.read(start, buffer)
        codes: Any = codes_of(buffer, reach.tensor.dtype) & 0x7F
        largest = max(largest, int(codes.max(initial=0)))
    return float(table(reach.tensor.dtype)[largest])


def is_marker(tensor: Tensor) -> bool:
    return tensor.name.rpartition(".")[2] == MARKER and tensor.dtype in FP8 and prod(tensor.shape) <= 2


def is_repair(original: Tensor, candidate: Tensor) -> bool:
    """Whether position ids became the integers from 0 that they were near to."""
    import numpy

    count = candidate.shape[-1] if candidate.shape else 0
    if candidate.name.rpartition(".")[2] != "position_ids" or candidate.dtype != "I64" or not 0 < count <= MOST:
        return False
    if candidate.shape != original.shape or prod(candidate.shape) != count:
        return False
    try:
        new, old = values(candidate).reshape(-1), values(original).reshape(-1)
    except (CkptoolError, KeyError):
        return False
    if old.dtype.kind not in "fiu" or not (new == numpy.arange(count)).all():
        return False
    return bool((numpy.abs(old.astype("<f8") - numpy.arange(count)) <= 1).all())
