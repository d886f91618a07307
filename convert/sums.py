"""CRCs of records, summed as their bytes pass: by parts, since several threads each take some."""

import threading
from collections.abc import Iterable, Sequence

from zlib_ng import zlib_ng

from ckptool.convert.inflate import hold
from ckptool.source import Record
from ckptool.tensor import Cast, Data, Inline, Mapped, Span, Strided, Tensor


class Sum:
    """The CRC of one record out of those of its parts, in whatever order they come."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._left = record.size
        self._parts: list[tuple[int, int, int]] = []
        self._lock = threading.Lock()

    def add(self, offset: int, length: int, crc: int) -> None:
        """Take the CRC of a part; the last one to come raises Malformed when the whole is not what it should be."""
        with self._lock:
            self._parts.append((offset, length, crc))
            self._left -= length
            if self._left:
                return
        whole = 0
        for _, size, part in sorted(self._parts):
            whole = zlib_ng.crc32_combine(whole, part, size)
        hold(self.record, whole)


def base_of(data: Data) -> Span | Strided | Inline:
    """Where data come from, below all changes."""
    while isinstance(data, Mapped | Cast):
        data = data.data
    return data


def is_whole(span: Span) -> bool:
    """All of its record passes with it, so the record's CRC can be checked on the way."""
    return span.offset == 0 and span.length == span.record.size


def stated(tensors: Iterable[Tensor]) -> list[Record]:
    """The records that the tensors come from and whose container states a CRC, each once."""
    records: dict[int, Record] = {}
    for tensor in tensors:
        base = base_of(tensor.data)
        if not isinstance(base, Inline) and base.record.crc is not None:
            records[id(base.record)] = base.record
    return list(records.values())


def left_over(tensors: Sequence[Tensor]) -> list[Record]:
    """Those of them that no tensor takes whole: they are read for their CRC alone."""
    spans = [base for base in (base_of(tensor.data) for tensor in tensors) if isinstance(base, Span)]
    passing = {id(span.record) for span in spans if is_whole(span)}
    return [record for record in stated(tensors) if id(record) not in passing]
