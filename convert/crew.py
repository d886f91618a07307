"""Threads that share jobs; those of a plan: read, sum, change and write, each piece while it is in the core's cache."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from zlib_ng import zlib_ng

from ckptool.convert.gather import pieces, span_pieces
from ckptool.convert.inflate import check_crc, hold
from ckptool.convert.jobs import Batch, Check, Copy, Gather, Job, Run, Steps, resized
from ckptool.convert.sums import is_whole
from ckptool.output import write_at
from ckptool.source import Bytes, expect, fetch
from ckptool.tensor import Mapped, Span

Advance = Callable[[int], None]
Task = TypeVar("Task")
PIECE = 1 << 19
"""Bytes that go from reading to writing together: they stay in a core's own cache."""
CHANGED = 1 << 21
"""The same where elements are changed on the way: each call for it waits for the interpreter, so there are fewer."""
KERNEL = threading.Lock()
"""Two copies into one file inside the kernel hinder each other."""
MOST = 4
"""More threads than this only wait for memory, or for the disk."""
PATIENCE = 5.0
"""Seconds that threads get to end, once their sources were told to stop; what they read later is not written."""


def work(jobs: Iterator[Job], target: int, advance: Advance, stop: Callable[[], None] | None = None) -> None:
    """Do every job of a plan. Raises the first error; `stop` as for `each`."""
    lock = threading.Lock()

    def told(count: int) -> None:
        with lock:
            advance(count)

    each(jobs, Worker(target, told).do, stop)


def each(jobs: Iterable[Task], do: Callable[[Task], None], stop: Callable[[], None] | None = None) -> None:
    """Do every job, this thread being one of the crew. Raises the first error, when all have stopped.

    `stop` ends reading that might wait long, for another machine.
    """
    left = iter(jobs)
    lock = threading.Lock()
    failed: list[BaseException] = []

    def following() -> Task | None:
        with lock:
            return None if failed else next(left, None)

    def run() -> None:
        try:
            while (job := following()) is not None:
                do(job)
        except BaseException as error:  # whatever it is, the others have to stop as well
            failed.append(error)
            if stop is not None:
                stop()

    others = [threading.Thread(target=run, name="crew", daemon=True) for _ in range(crew_size() - 1)]
    for thread in others:
        thread.start()
    run()
    for thread in others:
        thread.join(PATIENCE if failed and stop is not None else None)
    if failed:
        raise failed[0]


def crew_size() -> int:
    """Threads that can run at once here."""
    affinity = getattr(os, "sched_getaffinity", None)
    return max(1, min(MOST, len(affinity(0)) if affinity else os.cpu_count() or 1))


class Worker(threading.local):
    """What is done with each kind of job; every thread has buffers of its own in it."""

    def __init__(self, target: int, advance: Advance) -> None:
        self.target = target
        self.advance = advance
        self.buffers: dict[int, memoryview] = {}

    def do(self, job: Job) -> None:
        match job:
            case Copy():
                self.copy(job)
            case Run():
                self.run(job)
            case Batch():
                self.batch(job)
            case Gather():
                for at, piece in pieces(job.data):
                    self.write(piece, job.offset + at)
            case Check():
                check_crc(job.record)

    def write(self, piece: memoryview | bytes, offset: int) -> None:
        write_at(self.target, piece, offset)
        self.advance(len(piece))

    def copy(self, job: Copy) -> None:
        """Inside the kernel as far as it goes, the rest through a buffer."""
        span = job.span
        source, start, done = span.record.source.fileno(), span.record.offset + span.offset, 0
        while source is not None and done < span.length and hasattr(os, "copy_file_range"):
            try:
                with KERNEL:
                    count = os.copy_file_range(source, self.target, span.length - done, start + done, job.offset + done)
            except OSError:
                break  # across some file systems, or a full disk: the plain way works, or says why not
            if count == 0:
                break
            done += count
            self.advance(count)
        for at, piece in span_pieces(Span(span.record, span.offset + done, span.length - done)):
            self.write(piece, job.offset + done + at)

    def run(self, job: Run) -> None:
        span, crc = job.span, 0
        expect(span.record.source, span.record.offset + span.offset, span.length)
        most = CHANGED if job.steps else PIECE
        for done in range(0, span.length, most):
            piece = self.read(span, done, min(most, span.length - done))
            if job.sum is not None:
                crc = zlib_ng.crc32(piece, crc)
            self.write(self.changed(piece, job.steps), job.offset + resized(job.steps, done))
        if job.sum is not None:
            job.sum.add(span.offset, span.length, crc)

    def batch(self, job: Batch) -> None:
        data = bytearray()
        wanted: dict[Bytes, list[tuple[int, int]]] = {}
        for run in job.runs:
            record = run.span.record
            wanted.setdefault(record.source, []).append((record.offset + run.span.offset, run.span.length))
        for source, ranges in wanted.items():
            fetch(source, ranges)
        for run in job.runs:
            span = run.span
            piece = self.read(span, 0, span.length)
            if span.record.crc is not None and is_whole(span):
                hold(span.record, zlib_ng.crc32(piece))
            data += self.changed(piece, run.steps) if run.steps else piece
        self.write(bytes(data), job.runs[0].offset)

    def read(self, span: Span, offset: int, length: int) -> memoryview:
        piece = self.buffer(0, length)
        span.record.source.read_into(piece, span.record.offset + span.offset + offset)
        return piece

    def changed(self, piece: memoryview, steps: Steps) -> memoryview:
        """A piece of whole elements after all its changes; valid until the next one."""
        for number, step in enumerate(steps, 1):
            if isinstance(step, Mapped):
                step.change(piece)
            else:
                target = self.buffer(number, resized((step,), len(piece)))
                step.convert(piece, target)
                piece = target
        return piece

    def buffer(self, number: int, length: int) -> memoryview:
        """`length` bytes of this thread's buffer of that number, which is used again."""
        held = self.buffers.get(number)
        if held is None or len(held) < length:
            held = self.buffers[number] = memoryview(bytearray(max(length, PIECE)))
        return held[:length]
