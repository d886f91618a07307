"""Read a zip directory with one interpretation only: whatever two readers could see differently is refused.

Source: PKWARE APPNOTE 6.3.10; what torch writes: caffe2/serialize/inline_container.cc and miniz.
"""

import unicodedata
from dataclasses import dataclass
from struct import Struct

from ckptool.convert.archive_directory import (
    DEFLATED,
    FULL32,
    ODD,
    Entry,
    Reader,
    find_directory,
    read_directory,
    show,
    widen,
)
from ckptool.errors import Malformed
from ckptool.source import Bytes, Record, fetch
from ckptool.text import escape

LOCAL = Struct("<4s5H3I2H")
DESCRIPTOR = Struct("<4s3I")
DESCRIPTOR64 = Struct("<4sI2Q")
PADDING = 128
"""Bytes that torch's alignment and a zip64 field take at most after the name of an entry."""
TOGETHER = 4096
"""Headers that are asked for together, where they are on another machine."""


@dataclass(frozen=True, slots=True, eq=False)
class Archive:
    """The members of an archive by their names without the root."""

    root: str
    records: dict[str, Record]
    unchecked: bool
    """Written without checksums (`torch.serialization.set_crc32_options(False)`): every CRC is 0."""


def read_archive(source: Bytes) -> Archive:
    """The archive's members. Raises Malformed, Truncated or OverBudget."""
    reader = Reader(source)
    entries = read_directory(reader, *find_directory(reader))
    starts = check_records(reader, entries)
    sized = [entry for entry in entries if entry.size]
    unchecked = len(sized) > 0 and all(entry.crc == 0 for entry in sized)
    records: dict[str, Record] = {}
    seen: set[str] = set()
    roots: set[str] = set()
    for entry, start in zip(entries, starts, strict=True):
        root, name = check_name(source, entry, seen)
        roots.add(root)
        if name:
            packed = entry.packed if entry.method == DEFLATED else None
            records[name] = Record(source, start, entry.size, name, None if unchecked else entry.crc, packed)
    if len(roots) != 1:
        found = ", ".join(sorted(escape(root, 40) for root in roots)[:4]) or "none"
        raise Malformed(
            f"{source.label}: a torch archive has one root folder, this one has {len(roots)} ({found})", ODD
        )
    return Archive(roots.pop(), records, unchecked)


def check_records(reader: Reader, entries: list[Entry]) -> list[int]:
    """Hold each local header against the directory; the data's offset of each, in the order of `entries`."""
    starts = [0] * len(entries)
    position = 0
    order = sorted(range(len(entries)), key=lambda i: entries[i].offset)
    for number, index in enumerate(order):
        if number % TOGETHER == 0:
            fetch(reader.source, [around(entries[i]) for i in order[number : number + TOGETHER]])
        entry = entries[index]
        if entry.offset != position:
            what = "overlaps the record before it" if entry.offset < position else "has unknown bytes before it"
            raise Malformed(f"{reader.source.label}: {show(entry.name)} at byte {entry.offset:,} {what}", ODD)
        starts[index] = check_local(reader, entry)
        position = starts[index] + entry.packed
        if entry.flags & 8:
            position += descriptor_length(reader, position, entry)
    return starts


def around(entry: Entry) -> tuple[int, int]:
    """Offset and length of an entry's header, with the descriptor before it and torch's padding after its name."""
    before = min(DESCRIPTOR64.size, entry.offset)
    return entry.offset - before, before + LOCAL.size + len(entry.name) + PADDING


def check_local(reader: Reader, entry: Entry) -> int:
    """Offset of an entry's data, after its local header, which must say what the directory says."""
    label = reader.source.label
    data, at = reader.window(entry.offset, LOCAL.size)
    magic, _, flags, method, _, _, crc, packed, full, names, extras = LOCAL.unpack_from(data, at)
    size = LOCAL.size + names + extras
    data, at = reader.window(entry.offset, size)
    name, extra = at + LOCAL.size, at + LOCAL.size + names
    if extras:
        packed, full, _ = widen(label, data[extra : extra + extras], full, packed, 0)
    # Where a descriptor follows, numbers that were not known yet are 0; torch knows some of them.
    agrees = (
        (crc == entry.crc and packed == entry.packed and full == entry.size)
        or (flags & 8 and crc in (0, entry.crc) and packed in (0, entry.packed) and full in (0, entry.size))
    )  # fmt: skip
    if (
        magic != b"PK\x03\x04"
        or data[name:extra] != entry.name
        or flags != entry.flags
        or method != entry.method
        or not agrees
    ):
        raise Malformed(f"{label}: {show(entry.name)}: its header and the zip directory disagree", ODD)
    return int(entry.offset + size)


def descriptor_length(reader: Reader, offset: int, entry: Entry) -> int:
    """Length of the data descriptor after a record, which must agree with the directory."""
    data, at = reader.window(offset, DESCRIPTOR64.size)
    if entry.size > FULL32 or entry.packed > FULL32:
        forms: tuple[Struct, ...] = (DESCRIPTOR64,)
    else:
        # Of an empty record the narrow form is also the first half of a wide one's zeros.
        forms = (DESCRIPTOR, DESCRIPTOR64) if entry.size else (DESCRIPTOR64, DESCRIPTOR)
    for form in forms:
        wanted = form.pack(b"PK\x07\x08", entry.crc, entry.packed, entry.size)
        if data.startswith(wanted, at):
            return form.size
        if data.startswith(wanted[4:], at):  # the signature is optional
            return form.size - 4
    raise Malformed(
        f"{reader.source.label}: {show(entry.name)}: its data descriptor and the zip directory disagree", ODD
    )


def check_name(source: Bytes, entry: Entry, seen: set[str]) -> tuple[str, str]:
    """Root and rest of an entry's name ("" for a folder). One spelling, one meaning."""
    try:
        name = entry.name.decode()
    except UnicodeDecodeError:
        raise Malformed(f"{source.label}: the name {show(entry.name)} in the zip is not UTF-8", ODD) from None
    folder = name.endswith("/")
    path = name[:-1] if folder else name
    parts = f"/{path}/"
    odd = "//" in parts or "/./" in parts or "/../" in parts or "\\" in path or "\0" in path
    if odd or (folder and entry.size):
        raise Malformed(f"{source.label}: {show(entry.name)} is not a proper name in a zip", ODD)
    # torch's zip reader ignores case, file systems compose accents: both count as the same name.
    normal = path.lower() if path.isascii() else unicodedata.normalize("NFC", path).casefold()
    if normal in seen:
        raise Malformed(f"{source.label}: two entries of the zip are named {show(entry.name)}", ODD)
    seen.add(normal)
    root, _, rest = path.partition("/")
    if not rest and not folder:
        return "", name
    return root, "" if folder else rest
