"""Pictures as PNG, and as what a page holds in the place of an address."""

import struct
import zlib
from base64 import b64encode
from typing import Any

EDGE = 256
"""Pixels that a small picture is enlarged to, at least."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, COLOUR = 0, 2


def png(shares: Any) -> bytes:
    """A PNG of numbers from 0 to 1 [rows, columns, 1 or 3], small ones with whole multiples of their pixels."""
    import numpy

    levels = numpy.clip(shares * 255 + 0.5, 0, 255).astype("u1")
    times = max(1, EDGE // max(levels.shape[0], levels.shape[1], 1))
    levels = levels.repeat(times, axis=0).repeat(times, axis=1)
    rows, columns, channels = levels.shape
    lines = b"".join(b"\0" + levels[row].tobytes() for row in range(rows))
    head = struct.pack(">IIBBBBB", columns, rows, 8, COLOUR if channels == 3 else GREY, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def size_of(data: bytes) -> tuple[int, int]:
    """Columns and rows of a PNG made here."""
    columns, rows = struct.unpack(">II", data[16:24])
    return columns, rows


def data_uri(data: bytes) -> str:
    return f"data:image/png;base64,{b64encode(data).decode('ascii')}"
