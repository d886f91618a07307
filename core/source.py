"""Where bytes come from: an open file, bytes in memory, and records inside either."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from ckptool.errors import NotACheckpoint, Truncated, UsageError
from ckptool.text import escape


class Bytes(Protocol):
    """Anything that can be read at an offset."""

    size: int
    label: str

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with the bytes from `offset` on. Raises Truncated when they are not there."""

    def fileno(self) -> int | None:
        """A descriptor for copying inside the kernel, or None."""


@runtime_checkable
class Distant(Bytes, Protocol):
    """Bytes on another machine, where every read takes a while: it helps to say beforehand what will be read."""

    def expect(self, offset: int, length: int) -> None:
        """This thread is about to read all of it, in order."""

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Small pieces (offset, length) are about to be read."""

    def check_unchanged(self) -> None:
        """Raises Unreachable when another file stands there now."""

    def stop(self) -> None:
        """Nothing more is wanted: end every read that is under way, in whatever thread."""


def expect(source: Bytes, offset: int, length: int) -> None:
    """Tell a distant source what this thread is about to read in order; others need no telling."""
    if source.fileno() is None and isinstance(source, Distant):
        source.expect(offset, length)


def fetch(source: Bytes, ranges: Sequence[tuple[int, int]]) -> None:
    """The same of many small pieces, in whatever order."""
    if source.fileno() is None and isinstance(source, Distant):
        source.fetch(ranges)


class File:
    """A regular file, opened once and read by offset; never reopened, so it cannot be swapped under us."""

    def __init__(self, fd: int, label: str) -> None:
        status = os.fstat(fd)
        self._fd = fd
        self.label = label
        self.size = status.st_size
        self.identity = (status.st_dev, status.st_ino)
        self._opened_as = (status.st_size, status.st_mtime_ns)

    @classmethod
    def open(cls, path: Path) -> "File":
        """Raises UsageError when there is nothing to open, NotACheckpoint when it is no regular file."""
        label = escape(str(path), 1000)
        try:
            # O_NONBLOCK: opening a FIFO must not wait for a writer.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise UsageError(f"{label}: there is no such file", "check the path") from None
        except OSError as error:
            raise UsageError(
                f"{label}: cannot be opened: {error.strerror}", "check the path and its permissions"
            ) from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise NotACheckpoint(f"{label}: not a regular file", "give the path of a checkpoint file")
        return cls(fd, label)

    @classmethod
    def adopt(cls, fd: int, label: str) -> "File":
        """A file of our own that is open already, under a descriptor of its own."""
        return cls(os.dup(fd), label)

    def __enter__(self) -> "File":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def fileno(self) -> int:
        return self._fd

    def read_into(self, buffer: memoryview, offset: int) -> None:
        done = 0
        while done < len(buffer):
            count = os.preadv(self._fd, [buffer[done:]], offset + done)
            if count == 0:
                raise Truncated(
                    f"{self.label}: ends at byte {self.size:,}, but byte {offset + len(buffer):,} is needed",
                    "the file is incomplete: download or copy it again",
                )
            done += count

    def check_unchanged(self) -> None:
        """Raise when somebody wrote to the file since it was opened."""
        status = os.fstat(self._fd)
        if (status.st_size, status.st_mtime_ns) != self._opened_as:
            raise Truncated(
                f"{self.label}: was changed while it was being read", "wait until it is complete, then run again"
            )


class Memory:
    """Bytes that are already in memory, with the interface of a file."""

    def __init__(self, data: bytes, label: str) -> None:
        self.data = data
        self.size = len(data)
        self.label = label

    def read_into(self, buffer: memoryview, offset: int) -> None:
        end = offset + len(buffer)
        if end > self.size:
            raise Truncated(
                f"{self.label}: ends at byte {self.size:,}, but byte {end:,} is needed", "the file is incomplete"
            )
        buffer[:] = self.data[offset:end]

    def fileno(self) -> None:
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A run of bytes with a name: a whole file, a member of an archive, a storage."""

    source: Bytes
    offset: int
    """Where the stored bytes begin in `source`."""
    size: int
    """How many bytes it holds (after inflating, where `packed` is given)."""
    name: str = ""
    crc: int | None = None
    """CRC-32 that the container states for the whole record, where it states one."""
    packed: int | None = field(default=None)
    """Stored length of a deflated record, else None."""

    @classmethod
    def whole(cls, source: Bytes) -> "Record":
        return cls(source, 0, source.size, "")

    def slice(self, offset: int, size: int, name: str = "") -> "Record":
        """A part of this record (which must not be deflated), in its own coordinates."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise Truncated(
                f"{self.label}: ends at byte {self.size:,}, but byte {offset + size:,} is needed",
                "the file is incomplete: download or copy it again",
            )
        return Record(self.source, self.offset + offset, size, name or self.name)

    @property
    def label(self) -> str:
        return f"{self.source.label}: {escape(self.name, 80)}" if self.name else self.source.label

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, both counted inside the record."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise Truncated(
                f"{self.label}: ends at byte {self.size:,}, but byte {offset + size:,} is needed",
                "the file is incomplete: download or copy it again",
            )
        buffer = bytearray(size)
        self.source.read_into(memoryview(buffer), self.offset + offset)
        return bytes(buffer)
