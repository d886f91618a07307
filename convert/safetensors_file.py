"""Read a safetensors header: descriptions of tensors, with no duplicate, overlap or hole.

Source: the format's description at https://github.com/huggingface/safetensors#format.
"""

import json
from math import prod
from typing import Any

from ckptool.convert.torch_names import MAX_RANK, is_count
from ckptool.errors import Malformed, OverBudget, Truncated
from ckptool.source import Bytes, Record
from ckptool.tensor import BITS, Plan, Span, Tensor
from ckptool.text import escape

MAX_HEADER = 100_000_000
MAX_BRACKETS = 2_000_000
MAX_COMMAS = 8_000_000
"""Bounds for what the JSON would take in memory: some 600,000 tensors."""
DAMAGED = "the file is damaged or forged: get another copy"


def read_safetensors(source: Bytes) -> Plan:
    """The plan of a safetensors file."""
    record = Record.whole(source)
    if source.size < 8:
        raise Truncated(
            f"{source.label}: ends at byte {source.size:,}, inside the length of its header", "download it again"
        )
    length = int.from_bytes(record.read(0, 8), "little")
    if length > MAX_HEADER:
        raise OverBudget(
            f"{source.label}: states a header of {length:,} bytes; the format allows {MAX_HEADER:,}", DAMAGED
        )
    if 8 + length > source.size:
        raise Truncated(
            f"{source.label}: ends at byte {source.size:,}, but its header goes on to byte {8 + length:,}",
            "download it again",
        )
    header = parse(source, record.read(8, length))
    metadata = check_metadata(source, header.pop("__metadata__", {}))
    tensors = [read_tensor(record, 8 + length, name, entry) for name, entry in header.items()]
    check_cover(source, 8 + length, tensors)
    return Plan("safetensors", tuple(tensors), metadata={"format": "pt", **metadata}, sources=(record,))


def parse(source: Bytes, data: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Malformed(f"{source.label}: a name stands twice in the header", DAMAGED)
        return found

    if data.count(b"[") + data.count(b"{") > MAX_BRACKETS or data.count(b",") > MAX_COMMAS:
        raise OverBudget(f"{source.label}: its header describes more than any model has", DAMAGED)
    try:
        header = json.loads(data.decode(), object_pairs_hook=unique)
        if b"\\u" in data:  # an escape can stand for half a character, which has no UTF-8
            json.dumps(header, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{source.label}: its header is not JSON: {escape(str(error), 80)}", DAMAGED) from error
    if type(header) is not dict or data[:1] != b"{":
        raise Malformed(f"{source.label}: its header is not a JSON object", DAMAGED)
    return header


def check_metadata(source: Bytes, metadata: Any) -> dict[str, str]:
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        raise Malformed(f"{source.label}: its metadata are not texts by name", DAMAGED)
    return metadata


def read_tensor(record: Record, start: int, name: str, entry: Any) -> Tensor:
    label = f"{record.label}: tensor {escape(name, 80)}"
    if type(entry) is not dict or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise Malformed(f"{label}: is not described by dtype, shape and data_offsets", DAMAGED)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(dtype) is not str or dtype not in BITS:
        raise Malformed(f"{label}: has an unknown dtype {escape(str(dtype), 20)!r}", "a newer version may know it")
    if type(shape) is not list or len(shape) > MAX_RANK or not all(is_count(size) for size in shape):
        raise Malformed(f"{label}: its shape is not a list of at most {MAX_RANK} sizes", DAMAGED)
    if type(offsets) is not list or len(offsets) != 2 or not all(is_count(offset) for offset in offsets):
        raise Malformed(f"{label}: its data_offsets are not two sizes", DAMAGED)
    begin, end = offsets
    bits = prod(shape) * BITS[dtype]
    if end < begin or bits != (end - begin) * 8:
        raise Malformed(f"{label}: {dtype} {shape} does not fill bytes {begin:,} to {end:,}", DAMAGED)
    return Tensor(name, dtype, tuple(shape), Span(record, start + begin, end - begin))


def check_cover(source: Bytes, start: int, tensors: list[Tensor]) -> None:
    """The tensors fill the rest of the file exactly, one after the other."""
    position = start
    spans = sorted(
        ((t.data.offset, t.data.length, t.name) for t in tensors if isinstance(t.data, Span)), key=lambda s: s[:2]
    )
    for offset, length, name in spans:
        if offset != position:
            what = "overlaps another tensor" if offset < position else "leaves a hole before it"
            raise Malformed(f"{source.label}: tensor {escape(name, 80)} at byte {offset:,} {what}", DAMAGED)
        position += length
    if position > source.size:
        raise Truncated(
            f"{source.label}: ends at byte {source.size:,}, but should end at byte {position:,}", "download it again"
        )
    if position < source.size:
        raise Malformed(
            f"{source.label}: {source.size - position:,} bytes follow the last tensor at byte {position:,}", DAMAGED
        )
