"""What became of the values of a tensor: rounded, made zero, held at the limit, or changed into something else."""

import threading
from dataclasses import dataclass, field
from math import fsum
from typing import Any

from ckptool.verify.rounding import FLOATS, RANGE, is_beyond, numbers_of, rounded

NO_INFINITY = frozenset({"F8_E4M3"})
"""There an infinity of the original is a value beyond the range, as others are."""
Value = float | int | str | bool


@dataclass(frozen=True, slots=True)
class First:
    """One value that is not what it was."""

    index: int
    """Counted through the tensor in row-major order."""
    original: Value
    candidate: Value


@dataclass(slots=True)
class Counts:
    """What one pass over some elements found, other than values that are equal or exactly rounded."""

    wrong: int = 0
    """Nothing explains them."""
    first: First | None = None
    max_abs: float = 0.0
    """Of wrong values: how far they are off."""
    lost: int = 0
    """Finite before, infinite or NaN now: beyond the range of the format. They are among the wrong ones."""
    clamped: int = 0
    """Beyond the range of the format, and the largest value of it now."""
    zeroed: int = 0
    """Not zero before, and zero now, though rounding does not make them so."""
    first_zeroed: First | None = None
    largest_zeroed: float = 0.0
    """The largest absolute value among them, before."""
    largest_narrow: float = 0.0
    """The same after their rounding to the candidate's dtype, since a threshold may have come after a cast."""
    zeroed_squares: float = 0.0
    signs: int = 0
    """Zeros whose sign changed."""
    first_sign: First | None = None


@dataclass(slots=True, eq=False)
class Seen:
    """The sum over all elements of a tensor, the same in whatever order its parts come."""

    parts: list[Counts] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, counts: Counts) -> None:
        with self.lock:
            self.parts.append(counts)

    def total(self) -> Counts:
        parts = self.parts
        return Counts(
            wrong=sum(part.wrong for part in parts),
            first=earliest([part.first for part in parts]),
            max_abs=max((part.max_abs for part in parts), default=0.0),
            lost=sum(part.lost for part in parts),
            clamped=sum(part.clamped for part in parts),
            zeroed=sum(part.zeroed for part in parts),
            first_zeroed=earliest([part.first_zeroed for part in parts]),
            largest_zeroed=max((part.largest_zeroed for part in parts), default=0.0),
            largest_narrow=max((part.largest_narrow for part in parts), default=0.0),
            zeroed_squares=fsum(part.zeroed_squares for part in parts),
            signs=sum(part.signs for part in parts),
            first_sign=earliest([part.first_sign for part in parts]),
        )


def earliest(found: list[First | None]) -> First | None:
    return min((first for first in found if first is not None), key=lambda first: first.index, default=None)


@dataclass(frozen=True, slots=True)
class Change:
    """From which dtype to which; `scale` is what the candidate's values are multiplied by when they are used."""

    before: str
    after: str
    scale: float = 1.0

    @property
    def as_numbers(self) -> bool:
        return self.before in FLOATS and self.after in FLOATS


def differences(original: Any, candidate: Any, change: Change, start: int) -> Counts:
    """Of two runs of as many elements, as codes; `start` is the index of the first one."""
    import numpy

    if not change.as_numbers:
        return as_stored(original, candidate, change, start)
    with numpy.errstate(all="ignore"):
        before = numbers_of(original, change.before)
        if change.scale != 1.0:
            before = before / before.dtype.type(change.scale)
        after = numbers_of(candidate, change.after)
        off = ~explained(before, original, candidate, change)
        lost = numpy.zeros(len(off), "?")
        if change.before != change.after:
            lost = numpy.isfinite(before) & ~numpy.isfinite(after)
            off |= lost
        if not off.any():
            return Counts()
        at = numpy.flatnonzero(off)
        few = Few(at, before[at], original[at], after[at], candidate[at])
        return sorted_out(few, lost[at], change, start)


def explained(before: Any, original: Any, candidate: Any, change: Change) -> Any:
    """Which values are equal to the bit, or the exact rounding; a NaN may become any NaN where the dtype changes."""
    import numpy

    if change.before == change.after and change.scale == 1.0:
        return original == candidate
    exact = rounded(before, change.after) == candidate
    if before.dtype == "<f8":  # torch narrows F64 by way of F32
        exact |= rounded(before.astype("<f4"), change.after) == candidate
    return exact | (numpy.isnan(before) & numpy.isnan(numbers_of(candidate, change.after)))


@dataclass(frozen=True, slots=True, eq=False)
class Few:
    """The elements that are neither equal nor exactly rounded: where, and what they were and are."""

    at: Any
    old: Any
    old_codes: Any
    new: Any
    new_codes: Any


def sorted_out(few: Few, lost: Any, change: Change, start: int) -> Counts:
    """By what became of them."""
    import numpy

    old, new = few.old, few.new
    same_sign = numpy.signbit(new) == numpy.signbit(old)
    largest = numpy.abs(new) == RANGE[change.after][0]
    clamped = largest & same_sign & is_beyond(old, change.after) & (change.before != change.after)
    if change.after not in NO_INFINITY:
        clamped &= numpy.isfinite(old)
    narrow = numpy.abs(numbers_of(rounded(old, change.after), change.after)).astype("<f8")
    zeroed = (new == 0) & (narrow != 0) & numpy.isfinite(old)
    signs = (new == 0) & (narrow == 0)
    wrong = ~(clamped | zeroed | signs)
    counts = Counts(
        wrong=count(wrong), lost=count(lost), clamped=count(clamped), zeroed=count(zeroed), signs=count(signs)
    )

    def first(where: Any) -> First | None:
        if not where.any():
            return None
        place = int(numpy.argmax(where))
        before = value(old[place] * old.dtype.type(change.scale), few.old_codes[place])
        return First(start + int(few.at[place]), before, value(new[place], few.new_codes[place]))

    counts.first, counts.first_zeroed, counts.first_sign = first(wrong), first(zeroed), first(signs)
    apart = numpy.abs(new[wrong].astype("<f8") - old[wrong].astype("<f8")) * change.scale
    counts.max_abs = float(numpy.nan_to_num(apart, nan=numpy.inf).max(initial=0))
    if counts.zeroed:
        sizes = numpy.abs(old[zeroed]).astype("<f8") * change.scale
        counts.largest_zeroed, counts.zeroed_squares = float(sizes.max()), float(numpy.dot(sizes, sizes))
        counts.largest_narrow = float(narrow[zeroed].max()) * change.scale
    return counts


def count(flags: Any) -> int:
    import numpy

    return int(numpy.count_nonzero(flags))


def value(number: Any, code: Any) -> Value:
    """A number as JSON can hold it; what JSON has no number for as text, a NaN with its bits."""
    import numpy

    if numpy.isfinite(number):
        return float(number)
    return f"nan (0x{int(code):x})" if numpy.isnan(number) else str(float(number))


def as_stored(original: Any, candidate: Any, change: Change, start: int) -> Counts:
    """Integers, booleans, complex numbers and packed formats: equal or not."""
    import numpy

    off = original != candidate
    if not off.any():
        return Counts()
    at = int(numpy.argmax(off))
    old, new = (stored(codes[at : at + 1], change.before) for codes in (original, candidate))
    counts = Counts(wrong=count(off), first=First(start + at, old, new))
    if change.before[0] in "IU":
        kind = f"<{change.before[0].lower()}{original.dtype.itemsize}"
        pairs = zip(original[off].view(kind)[:MOST].tolist(), candidate[off].view(kind)[:MOST].tolist(), strict=True)
        counts.max_abs = float(max(abs(one - other) for one, other in pairs))
    return counts


MOST = 1 << 12
"""Integers of one piece whose distance is worked out, in Python's own: those of U64 overflow any other."""


def stored(code: Any, dtype: str) -> Value:
    if dtype[0] in "IU":
        return int(code.view(f"<{dtype[0].lower()}{code.dtype.itemsize}")[0])
    return bool(code[0]) if dtype == "BOOL" else f"0x{int(code[0]):x}"
