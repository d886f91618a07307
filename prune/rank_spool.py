"""New factors in an unnamed temporary file, so that a large adapter does not stand in memory."""

import os
import tempfile
from pathlib import Path

from ckptool.errors import Truncated, Unwritable
from ckptool.output import write_at
from ckptool.source import Record
from ckptool.tensor import Span


class Spool:
    """Bytes that are added at its end and read at any offset. The file vanishes with the last tensor in it."""

    def __init__(self, folder: Path | None) -> None:
        self.size = 0
        self.label = "new factors"
        self.folder = folder
        try:
            # Closed when nothing refers to it any more: the tensors of the plan do, until they are written.
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise unwritable(error, folder) from error

    def fileno(self) -> int:
        return self._file.fileno()

    def add(self, data: bytes) -> Span:
        """Raises Unwritable when there is no room."""
        try:
            write_at(self.fileno(), data, self.size)
        except OSError as error:
            raise unwritable(error, self.folder) from error
        record = Record(self, self.size, len(data))
        self.size += len(data)
        return Span(record, 0, len(data))

    def read_into(self, buffer: memoryview, offset: int) -> None:
        done = 0
        while done < len(buffer):
            count = os.preadv(self.fileno(), [buffer[done:]], offset + done)
            if count == 0:
                raise Truncated(
                    f"{self.label}: end at byte {offset + done:,}", "somebody cut a temporary file: run again"
                )
            done += count


def unwritable(error: OSError, folder: Path | None) -> Unwritable:
    hint = "make room in the folder for temporary files, or name another one in TMPDIR"
    if folder is not None:
        hint = "make room in the output's folder, where they lie until it is written, or write to another one"
    return Unwritable(f"new factors cannot be written: {error.strerror or error}", hint)
