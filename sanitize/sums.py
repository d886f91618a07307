"""SHA256SUMS of an output folder, as `sha256sum -c` reads it, made from its receipts."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ckptool.errors import CkptoolError
from ckptool.output import Output, write_at
from ckptool.sanitize.names import RECEIPT
from ckptool.sanitize.receipt_file import files_of, read_receipt

SUMS = "SHA256SUMS"


def receipts_in(out: Path) -> Iterator[Path]:
    """Every receipt below a folder, sorted by the folder and the name."""
    for folder, folders, names in os.walk(out):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(RECEIPT))


def write_sums(out: Path) -> None:
    """In one step; of several runs into one folder each writes the sums of all, one after the other."""
    with locked(out):
        lines: list[bytes] = []
        for path in receipts_in(out):
            try:
                receipt = read_receipt(path)
            except CkptoolError:
                continue  # `receipt verify` tells of it
            lines += [line(os.fsencode(file.relative_to(out)), sha256) for file, sha256 in files_of(path, receipt)]
        lines.sort(key=name_in)
        data = b"".join(lines)
        with Output(out / SUMS, len(data), force=True) as file:
            write_at(file.fd, data, 0)


def line(name: bytes, sha256: str) -> bytes:
    """A name that would break the line is escaped as coreutils do."""
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"\\" if escaped != name else b"") + sha256.encode() + b"  " + escaped + b"\n"


def name_in(text: bytes) -> bytes:
    return text.partition(b"  ")[2]


@contextmanager
def locked(out: Path) -> Iterator[None]:
    folder = os.open(out, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
