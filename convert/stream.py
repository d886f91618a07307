"""Read a pickle from a record through a small window, every length held against what is left."""

from ckptool.errors import Malformed, Truncated
from ckptool.source import Record

WINDOW = 1 << 16


class Stream:
    """Sequential reader over a record; memory is one window, or one string that was asked for."""

    def __init__(self, record: Record, start: int = 0) -> None:
        self.record = record
        self._base = start
        self._buffer = b""
        self._pos = 0

    def tell(self) -> int:
        """Offset of the next byte inside the record."""
        return self._base + self._pos

    @property
    def left(self) -> int:
        return self.record.size - self.tell()

    def window(self, least: int) -> tuple[bytes, int]:
        """The buffer and the position in it, with `least` bytes ahead unless the record ends before."""
        if len(self._buffer) - self._pos < least and self.left > len(self._buffer) - self._pos:
            at = self.tell()
            self._buffer, self._base, self._pos = self.record.read(at, min(WINDOW, self.left)), at, 0
        return self._buffer, self._pos

    def peek(self) -> int:
        """The next byte of the buffer, -1 when there is none in it."""
        return self._buffer[self._pos] if self._pos < len(self._buffer) else -1

    def seek(self, position: int) -> None:
        """Go on at a position of the buffer that `window` gave."""
        self._pos = position

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises Truncated, before any allocation, when the record has fewer."""
        end = self._pos + count
        if end <= len(self._buffer):
            data = self._buffer[self._pos : end]
            self._pos = end
            return data
        if count > self.left:
            raise Truncated(
                f"{self.record.label}: the pickle ends at byte {self.record.size:,}, "
                f"but the opcode before byte {self.tell():,} needs {count:,} more",
                "the file is incomplete or was made to look so: download it again",
            )
        self._base = self.tell()
        self._buffer = self.record.read(self._base, min(max(count, WINDOW), self.record.size - self._base))
        self._pos = count
        return self._buffer[:count]

    def skip(self, count: int) -> None:
        """Step over `count` bytes without reading them."""
        if count > self.left:
            self.take(count)
        end = self._pos + count
        if end <= len(self._buffer):
            self._pos = end
        else:
            self._base, self._buffer, self._pos = self._base + end, b"", 0

    def line(self, limit: int) -> bytes:
        """Bytes up to the next newline, which is consumed and not returned."""
        at = self.tell()
        end = self._buffer.find(b"\n", self._pos)
        if end < 0:
            self._buffer, self._base, self._pos = self.record.read(at, min(limit + 1, self.left)), at, 0
            end = self._buffer.find(b"\n")
        if end < 0 or end - self._pos > limit:
            raise Malformed(
                f"{self.record.label}: no line of at most {limit:,} bytes begins at byte {at:,} of the pickle",
                "this is not how a pickle is written: do not trust the file",
            )
        data = self._buffer[self._pos : end]
        self._pos = end + 1
        return data
