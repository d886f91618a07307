"""What is attacked: each target takes bytes, and may raise CkptoolError and nothing else."""

import io
import zipfile
from contextlib import ExitStack
from pathlib import Path
from zlib import crc32

import safetensors

from ckptool.convert.archive import Archive, read_archive
from ckptool.convert.contents import Contents
from ckptool.convert.examine import Pickle, Reader
from ckptool.convert.findings import findings_of
from ckptool.convert.inflate import check_crc, inflated
from ckptool.convert.layout import layout
from ckptool.convert.read import read
from ckptool.convert.safetensors_file import read_safetensors
from ckptool.convert.scan import Scan, scan_file
from ckptool.convert.writer import write
from ckptool.errors import CkptoolError
from ckptool.source import Memory, Record
from ckptool.tensor import Plan, Span
from tests.fuzz.guard import guarded
from tests.fuzz.strategies import Expected

Members = dict[str, bytes]


def interpret(data: bytes) -> Pickle:
    """The pickle machine, and the findings of what it met. An error is kept in the result."""
    with guarded():
        done = Reader().run(Record.whole(Memory(data, "fuzz")))
        findings_of(Contents("pickle", pickles=[done]), "reported")
    return done


def unzip(data: bytes) -> Members | None:
    """What our zip reader gives under full names, None where it refuses a member's bytes or the archive."""
    with guarded():
        try:
            archive = read_archive(Memory(data, "fuzz"))
            return {full_name(archive, name): member(record) for name, record in archive.records.items()}
        except CkptoolError:
            return None


def full_name(archive: Archive, name: str) -> str:
    return f"{archive.root}/{name}" if archive.root else name


def member(record: Record) -> bytes:
    if record.packed is not None:
        return b"".join(inflated(record))
    check_crc(record)
    return record.read(0, record.size)


def differs_from_zipfile(data: bytes) -> str | None:
    """How an archive that is accepted reads differently with Python's zipfile, None when it does not.

    zipfile may refuse what we accept; names that are not ASCII are decoded by different rules, so only bytes count.
    """
    ours = unzip(data)
    if ours is None:
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            if all(name.isascii() for name in (*names, *ours)) and sorted(names) != sorted(ours):
                return f"names: {sorted(names)} and {sorted(ours)}"
            for name in names:
                try:
                    theirs = archive.read(name)
                except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError):
                    continue
                if name in ours and theirs != ours[name]:
                    return f"bytes of {name!r}: crc {crc32(theirs):08x} and {crc32(ours[name]):08x}"
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return None
    return None


def header(data: bytes) -> Expected | None:
    """Tensors of a safetensors file as we read it, None where it is refused; what is read can be laid out again."""
    with guarded():
        try:
            plan = read_safetensors(Memory(data, "fuzz"))
            layout(plan.tensors, plan.metadata)
        except CkptoolError:
            return None
    return {t.name: (t.dtype, t.shape, span_bytes(t.data)) for t in plan.tensors if isinstance(t.data, Span)}


def span_bytes(span: Span) -> bytes:
    return span.record.read(span.offset, span.length)


def differs_from_safetensors(data: bytes) -> str | None:
    """How a safetensors file that is accepted reads differently with the format's library, or None."""
    ours = header(data)
    if ours is None:
        return None
    try:
        theirs = by_library(data)
    except safetensors.SafetensorError as error:
        return None if is_stricter(str(error)) else f"the library refuses it: {error}"
    return None if ours == theirs else f"{ours} and {theirs}"


def is_stricter(message: str) -> bool:
    """What the library refuses and we need not: numbers and texts that its JSON parser or its integers cannot hold."""
    return "JSON" in message or "json" in message or "Overflow" in message or "overflow" in message


def by_library(data: bytes) -> Expected:
    read = safetensors.deserialize(data)  # type: ignore[no-untyped-call,unused-ignore]
    return {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in read}


def convert(data: bytes, folder: Path, force: bool = True) -> tuple[Expected, Plan]:
    """The whole way from a file to a file, read back by the format's library. Raises CkptoolError."""
    source, target = folder / "source.ckpt", folder / "target.safetensors"
    source.write_bytes(data)
    with ExitStack() as stack:
        with guarded(readable=None):
            plan = read(source, stack)
        write(plan, target, force=force)
    return by_library(target.read_bytes()), plan


def scan(data: bytes, folder: Path) -> Scan:
    """A scan, which keeps the error that it met."""
    source = folder / "scanned.ckpt"
    source.write_bytes(data)
    with guarded(readable=None):
        return scan_file(source)
