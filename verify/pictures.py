"""Outputs of both files as pictures: before, after, and the difference made visible."""

import struct
import zlib
from pathlib import Path
from typing import Any

from ckptool.output import Output, write_at

EDGE = 256
"""Pixels that a small picture is enlarged to, at least."""


def pictures_of(original: Any, candidate: Any) -> dict[str, bytes]:
    """PNGs by name of one component's outputs, numpy arrays of one shape, drawn on the scale of the original.

    A decoded picture is drawn as it is. Of a latent the first three channels are shown as red, green and blue, which is
    a preview and no picture; of a text encoding its rows and columns in grey. The difference is divided by its own
    largest value; where nothing differs, it is black.
    """
    import numpy

    before, after = (plane(numpy.nan_to_num(array.astype("<f4"))) for array in (original, candidate))
    low, high = float(before.min(initial=0)), float(before.max(initial=0))
    span = (high - low) or 1.0
    apart = numpy.abs(after - before)
    largest = float(apart.max(initial=0)) or 1.0
    return {
        "original": png((before - low) / span),
        "candidate": png((after - low) / span),
        "difference": png(apart / largest),
    }


def plane(array: Any) -> Any:
    """Rows, columns and one or three channels."""
    import numpy

    while array.ndim > 3 or (array.ndim == 3 and array.shape[0] == 1):
        array = array[0]
    if array.ndim == 3:
        return numpy.moveaxis(array[:3] if array.shape[0] >= 3 else array[:1], 0, -1)
    return numpy.atleast_2d(array)[:, :, None]


def png(shares: Any) -> bytes:
    """A PNG of values from 0 to 1, small ones with whole multiples of their pixels."""
    import numpy

    levels = numpy.clip(shares * 255 + 0.5, 0, 255).astype("u1")
    times = max(1, EDGE // max(levels.shape[0], levels.shape[1], 1))
    levels = levels.repeat(times, axis=0).repeat(times, axis=1)
    rows, columns, channels = levels.shape
    lines = b"".join(b"\0" + levels[row].tobytes() for row in range(rows))
    head = struct.pack(">IIBBBBB", columns, rows, 8, 2 if channels == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines, 6)) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_pictures(folder: Path, component: str, original: Any, candidate: Any) -> list[Path]:
    """Write the pictures of one component; those of an earlier run are replaced."""
    paths: list[Path] = []
    for name, data in pictures_of(original, candidate).items():
        path = folder / f"{component}-{name}.png"
        with Output(path, len(data), force=True) as output:
            write_at(output.fd, data, 0)
        paths.append(path)
    return paths
