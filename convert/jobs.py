"""The work of writing a plan, cut into jobs that any thread can take."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

from ckptool.convert.sums import Sum, base_of, is_whole, left_over
from ckptool.source import Record
from ckptool.tensor import BITS, Cast, Data, Mapped, Span, Tensor

RUN = 1 << 23
"""Bytes of the source that a thread takes at a time: small enough to share one tensor, progress and Ctrl-C."""
SMALL = 1 << 16
"""Up to this size a call into the kernel costs more than the bytes: these are written many at a time."""
BATCH = 1 << 20
Steps = tuple[Mapped | Cast, ...]
"""Changes of elements, the first one first."""


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """Bytes that need neither a change nor a sum: the kernel takes them from file to file."""

    span: Span
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Bytes that go through a buffer, where they are summed and changed."""

    span: Span
    steps: Steps
    offset: int
    sum: Sum | None = None
    """Of the record that this is a part of, None where none is stated, or where it is all of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Small runs whose results lie one after the other in the output."""

    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Gather:
    """Data that are no run of bytes: strided views and computed ones."""

    data: Data
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """A record that is read for its CRC alone."""

    record: Record


Job = Copy | Run | Batch | Gather | Check


def jobs_of(tensors: list[Tensor], offsets: Iterable[int]) -> Iterator[Job]:
    """Jobs in the order of the output, `offsets` being those of the tensors in it."""
    small: list[Run] = []
    filled = 0
    for tensor, offset in zip(tensors, offsets, strict=True):
        base = base_of(tensor.data)
        if isinstance(base, Span) and base.length <= SMALL:
            small.append(Run(base, steps_of(tensor.data), offset))
            filled += tensor.nbytes
            if filled < BATCH:
                continue
        if small:
            yield Batch(tuple(small))
            small, filled = [], 0
        if not isinstance(base, Span):
            yield Gather(tensor.data, offset)
        elif base.length > SMALL:
            yield from runs_of(base, steps_of(tensor.data), offset)
    if small:
        yield Batch(tuple(small))
    for record in left_over(tensors):
        yield Check(record)


def steps_of(data: Data) -> Steps:
    steps: Steps = ()
    while isinstance(data, Mapped | Cast):
        steps, data = (data, *steps), data.data
    return steps


def runs_of(span: Span, steps: Steps, offset: int) -> Iterator[Job]:
    """A long span in parts of whole elements: RUN is a multiple of every width."""
    summed = span.record.crc is not None and is_whole(span)
    plain = not steps and not summed and span.record.source.fileno() is not None
    total = Sum(span.record) if summed else None
    for done in range(0, span.length, RUN):
        part = Span(span.record, span.offset + done, min(RUN, span.length - done))
        at = offset + resized(steps, done)
        yield Copy(part, at) if plain else Run(part, steps, at, total)


def resized(steps: Steps, count: int) -> int:
    """Bytes that `count` bytes become."""
    casts = [step for step in steps if isinstance(step, Cast)]
    return count * prod(BITS[step.to] for step in casts) // prod(BITS[step.dtype] for step in casts)
