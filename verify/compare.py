"""Compare pairs of tensors piece by piece, each byte of both read once, on the cores there are."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

from zlib_ng import zlib_ng

from ckptool.convert.crew import Advance, each
from ckptool.convert.jobs import RUN
from ckptool.convert.sums import Sum, is_whole
from ckptool.quantize.formats import Name
from ckptool.quantize.kernels import astype
from ckptool.tensor import BITS
from ckptool.verify.difference import Change, Counts, Seen, differences
from ckptool.verify.histogram import Histograms
from ckptool.verify.reach import Reach
from ckptool.verify.rounding import codes_of

PIECE = 1 << 17
"""Elements at a time: both pieces and what is computed of them stay in a core's cache."""
# Between these numkong rounds faster than memory is read; what it says is believed only where the candidate agrees.
QUICK: dict[str, Name] = {
    "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
# The bits of infinity, or of the first NaN: a cast must not have made one unseen.
ODD: dict[str, int] = {"F16": 0x7C00, "BF16": 0x7F80, "F8_E4M3": 0x7F, "F8_E5M2": 0x7C, "F32": 0x7F800000}


@dataclass(slots=True, eq=False)
class Comparison:
    """Two tensors of one shape, and what was found between them so far."""

    original: Reach
    candidate: Reach
    scale: float = 1.0
    """What the candidate's values are multiplied by when they are used."""
    component: str = "other"
    """For histograms."""
    limit: int | None = None
    """Elements from the first on that are looked at; None for all."""
    seen: Seen = field(default_factory=Seen)

    @property
    def change(self) -> Change:
        return Change(self.original.tensor.dtype, self.candidate.tensor.dtype, self.scale)

    @property
    def comparable(self) -> bool:
        """Whether values can be held against each other at all."""
        before, after = self.original.tensor, self.candidate.tensor
        same = before.dtype == after.dtype
        return prod(before.shape) == prod(after.shape) and (same or self.change.as_numbers)

    @property
    def elements(self) -> int:
        """How many are looked at; of formats that pack several into a byte, the bytes."""
        every = self.original.span.length // self.original.width
        return every if self.limit is None else min(every, self.limit)

    @property
    def sides(self) -> tuple[Reach, Reach]:
        return self.original, self.candidate


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A run of elements of one comparison; the sums are those of the records that it is a part of."""

    of: Comparison
    start: int
    count: int
    sums: tuple[Sum | None, Sum | None]


def ignore(_: int) -> None:
    """Nobody watches the progress."""


def compare(comparisons: Iterable[Comparison], advance: Advance = ignore, histograms: Histograms | None = None) -> None:
    """Fill in what is `seen` in each. Raises Malformed where a record of a file is not what the file summed."""
    each(parts_of(comparisons), lambda part: do(part, advance, histograms))


def parts_of(comparisons: Iterable[Comparison]) -> Iterator[Part]:
    for comparison in comparisons:
        sums = (None, None) if comparison.limit is not None else sums_of(comparison)
        step = RUN // comparison.original.width
        for start in range(0, comparison.elements, step):
            yield Part(comparison, start, min(step, comparison.elements - start), sums)


def sums_of(comparison: Comparison) -> tuple[Sum | None, Sum | None]:
    original, candidate = (
        Sum(reach.span.record) if reach.span.record.crc is not None and is_whole(reach.span) else None
        for reach in (comparison.original, comparison.candidate)
    )
    return original, candidate


def do(part: Part, advance: Advance, histograms: Histograms | None) -> None:
    comparison = part.of
    sides = [Side(reach, total) for reach, total in zip(comparison.sides, part.sums, strict=True)]
    for start in range(part.start, part.start + part.count, PIECE):
        count = min(PIECE, part.start + part.count - start)
        original, candidate = (side.read(start, count) for side in sides)
        found = held_against(original, candidate, comparison.change, start)
        if found is not None:
            comparison.seen.add(found)
        if histograms is not None:
            histograms.add(comparison.component, original, candidate, comparison.change)
        advance(original.nbytes + candidate.nbytes)
    for side in sides:
        side.close(part.start, part.count)


class Side:
    """One of the two tensors of a part, read piece by piece and summed on the way."""

    def __init__(self, reach: Reach, total: Sum | None) -> None:
        self.reach = reach
        self.total = total
        self.crc = 0

    def read(self, start: int, count: int) -> Any:
        """Elements as codes."""
        width = self.reach.width
        buffer = memoryview(bytearray(count * width))
        self.reach.read(start * width, buffer)
        if self.total is not None:
            self.crc = zlib_ng.crc32(buffer, self.crc)
        self.reach.change(buffer)
        return codes_of(buffer, self.reach.tensor.dtype)

    def close(self, start: int, count: int) -> None:
        """Raises Malformed when this was the last part and the whole is not what was summed."""
        if self.total is not None:
            self.total.add(start * self.reach.width, count * self.reach.width, self.crc)


def held_against(original: Any, candidate: Any, change: Change, start: int) -> Counts | None:
    """What is not equal or exactly rounded in one piece; None where all is."""
    if change.before == change.after and change.scale == 1.0:
        if is_equal(original, candidate):
            return None
    elif is_quickly_rounded(original, candidate, change):
        return None
    return differences(original, candidate, change, start)


def is_equal(original: Any, candidate: Any) -> bool:
    """Equal to the bit: eight bytes at a time as far as that goes."""
    whole = original.nbytes // 8 * 8
    one, other = (codes.view("u1") for codes in (original, candidate))
    same = (one[:whole].view("<u8") == other[:whole].view("<u8")).all() and (one[whole:] == other[whole:]).all()
    return bool(same)


def is_quickly_rounded(original: Any, candidate: Any, change: Change) -> bool:
    """Whether all values are exactly rounded and finite; where the answer is no, each is looked at by itself."""
    import numpy

    wide, narrow = ("F32" if change.before == "F64" else change.before), change.after
    if wide not in QUICK or narrow not in QUICK or not change.as_numbers:
        return False
    with numpy.errstate(all="ignore"):
        source = original.view("<f8").astype("<f4") if change.before == "F64" else original
        if change.scale != 1.0:
            if wide != "F32":
                return False
            source = source.view("<f4") / numpy.float32(change.scale)
    if narrow == "F32":
        exact = source.view("<u4") if wide == "F32" else numpy.empty(len(candidate), "<u4")
    else:
        exact = numpy.empty(len(candidate), candidate.dtype)
    if wide != narrow:
        astype(numpy.ascontiguousarray(source), QUICK[wide], exact, QUICK[narrow])
    if not is_equal(exact, candidate):
        return False
    mask = candidate.dtype.type((1 << (BITS[narrow] - 1)) - 1)
    return int((candidate & mask).max(initial=0)) < ODD[narrow]
