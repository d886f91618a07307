"""Copy bytes from file to file inside the kernel, with a portable fallback, and check records' sums beside it."""

import os
import threading
from collections.abc import Callable, Iterable

from zlib_ng import zlib_ng

from ckptool.convert.gather import span_pieces
from ckptool.convert.inflate import chunks, hold
from ckptool.errors import CkptoolError
from ckptool.output import write_at
from ckptool.source import Record
from ckptool.tensor import Span

SMALL = 1 << 16
"""Up to this size a call into the kernel costs more than the bytes: these go through a buffer, many at a time."""
BUFFER = 1 << 20
STEP = 1 << 24
"""Bytes that one call copies: small enough for progress and Ctrl-C."""


def copy_span(span: Span, target: int, offset: int, advance: Callable[[int], None]) -> None:
    """Copy a span to `offset` of the descriptor `target`."""
    source = span.record.source.fileno()
    start = span.record.offset + span.offset
    done = 0
    if source is not None and hasattr(os, "copy_file_range"):
        while done < span.length:
            try:
                count = os.copy_file_range(source, target, min(STEP, span.length - done), start + done, offset + done)
            except OSError:
                break  # across some file systems, or a full disk: the plain way works, or says why not
            if count == 0:
                break
            done += count
            advance(count)
    if done < span.length:
        rest = Span(span.record, span.offset + done, span.length - done)
        for at, piece in span_pieces(rest):
            write_at(target, piece, offset + done + at)
            advance(len(piece))


class Batch:
    """Small pieces that lie one after the other in the output, written together."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._offset = 0
        self._data = bytearray()

    def add(self, data: bytes | memoryview, offset: int) -> None:
        """`data` for `offset`; written when the buffer is full or the next piece lies elsewhere."""
        if offset != self._offset + len(self._data) or len(self._data) + len(data) > BUFFER:
            self.flush()
            self._offset = offset
        self._data += data

    def flush(self) -> None:
        if self._data:
            write_at(self.target, bytes(self._data), self._offset)
            self._data.clear()


class Checks:
    """CRCs of records, summed on a second thread while the kernel copies; both release the interpreter."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checksums", daemon=True)

    def __enter__(self) -> "Checks":
        if self.records:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._stop.set()
        if self.records:
            self._thread.join()
        if kind is None:
            self.raise_error()

    def raise_error(self) -> None:
        """Raise what a check found so far."""
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            for record in self.records:
                crc = 0
                for piece in chunks(record):
                    if self._stop.is_set():
                        return
                    crc = zlib_ng.crc32(piece, crc)
                hold(record, crc)
        except (CkptoolError, OSError) as error:
            self.error = error
