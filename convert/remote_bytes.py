"""Bytes of another machine with the interface of a file: read by ranges, what is asked for often kept."""

import threading
from collections.abc import Iterator, Sequence
from operator import length_hint
from typing import Protocol

from ckptool.convert.remote_kept import SMALL, Kept, merged
from ckptool.convert.remote_patience import Passing, Patience, Waits
from ckptool.errors import Truncated

ALIGNED = 1 << 12
"""Small reads are widened to whole blocks of this size: headers lie side by side."""
AT_ONCE = 16
"""Requests under way together where many small pieces are wanted."""
PATIENCE = 5.0
"""Seconds that the others of them get to end when one has failed."""


class Part(Protocol):
    """The answer to one request."""

    def take(self, buffer: memoryview) -> int:
        """Some bytes of it, at least one. Raises Passing when the connection breaks."""

    def close(self) -> None:
        """Done with it, read to its end or not."""

    def shut(self) -> None:
        """The same from another thread, which ends a read that is waiting."""


class Origin(Protocol):
    """Where parts come from. Used by several threads at once."""

    def part(self, offset: int, length: int) -> Part:
        """A part that is not empty. Raises Passing, or what is final."""

    def check_unchanged(self) -> None:
        """Raises Unreachable when another file stands there now."""

    def close(self) -> None: ...


class Remote:
    """One file on another machine, of a size that was stated once and has to stay."""

    def __init__(self, origin: Origin, label: str, size: int, patience: Patience, aligned: int = ALIGNED) -> None:
        self.aligned = aligned
        self.origin = origin
        self.label = label
        self.size = size
        self.asked = 0
        """Bytes that were asked for: what is paid for, whether it is used or not."""
        self.waits = Waits(label, patience)
        self._lock = threading.Lock()
        self._kept = Kept()
        self._streams: set[Stream] = set()
        self._own = threading.local()

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.origin.close()

    def fileno(self) -> None:
        return None

    def check_unchanged(self) -> None:
        self.origin.check_unchanged()

    def keep(self, offset: int, data: bytes | bytearray) -> None:
        """Bytes that came unasked, with the first answer."""
        with self._lock:
            self._kept.add(offset, data)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        end = offset + len(buffer)
        self.waits.check()
        if offset < 0 or end > self.size:
            raise Truncated(
                f"{self.label}: ends at byte {self.size:,}, but byte {end:,} is needed",
                "the file is incomplete: upload it again",
            )
        if not buffer:
            return
        stream: Stream | None = getattr(self._own, "stream", None)
        if stream is not None and stream.at == offset and end <= stream.end:
            self._from(stream, buffer)
        elif len(buffer) > SMALL:
            stream = self._stream(offset, end)
            self._from(stream, buffer)
        elif not self._find(buffer, offset):
            self._take_along(buffer, offset)

    def _find(self, buffer: memoryview, offset: int) -> bool:
        with self._lock:
            return self._kept.find(buffer, offset)

    def _take_along(self, buffer: memoryview, offset: int) -> None:
        """A small read, with the rest of its blocks."""
        start = offset - offset % self.aligned
        end = min(-(-(offset + len(buffer)) // self.aligned) * self.aligned, self.size)
        data = self.get(start, end - start)
        self.keep(start, data)
        buffer[:] = data[offset - start : offset - start + len(buffer)]

    def get(self, offset: int, length: int) -> bytearray:
        data = bytearray(length)
        self._from(self._stream(offset, offset + length), memoryview(data))
        return data

    def expect(self, offset: int, length: int) -> None:
        """This thread is about to read all of it in order: one request is enough for it."""
        held: Stream | None = getattr(self._own, "stream", None)
        if held is not None:
            self._drop(held)
        inside = offset >= 0 and offset + length <= self.size
        self._own.stream = self._stream(offset, offset + length) if inside and length > SMALL else None
        self.fetch([(offset, length)])  # what is small comes at once

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Small pieces (offset, length) that will be wanted: asked for together and kept, as far as they go."""
        pieces = iter([piece for piece in merged(ranges, self.size) if not self._holds(piece)])
        failed: list[BaseException] = []

        def run() -> None:
            try:
                while not failed and (piece := self._next(pieces)) is not None:
                    self.keep(piece[0], self.get(*piece))
            except BaseException as error:  # whatever it is, the others have to stop as well
                failed.append(error)
                if not isinstance(error, Exception):
                    self.stop()

        count = min(AT_ONCE, length_hint(pieces))
        others = [threading.Thread(target=run, name="fetch", daemon=True) for _ in range(count - 1)]
        for thread in others:
            thread.start()
        run()
        for thread in others:
            thread.join(PATIENCE if failed else None)
        if failed:
            raise failed[0]

    def _holds(self, piece: tuple[int, int]) -> bool:
        return self._find(memoryview(bytearray(piece[1])), piece[0])

    def _next(self, pieces: Iterator[tuple[int, int]]) -> tuple[int, int] | None:
        with self._lock:
            return next(pieces, None)

    def stop(self) -> None:
        """End every read, in whatever thread: what they wait for will not be used."""
        self.waits.stopped.set()
        with self._lock:
            streams, self._streams = list(self._streams), set()
        for stream in streams:
            stream.shut()

    def _stream(self, start: int, end: int) -> "Stream":
        stream = Stream(self, start, end)
        with self._lock:
            self._streams.add(stream)
        return stream

    def _from(self, stream: "Stream", buffer: memoryview) -> None:
        try:
            stream.read(buffer)
        except BaseException:
            self._drop(stream)
            raise
        if stream.at == stream.end:
            self._drop(stream)

    def _drop(self, stream: "Stream") -> None:
        stream.close()
        with self._lock:
            self._streams.discard(stream)

    def part(self, offset: int, length: int) -> Part:
        """One request, counted."""
        self.waits.check()
        part = self.origin.part(offset, length)
        with self._lock:
            self.asked += length
        return part


class Stream:
    """One run of bytes, from here to there. Where the connection breaks, it goes on from the same byte."""

    def __init__(self, remote: Remote, at: int, end: int) -> None:
        self.remote = remote
        self.at = at
        self.end = end
        self._part: Part | None = None

    def read(self, buffer: memoryview) -> None:
        """The next bytes, all of `buffer`."""
        done = failed = 0
        while done < len(buffer):
            try:
                if self._part is None:
                    self._part = self.remote.part(self.at, self.end - self.at)
                count = self._part.take(buffer[done:])
            except Passing as error:
                failed += 1
                self.close()
                self.remote.waits.wait(error, failed)
                continue
            done, self.at, failed = done + count, self.at + count, 0
        self.remote.waits.check()

    def close(self) -> None:
        part, self._part = self._part, None
        if part is not None:
            part.close()

    def shut(self) -> None:
        part = self._part
        if part is not None:
            part.shut()
