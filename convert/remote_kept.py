"""Small pieces of a distant file: which to ask for together, and which to keep."""

from bisect import bisect_right
from collections.abc import Sequence

SMALL = 1 << 20
"""Reads of at most this size are kept: a directory or a pickle is read more than once."""
KEPT = 1 << 23
GAP = 512
"""Bytes between two wanted pieces that are cheaper to take along than to ask for the second one alone."""


class Kept:
    """Pieces that were read, the newest of them up to KEPT bytes."""

    def __init__(self) -> None:
        self._pieces: dict[int, bytes | bytearray] = {}
        self._starts: list[int] = []
        self._held = 0

    def add(self, start: int, data: bytes | bytearray) -> None:
        """No piece lies within another: so the last one that begins before an offset reaches furthest."""
        at = bisect_right(self._starts, start)
        if at and self._end(at - 1) >= start + len(data):
            return
        at -= bool(at and self._starts[at - 1] == start)
        while at < len(self._starts) and self._end(at) <= start + len(data):
            self._held -= len(self._pieces.pop(self._starts.pop(at)))
        self._starts.insert(at, start)
        self._pieces[start] = data
        self._held += len(data)
        while self._held > KEPT and len(self._pieces) > 1:
            oldest = next(iter(self._pieces))
            self._held -= len(self._pieces.pop(oldest))
            self._starts.remove(oldest)

    def _end(self, at: int) -> int:
        return self._starts[at] + len(self._pieces[self._starts[at]])

    def find(self, buffer: memoryview, offset: int) -> bool:
        """Fill `buffer` from a piece that holds all of it, if one does."""
        at = bisect_right(self._starts, offset) - 1
        if at < 0:
            return False
        start = self._starts[at]
        data = self._pieces[start]
        if offset + len(buffer) > start + len(data):
            return False
        buffer[:] = data[offset - start : offset - start + len(buffer)]
        self._pieces[start] = self._pieces.pop(start)  # used: the last to go
        return True


def merged(ranges: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """Ranges inside the file, in order, what lies close together as one, none longer than SMALL."""
    result: list[tuple[int, int]] = []
    for offset, length in sorted(ranges):
        length = min(length, size - offset)
        if offset < 0 or not 0 < length <= SMALL:
            continue
        if result and offset <= sum(result[-1]) + GAP and offset + length - result[-1][0] <= SMALL:
            start, before = result[-1]
            result[-1] = (start, max(before, offset + length - start))
        else:
            result.append((offset, length))
    return result
