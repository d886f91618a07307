"""Casts a run of elements to a narrow format, to the bit as torch does, and counts what that did to them.

A piece is worked on while it is in the core's own cache. Every call that passes over it releases the interpreter.
"""

import threading
from dataclasses import dataclass
from math import sqrt
from typing import Any

from ckptool.quantize.formats import FORMATS, SOURCES, Format, Name
from ckptool.quantize.tally import Counts, Tally

STEP = 1 << 19
"""Elements at a time: fewer, and threads wait for the interpreter; more, and the cache is left."""
MARGIN = 0.999
"""Sums of squares in F32 are right to some 1e-6 of themselves."""
SMALLEST_SUM = 1e-25
"""Below this, squares may have been lost in F32's own subnormals."""
LARGEST_SUM = 1e37

_local = threading.local()


class Overflowed(Exception):  # a message from a worker to the command, no error for people
    """A value does not fit, and the tensor should have been kept."""


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """Turns elements of one dtype into another; `tally` learns what became of them."""

    source: str
    target: str
    tally: Tally
    clamp: bool
    """Values beyond the range become the largest there is; otherwise they raise Overflowed."""
    scale: float = 1.0
    """What is cast is the value divided by this."""

    def __call__(self, source: memoryview, target: memoryview, /) -> None:
        import numpy

        values = numpy.frombuffer(source, SOURCES[self.source][1])
        codes = numpy.frombuffer(target, FORMATS[self.target].codes)
        assert len(values) == len(codes)
        with numpy.errstate(all="ignore"):  # what is no ordinary number is looked for, and counted
            for start in range(0, len(values), STEP):
                self.step(values[start : start + STEP], codes[start : start + STEP])

    def step(self, values: Any, codes: Any) -> None:
        """One run of at most STEP elements."""
        into = FORMATS[self.target]
        exact = values if self.source == "F64" else None
        singles = self.singles(values)
        astype(singles, "float32", codes, into.kernel)
        square = float(dot(singles))
        counts, finite = Counts(len(codes)), None
        if not fits(singles, square, into):
            counts, finite = mend(singles, exact, codes, into, self.clamp)
        before = singles if exact is None else exact / self.scale
        if finite is not None:
            before = zeroed(before, finite)
        count_small(counts, before, codes, into)
        measure(counts, before, codes, finite, into)
        counts.norm = norm(before, square if before is singles else float(dot(before)))
        counts.max_error *= self.scale
        self.tally.add(counts)

    def singles(self, values: Any) -> Any:
        """The values as F32, divided by the scale."""
        import numpy

        # Not every kernel of numkong is known to take unaligned numbers.
        if self.source == "F32" and self.scale == 1.0 and values.flags.aligned:
            return values
        singles = scratch("singles", "<f4", len(values))
        if self.source in ("F16", "BF16"):
            astype(values, SOURCES[self.source][0], singles, "float32")
            values = singles
        if self.scale != 1.0:
            numpy.divide(values, numpy.float32(self.scale), out=singles, casting="same_kind")
        elif values is not singles:
            numpy.copyto(singles, values, casting="same_kind")
        return singles


def scratch(name: str, dtype: str, count: int) -> Any:
    """An array of this thread that is used again."""
    import numpy

    held = getattr(_local, name, None)
    if held is None or held.dtype != dtype:
        held = numpy.empty(STEP, dtype)
        setattr(_local, name, held)
    return held[:count]


def astype(source: Any, dtype: Name, target: Any, to: Name) -> None:
    """Cast contiguous elements of numkong's `dtype` into `target`."""
    import numkong

    if len(source):
        numkong.astype(tensor(source, dtype), to, out=tensor(target, to))


def tensor(array: Any, dtype: Name) -> Any:
    import numkong

    return numkong.from_pointer(array.__array_interface__["data"][0], array.shape, dtype, owner=array)


def dot(values: Any) -> Any:
    """The sum of squares."""
    import numpy

    return numpy.dot(values, values)


def fits(values: Any, square: float, into: Format) -> bool:
    """Whether all are finite and within the range: told from the sum of their squares where that is enough."""
    if square < min(MARGIN * into.limit**2, LARGEST_SUM):
        return True
    # Both are NaN when one value is.
    return float(values.max(initial=0)) < into.limit and float(values.min(initial=0)) > -into.limit


def mend(singles: Any, exact: Any, codes: Any, into: Format, clamp: bool) -> tuple[Counts, Any]:
    """Write what is no ordinary number as torch does. Returns counts, and which values are finite (None: all)."""
    import numpy

    values = singles if exact is None else exact
    finite = numpy.isfinite(values)
    counts = Counts(len(codes))
    nan = numpy.isnan(values)
    beyond = numpy.abs(singles) >= singles.dtype.type(into.limit)  # infinities of the source among them
    infinite = ~finite & ~nan
    counts.nan, counts.inf = int(numpy.count_nonzero(nan)), int(numpy.count_nonzero(infinite))
    signs = numpy.where(numpy.signbit(values), into.sign, 0).astype(codes.dtype)
    if into.infinity is not None:
        beyond &= finite
        codes[infinite] = signs[infinite] | codes.dtype.type(into.infinity)
    counts.overflowed = int(numpy.count_nonzero(beyond))
    if counts.overflowed:
        if not clamp:
            raise Overflowed
        codes[beyond] = signs[beyond] | codes.dtype.type(into.largest)
    if counts.nan:
        codes[nan] = nan_codes(singles[nan], signs[nan], into)
    return counts, None if finite.all() else finite


def nan_codes(singles: Any, signs: Any, into: Format) -> Any:
    codes = signs * into.nan_signed | into.nan
    if into.nan_keeps:
        codes |= (singles.view("<u4") & 0x7FFFFF) >> into.nan_keeps
    return codes


def zeroed(values: Any, finite: Any) -> Any:
    """The values with 0 where they are not finite, so that no figure is about those."""
    import numpy

    return numpy.where(finite, values, values.dtype.type(0))


def count_small(counts: Counts, values: Any, codes: Any, into: Format) -> None:
    """Values that became zero or subnormal; `values` has 0 where the source is not finite."""
    import numpy

    half = (
        len(codes) * codes.itemsize
    )  # what `measure` fills next holds both: the less memory, the more is in the cache
    room = scratch("back", "<f4", len(codes)).view("u1")
    sizes = numpy.bitwise_and(codes, codes.dtype.type(into.sign - 1), out=room[:half].view(into.codes))
    flags = room[half : half + len(codes)].view("?")
    numpy.less(sizes, codes.dtype.type(into.normal), out=flags)
    counts.subnormal = int(numpy.count_nonzero(flags))
    if sizes.min(initial=1) == 0:
        numpy.equal(sizes, 0, out=flags)
        zeros = int(numpy.count_nonzero(flags))
        counts.subnormal -= zeros
        flags &= values != 0
        counts.underflowed = int(numpy.count_nonzero(flags))


def measure(counts: Counts, values: Any, codes: Any, finite: Any, into: Format) -> None:
    """The largest error and the norm of all, over what is finite."""
    import numpy

    back = scratch("back", "<f4", len(codes))
    astype(codes, into.kernel, back, "float32")
    if finite is not None:
        back[~finite] = 0
    error = numpy.subtract(values, back, out=back if values.dtype == back.dtype else None)
    counts.max_error = max(float(error.max(initial=0)), -float(error.min(initial=0)))
    counts.error_norm = norm(error, float(dot(error)))


def norm(values: Any, square: float) -> float:
    """The root of `square`, the sum of the squares; where F32 cannot hold that, told from values near 1."""
    import numpy

    if SMALLEST_SUM < square < LARGEST_SUM:
        return sqrt(square)
    largest = float(numpy.abs(values).max(initial=0))
    if largest == 0.0:
        return 0.0
    shares = values.astype("<f8") / largest
    return largest * sqrt(float(dot(shares)))
