"""How large the values of tensors are: asked before a cast only where the answer decides what is written."""

import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptool.convert.crew import crew_size
from ckptool.convert.gather import pieces
from ckptool.convert.numbers import decoded
from ckptool.convert.sums import base_of
from ckptool.convert.writer import unpacked
from ckptool.tensor import Inline, Tensor


@dataclass(frozen=True, slots=True)
class Extreme:
    """What is to be known of a tensor's values."""

    largest: float = 0.0
    """The largest finite absolute value."""
    infinite: int = 0
    beyond: int = 0
    """Finite values at or beyond the limit that was asked for."""


def extremes(tensors: Iterable[Tensor], limit: float) -> dict[str, Extreme]:
    """The extremes of each tensor, by name, read by as many threads as write; a deflated record is inflated once."""
    groups: dict[object, list[Tensor]] = {}
    for tensor in tensors:
        base = base_of(tensor.data)
        key: object = id(tensor)
        if not isinstance(base, Inline) and base.record.packed is not None:
            key = (id(base.record.source), base.record.offset)
        groups.setdefault(key, []).append(tensor)
    with ThreadPoolExecutor(crew_size()) as pool:
        found = pool.map(lambda group: of_group(group, limit), groups.values())
        return {name: extreme for part in found for name, extreme in part.items()}


def of_group(group: list[Tensor], limit: float) -> dict[str, Extreme]:
    """Of tensors of one record, or of one tensor."""
    with ExitStack() as stack:
        readable = unpacked(tuple(group), Path(tempfile.gettempdir()), stack)
        return {tensor.name: extreme_of(tensor, limit) for tensor in readable}


def extreme_of(tensor: Tensor, limit: float) -> Extreme:
    import numpy

    found = Extreme()
    with numpy.errstate(all="ignore"):
        for _, piece in pieces(tensor.data):
            found = together(found, of_values(decoded(bytearray(piece), tensor.dtype), limit))
    return found


def of_values(values: Any, limit: float) -> Extreme:
    """Of one piece. What is beyond the limit is told as a cast would: from the value as F32."""
    import numpy

    singles = values if values.dtype == "<f4" else values.astype("<f4")
    largest = max(float(singles.max(initial=0)), -float(singles.min(initial=0)))
    if largest < limit:  # NaN is not, and neither is an infinity
        return Extreme(largest)
    finite = numpy.isfinite(values)
    beyond = finite & (numpy.abs(singles) >= numpy.float32(limit))
    return Extreme(
        largest=float(numpy.abs(values).max(initial=0, where=finite)),
        infinite=int(numpy.count_nonzero(numpy.isinf(values))),
        beyond=int(numpy.count_nonzero(beyond)),
    )


def together(one: Extreme, other: Extreme) -> Extreme:
    return Extreme(max(one.largest, other.largest), one.infinite + other.infinite, one.beyond + other.beyond)
