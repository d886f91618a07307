"""Torch's format from before 1.6 and plain pickles: pickles in a row, for torch followed by raw storages.

Source: torch/serialization.py (`_legacy_save`, `_legacy_load`) and torch/csrc/serialization.cpp (storages).
"""

from ckptool.convert.contents import Contents
from ckptool.convert.examine import Pickle, Reader
from ckptool.convert.machine import Budget
from ckptool.convert.torch_names import is_count, width_of
from ckptool.convert.torch_zip import trailing
from ckptool.convert.values import Storage, Value
from ckptool.errors import CkptoolError, Malformed, Refused, Truncated
from ckptool.source import Bytes, Record, fetch
from ckptool.tensor import Finding
from ckptool.text import escape

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
HEADER = 8
"""Bytes of the element count before each storage."""
DAMAGED = "the file is damaged or forged: get another copy"
MAX_TRAILING = 100
TOGETHER = 4096
"""Element counts that are asked for together, where they are on another machine."""


def read_pickles(source: Bytes) -> Contents:
    """A file that begins with a pickle: torch's magic number makes it a legacy torch file."""
    record = Record.whole(source)
    reader = Reader(budget=Budget.of(source.size))
    first = reader.run(record)
    if first.error is None and type(first.value) is int and first.value == MAGIC:
        return read_legacy(reader, record)
    contents = Contents("pickle", first.value, no_storages, reader.pickles, error=first.error)
    last: Pickle | None = first
    for _ in range(MAX_TRAILING):
        if last is None or last.error is not None or last.end >= record.size:
            break
        finding, last = trailing(reader, record, last)
        contents.findings.append(finding)
    return contents


def no_storages(storage: Storage) -> Record:
    raise Malformed(f"the storage {escape(storage.key, 80)} is named by a plain pickle, which has none", DAMAGED)


def read_legacy(reader: Reader, record: Record) -> Contents:
    """The four pickles after the magic number, then the storages in the order of the key list."""
    contents = Contents("torch-legacy", pickles=reader.pickles)
    try:
        contents.value, table = read_object(reader, record, reader.pickles[0].end)
    except CkptoolError as error:
        contents.error = error
        return contents
    end = max((r.offset + r.size for r in table.values()), default=reader.pickles[-1].end)
    end -= record.offset if table else 0
    if end < record.size:
        text = f"{record.size - end:,} bytes follow the last storage"
        contents.findings.append(Finding("trailing-data", "note", text, offset=end, action="dropped"))
    contents.locate = lambda storage: locate(record, table, storage)
    return contents


def read_object(reader: Reader, record: Record, start: int) -> tuple[Value, dict[str, Record]]:
    """The object of a legacy file and its storages by key. Raises what is wrong with either."""
    values: list[Value] = []
    for index in range(1, 5):
        pickle = reader.run(record, start, index=index)
        values.append(pickle.result())
        start = pickle.end
    protocol, _, value, keys = values
    if type(protocol) is not int or protocol != PROTOCOL:
        raise Malformed(f"{record.label}: a legacy torch file of an unknown protocol", DAMAGED)
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise Malformed(f"{record.label}: the list of storage keys is not a list of texts", DAMAGED)
    return value, storage_table(record, start, keys, reader.storages)


def storage_table(record: Record, start: int, keys: list[str], storages: dict[str, Storage]) -> dict[str, Record]:
    """Where each storage lies: an element count, then its bytes. Every length is held against the file's."""
    table: dict[str, Record] = {}
    for number, key in enumerate(keys):
        if number % TOGETHER == 0:
            fetch(record.source, counts_of(record, start, keys[number : number + TOGETHER], storages))
        storage = storages.get(key)
        name = escape(key, 80)
        if storage is None or key in table:
            raise Malformed(f"{record.label}: the storage {name} is listed, but not used once", DAMAGED)
        width = width_of(storage.dtype) if storage.dtype else 1
        end = start + HEADER + storage.nbytes
        if end > record.size:
            raise Truncated(
                f"{record.label}: ends at byte {record.size:,}, but the storage {name} goes on to byte {end:,} "
                f"and the file to byte {expected_end(start, keys[len(table) :], storages):,}",
                "the download was cut off: download it again",
            )
        count = int.from_bytes(record.read(start, HEADER), "little", signed=True)
        if not is_count(count) or count * width != storage.nbytes:
            raise Malformed(
                f"{record.label}: the storage {name} has {count:,} elements at byte {start:,}, unlike its pickle",
                DAMAGED,
            )
        table[key] = record.slice(start + HEADER, storage.nbytes, key)
        start = end
    return table


def counts_of(record: Record, start: int, keys: list[str], storages: dict[str, Storage]) -> list[tuple[int, int]]:
    """Where the element counts of storages should be, in the file."""
    found: list[tuple[int, int]] = []
    for key in keys:
        found.append((record.offset + start, HEADER))
        start += HEADER + (storages[key].nbytes if key in storages else 0)
    return found


def expected_end(start: int, keys: list[str], storages: dict[str, Storage]) -> int:
    """Where a whole file would end."""
    return start + sum(HEADER + storages[key].nbytes for key in keys if key in storages)


def locate(record: Record, table: dict[str, Record], storage: Storage) -> Record:
    found = table.get(storage.key)
    if found is None:
        raise Malformed(f"{record.label}: the storage {escape(storage.key, 80)} is not in the file", DAMAGED)
    return found.slice(storage.start, storage.nbytes)


def read_nested(reader: Reader, record: Record) -> Storage:
    """A storage that a plain pickle carries as a legacy torch file in its bytes."""
    first = reader.run(record)
    if type(first.result()) is not int or first.value != MAGIC:
        raise Refused(f"{record.label}: not a legacy torch file", DAMAGED)
    value, table = read_object(reader, record, first.end)
    if type(value) is not Storage:
        raise Refused(f"{record.label}: holds something else than a storage", DAMAGED)
    return Storage("", value.dtype, value.nbytes, locate(record, table, value))
