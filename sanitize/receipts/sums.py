"""SHA256SUMS of an output folder, as `sha256sum -c` reads it, made from its receipts."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ckptool.errors import Malformed
from ckptool.output import Output, write_at
from ckptool.sanitize.names import RECEIPT, signature_of
from ckptool.sanitize.receipts.receipt_file import MOST, files_of, read_small, receipt_in
from ckptool.sanitize.receipts.sign import Signer

SUMS = "SHA256SUMS"


def receipts_in(out: Path) -> Iterator[Path]:
    """Every receipt below a folder, sorted by the folder and the name."""
    for folder, folders, names in os.walk(out):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(RECEIPT))


def write_sums(out: Path, signer: Signer | None = None) -> int:
    """In one step; of several runs into one folder each writes the sums of all, one after the other.

    They are signed when every receipt is: else they would vouch for outputs that nobody vouches for. How many are not.
    """
    sums = out / SUMS
    with locked(out):
        data, unsigned = sums_of(out, signer)
        if unsigned or differs(sums, data):
            signature_of(sums).unlink(missing_ok=True)
        with Output(sums, len(data), force=True) as file:
            write_at(file.fd, data, 0)
        if signer is not None and not unsigned:
            signer.sign_file(sums, data)
    return unsigned


def sums_of(out: Path, signer: Signer | None) -> tuple[bytes, int]:
    """The sums by all receipts, and how many of these have no signature by this key."""
    lines: list[bytes] = []
    unsigned = 0
    for path in receipts_in(out):
        try:
            data = read_small(path, MOST)
            receipt = receipt_in(data, path)
        except (OSError, Malformed):
            continue  # `receipt verify` tells of it
        lines += [line(os.fsencode(file.relative_to(out)), sha256) for file, sha256 in files_of(path, receipt)]
        unsigned += signer is not None and not signer.has_signed(path, data)
    lines.sort(key=name_in)
    return b"".join(lines), unsigned


def differs(path: Path, data: bytes) -> bool:
    try:
        return read_small(path, len(data)) != data
    except OSError:
        return True


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
