"""Find and read the directory of a zip, with one interpretation only.

Source: PKWARE APPNOTE 6.3.10.
"""

from dataclasses import dataclass
from struct import Struct

from ckptool.errors import Malformed, OverBudget, Truncated
from ckptool.source import Bytes, Distant, Record
from ckptool.text import escape

END = Struct("<4s4H2IH")
END64 = Struct("<4sQ2H2I4Q")
LOCATOR = Struct("<4sIQI")
CENTRAL = Struct("<4s6H3I5H2I")
FIELD = Struct("<HH")
STORED, DEFLATED = 0, 8
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
ALLOWED_FLAGS = 0x080E
"""Deflate's level bits, the data descriptor and UTF-8 names: nothing encrypted, patched or masked."""
MAX_ENTRIES = 2_000_000
MAX_DIRECTORY = 1 << 28
WINDOW, WIDEST = 1 << 12, 1 << 16
ODD = "an archive that can be read in two ways is not converted: repack it with torch, or get another copy"


@dataclass(slots=True, eq=False)
class Entry:
    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int


class Reader:
    """Reads small pieces through one window, which grows where the headers of small records lie side by side."""

    def __init__(self, source: Bytes) -> None:
        self.source = source
        self._start, self._data = 0, b""
        # From another machine come exactly the bytes that are needed: `fetch` asked for them before.
        self._least, self._most = (0, 0) if isinstance(source, Distant) else (WINDOW, WIDEST)
        self._width = self._least

    def window(self, offset: int, size: int) -> tuple[bytes, int]:
        """Bytes of the file, and where in them `offset` is: `size` bytes follow it at least."""
        begin = offset - self._start
        if not (0 <= begin and begin + size <= len(self._data)):
            if offset < 0 or offset + size > self.source.size:
                raise Malformed(
                    f"{self.source.label}: the zip directory points outside the file (byte {offset:,})", ODD
                )
            near = 0 <= begin <= 2 * len(self._data)
            self._width = min(2 * self._width, self._most) if near else self._least
            count = min(max(size, self._width), self.source.size - offset)
            self._data = Record.whole(self.source).read(offset, count)
            self._start, begin = offset, 0
        return self._data, begin

    def read(self, offset: int, size: int) -> bytes:
        data, begin = self.window(offset, size)
        return data[begin : begin + size]


def find_directory(reader: Reader) -> tuple[int, int, int]:
    """Offset, size and number of entries of the central directory, which ends where the end record begins."""
    source = reader.source
    tail_start = max(0, source.size - END.size - FULL16)
    tail = reader.read(tail_start, source.size - tail_start)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < END.size:
        raise Truncated(
            f"{source.label}: ends at byte {source.size:,} without the directory of a zip", "download it again"
        )
    _, disk, directory_disk, here, count, size, offset, comment = END.unpack_from(tail, found)
    end = tail_start + found
    if comment or end + END.size != source.size:
        raise Malformed(f"{source.label}: bytes follow the end of the zip at byte {end + END.size:,}", ODD)
    if has_rival(tail, found):
        raise Malformed(f"{source.label}: the zip has two end records", ODD)
    if (disk, directory_disk) not in ((0, 0), (FULL16, FULL16)) or here != count:
        raise Malformed(f"{source.label}: one part of a split zip", "join the parts first")
    locator = reader.read(end - LOCATOR.size, LOCATOR.size) if end >= LOCATOR.size else b""
    if locator[:4] == b"PK\x06\x07":
        return find_directory64(reader, end - LOCATOR.size, locator, (count, size, offset))
    if FULL32 in (size, offset) or count == FULL16:
        raise Malformed(f"{source.label}: the zip64 end record is missing", ODD)
    return check_directory(source, offset, size, count, end)


def has_rival(tail: bytes, end: int) -> bool:
    """Another end record whose comment reaches to the end of the file as well: a second reading of the zip."""
    at = tail.find(b"PK\x05\x06")
    while 0 <= at < end:
        if at + END.size + int.from_bytes(tail[at + 20 : at + 22], "little") == len(tail):
            return True
        at = tail.find(b"PK\x05\x06", at + 1)
    return False


def find_directory64(reader: Reader, end: int, locator: bytes, small: tuple[int, int, int]) -> tuple[int, int, int]:
    """The same from the zip64 end record; the plain one must agree wherever it is not saturated."""
    label = reader.source.label
    _, disk, start, disks = LOCATOR.unpack(locator)
    if start + END64.size > end:
        raise Malformed(f"{label}: the zip64 end record is not where its locator says", ODD)
    magic, length, _, _, disk64, directory_disk, here, count, size, offset = END64.unpack(
        reader.read(start, END64.size)
    )
    if magic != b"PK\x06\x06" or start + 12 + length != end:
        raise Malformed(f"{label}: the zip64 end record is not where its locator says", ODD)
    if (disk, disk64, directory_disk) != (0, 0, 0) or disks not in (0, 1) or here != count:
        raise Malformed(f"{label}: one part of a split zip", "join the parts first")
    limits = (FULL16, FULL32, FULL32)
    if any(plain not in (limit, wide) for plain, wide, limit in zip(small, (count, size, offset), limits, strict=True)):
        raise Malformed(f"{label}: the two end records of the zip disagree", ODD)
    return check_directory(reader.source, offset, size, count, start)


def check_directory(source: Bytes, offset: int, size: int, count: int, end: int) -> tuple[int, int, int]:
    if offset + size != end:
        raise Malformed(
            f"{source.label}: the zip directory ends at byte {offset + size:,}, not at its end record ({end:,})", ODD
        )
    if count > MAX_ENTRIES or size > MAX_DIRECTORY or count * CENTRAL.size > size:
        raise OverBudget(f"{source.label}: a zip directory of {count:,} entries in {size:,} bytes", ODD)
    return offset, size, count


def read_directory(reader: Reader, offset: int, size: int, count: int) -> list[Entry]:
    label = reader.source.label
    data = reader.read(offset, size)
    entries: list[Entry] = []
    at = 0
    for _ in range(count):
        if at + CENTRAL.size > size:
            raise Malformed(f"{label}: the zip directory has fewer entries than it says", ODD)
        head = CENTRAL.unpack_from(data, at)
        magic, made, _, flags, method, _, _, crc, packed, full, names, extras, comments, disk, _, mode, start = head
        body = at + CENTRAL.size
        at = body + names + extras + comments
        if magic != b"PK\x01\x02" or at > size:
            raise Malformed(f"{label}: the zip directory is damaged at byte {offset + body:,}", ODD)
        name = data[body : body + names]
        extra = data[body + names : body + names + extras] if extras else b""
        if extra:
            packed, full, start = widen(label, extra, full, packed, start)
        if disk not in (0, FULL16) or (made >> 8 == 3 and mode >> 28 == 0xA):
            raise Malformed(f"{label}: {show(name)} is a link or lies in another part of the zip", ODD)
        check_method(label, name, flags, method, packed, full)
        entries.append(Entry(name, flags, method, crc, packed, full, start))
    if at != size:
        raise Malformed(f"{label}: the zip directory has more entries than it says", ODD)
    return entries


def widen(label: str, extra: bytes, full: int, packed: int, start: int) -> tuple[int, int, int]:
    """Sizes and offset, from the zip64 extra field where the plain ones are saturated: (packed, full, start)."""
    at, wide = 0, b""
    while at + 4 <= len(extra):
        kind, length = FIELD.unpack_from(extra, at)
        if kind in (0x7075, 0x9901):
            raise Malformed(f"{label}: the zip has a second name or an encryption field for an entry", ODD)
        if kind == 1:
            if wide:
                raise Malformed(f"{label}: the zip has two zip64 fields for an entry", ODD)
            wide = extra[at + 4 : at + 4 + length]
        at += 4 + length
    if FULL32 not in (full, packed, start):
        return packed, full, start
    fields = [full, packed, start]
    for index, value in enumerate(fields):
        if value == FULL32:
            if len(wide) < 8:
                raise Malformed(f"{label}: a zip64 size is missing", ODD)
            fields[index], wide = int.from_bytes(wide[:8], "little"), wide[8:]
    return fields[1], fields[0], fields[2]


def check_method(label: str, name: bytes, flags: int, method: int, packed: int, full: int) -> None:
    if flags & 1 or flags & 0x2040 or method == 99:
        raise Malformed(f"{label}: {show(name)} is encrypted", "decrypt the archive first")
    if flags & ~ALLOWED_FLAGS:
        raise Malformed(f"{label}: {show(name)} has flags 0x{flags:04x} that no checkpoint needs", ODD)
    if method not in (STORED, DEFLATED):
        raise Malformed(
            f"{label}: {show(name)} is packed by method {method}", "repack it with method 0 (stored) or 8 (deflate)"
        )
    if method == STORED and packed != full:
        raise Malformed(f"{label}: {show(name)} is stored, but its two sizes differ ({packed:,} and {full:,})", ODD)
    if method == DEFLATED and full > packed * 1032 + 1032:
        raise OverBudget(
            f"{label}: {show(name)} claims {full:,} bytes out of {packed:,}, more than deflate can hold", ODD
        )


def show(name: bytes) -> str:
    return escape(name.decode("utf-8", "replace"), 80)
