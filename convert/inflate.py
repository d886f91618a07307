"""Check the CRC of records as their bytes pass, and inflate deflated ones within their stated size."""

from collections.abc import Iterator
from pathlib import Path

from zlib_ng import zlib_ng

from ckptool.errors import Malformed, OverBudget
from ckptool.source import File, Memory, Record, expect
from ckptool.text import size as show_size

CHUNK = 1 << 20
MAX_PICKLE = 1 << 26
"""A deflated pickle is held in memory; the largest known ones are a few MB."""
DAMAGED = "the file is damaged: download or copy it again"


def chunks(record: Record) -> Iterator[memoryview]:
    """The stored bytes of a record, piece by piece, in a buffer that is used again."""
    length = record.size if record.packed is None else record.packed
    buffer = memoryview(bytearray(min(CHUNK, length)))
    expect(record.source, record.offset, length)
    done = 0
    while done < length:
        piece = buffer[: min(CHUNK, length - done)]
        record.source.read_into(piece, record.offset + done)
        done += len(piece)
        yield piece


def check_crc(record: Record) -> None:
    """Raise Malformed when the stored bytes are not those that were summed."""
    if record.crc is None:
        return
    crc = 0
    for piece in chunks(record):
        crc = zlib_ng.crc32(piece, crc)
    hold(record, crc)


def hold(record: Record, crc: int) -> None:
    if record.crc is not None and crc != record.crc:
        raise Malformed(f"{record.label}: wrong CRC: 0x{crc:08x}, but its directory says 0x{record.crc:08x}", DAMAGED)


def inflated(record: Record) -> Iterator[bytes]:
    """The bytes of a deflated record, checked for length and CRC at the end."""
    inflater = zlib_ng.decompressobj(-15)
    crc = total = 0
    try:
        for piece in chunks(record):
            data, out = bytes(piece), bytes(CHUNK)
            # A full buffer can leave output behind although all input is taken.
            while not inflater.eof and (data or len(out) == CHUNK):
                out = inflater.decompress(data, CHUNK)
                total += len(out)
                if total > record.size:
                    raise OverBudget(
                        f"{record.label}: inflates to more than the {record.size:,} bytes that it states", DAMAGED
                    )
                crc = zlib_ng.crc32(out, crc)
                yield out
                data = inflater.unconsumed_tail
            if inflater.eof and (inflater.unused_data or data):
                raise Malformed(f"{record.label}: bytes follow its deflated data", DAMAGED)
    except zlib_ng.error as error:  # type: ignore[misc]  # its stub calls the class an instance
        raise Malformed(f"{record.label}: is not deflated data: {error}", DAMAGED) from error
    if not inflater.eof or total != record.size:
        raise Malformed(f"{record.label}: inflates to {total:,} bytes where {record.size:,} are stated", DAMAGED)
    hold(record, crc)


def readable(record: Record) -> Record:
    """A record whose bytes can be read at any offset, and are what the directory summed: for small ones and pickles."""
    if record.packed is None:
        check_crc(record)
        return record
    if record.size > MAX_PICKLE:
        raise OverBudget(
            f"{record.label}: a deflated pickle of {show_size(record.size)}", "repack the archive without compression"
        )
    return Record.whole(Memory(b"".join(inflated(record)), record.label))


def unpack(record: Record, folder: Path) -> File:
    """A deflated storage in an unnamed temporary file in `folder`, where the output goes as well.

    The file vanishes when it is closed, and with the process in any case.
    """
    import tempfile  # deflated storages are rare

    # delete=True on POSIX: the name is gone before a byte is written.
    with tempfile.TemporaryFile(dir=folder) as spool:
        for piece in inflated(record):
            spool.write(piece)
        spool.flush()
        return File.adopt(spool.fileno(), record.label)
