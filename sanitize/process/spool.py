"""A distant file whose bytes are kept as they come, so that none is asked for twice."""

import os
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from ckptool.convert.remote_bytes import Remote
from ckptool.errors import Unwritable
from ckptool.output import write_at
from ckptool.source import File, expect
from ckptool.text import escape

PIECE = 1 << 18
MOST = 1 << 20


class Spool:
    """Context of one file. What is kept lies at its own place in a sparse file that has no name."""

    def __init__(self, source: Remote | File, folder: Path) -> None:
        self.source = source
        self.size = source.size
        self.folder = folder
        self._fd = -1
        self._kept = Ranges()
        self._lock = threading.Lock()

    def __enter__(self) -> "Spool":
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                self._fd = os.dup(file.fileno())
        except OSError as error:
            raise self._full(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @property
    def asked(self) -> int:
        """Bytes that the other machine was asked for."""
        return self.source.asked if isinstance(self.source, Remote) else self.size

    def stop(self) -> None:
        """End what others read of it."""
        if isinstance(self.source, Remote):
            self.source.stop()

    def pieces(self, offset: int, length: int) -> Iterator[memoryview]:
        """The bytes of a range of the file in order; each piece is good until the next one is asked for."""
        buffer, end = memoryview(bytearray(min(PIECE, length))), offset + length
        try:
            while offset < end:
                with self._lock:
                    until, kept = self._kept.run(offset, end)
                if not kept:
                    expect(self.source, offset, until - offset)
                for at in range(offset, until, PIECE):
                    piece = buffer[: min(PIECE, until - at)]
                    if kept:
                        os.preadv(self._fd, [piece], at)
                    else:
                        self.source.read_into(piece, at)
                        self._keep(piece, at)
                    yield piece
                offset = until
        finally:
            expect(self.source, 0, 0)  # a run that nobody reads to its end

    def _keep(self, piece: memoryview, offset: int) -> None:
        try:
            write_at(self._fd, piece, offset)
        except OSError as error:
            raise self._full(error) from error
        with self._lock:
            self._kept.add(offset, offset + len(piece))

    def _full(self, error: OSError) -> Unwritable:
        return Unwritable(
            f"{escape(str(self.folder), 1000)}: what is read from another machine cannot be kept: {error.strerror}",
            "make room: while a file is worked on, what is read of it is kept beside its output",
        )


class Ranges:
    """Which bytes are there: ranges that do not touch, in order."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        if len(self._starts) > MOST:
            return  # no model is read in so many pieces: what comes now is asked for again
        first = bisect_right(self._starts, start)
        if first and self._ends[first - 1] >= start:
            first -= 1
            start = self._starts[first]
        last = bisect_right(self._starts, end)
        if last > first:
            end = max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def run(self, start: int, end: int) -> tuple[int, bool]:
        """How far from `start` on bytes are there, or are not."""
        at = bisect_right(self._starts, start) - 1
        if at >= 0 and self._ends[at] > start:
            return min(end, self._ends[at]), True
        following = self._starts[at + 1] if at + 1 < len(self._starts) else end
        return min(end, following), False
