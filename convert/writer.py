"""Write a plan as safetensors: each byte flows once, from the source to the output."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TypeGuard

from zlib_ng import zlib_ng

from ckptool.convert.copy import SMALL, Batch, Checks, copy_span
from ckptool.convert.gather import pieces
from ckptool.convert.inflate import hold, unpack
from ckptool.convert.layout import Layout, layout
from ckptool.convert.shards import Shards
from ckptool.output import Output, write_at
from ckptool.source import File, Record
from ckptool.tensor import Cast, Data, Inline, Mapped, Plan, Span, Tensor

Advance = Callable[[int], None]


def ignore(_: int) -> None:
    """Nobody watches the progress."""


def write(plan: Plan, path: Path, force: bool = False, advance: Advance = ignore) -> int:
    """Write `plan` to `path` and return the size in bytes; `advance` is told of tensor bytes as they are written.

    Raises Malformed when a record's CRC is wrong, Unwritable when there is no room, and leaves nothing behind.
    """
    made = layout(plan.tensors, plan.metadata)
    with Output(path, made.size, force) as output:
        fill(output, made, advance)
        check_sources(plan)
    return made.size


def write_shards(shards: Shards, force: bool = False, advance: Advance = ignore) -> int:
    """The same for several files: none gets its name before all are whole, and the index gets its name last."""
    layouts = [layout(plan.tensors, plan.metadata) for _, plan in shards.files]
    total = sum(made.size for made in layouts)
    with ExitStack() as stack:
        index = stack.enter_context(Output(shards.index_path, total, force))
        write_at(index.fd, shards.index, 0)
        for (path, plan), made in zip(shards.files, layouts, strict=True):
            fill(stack.enter_context(Output(path, made.size, force)), made, advance)
            check_sources(plan)
    return total + len(shards.index)


def fill(output: Output, made: Layout, advance: Advance) -> None:
    """Write the head and every tensor, while the sums of the source's records are checked beside it."""
    with ExitStack() as stack:
        tensors = unpacked(made.tensors, output.path.parent, stack)
        batch = Batch(output.fd)
        with Checks(summed_records(tensors)) as checks:
            write_at(output.fd, made.head, 0)
            for tensor, offset in zip(tensors, made.offsets, strict=True):
                data = tensor.data
                if is_small(data):
                    batch.add(small_bytes(data), offset)
                    advance(data.length)
                else:
                    write_tensor(data, output.fd, offset, advance)
                    checks.raise_error()
        batch.flush()


def is_small(data: Data) -> TypeGuard[Span]:
    return type(data) is Span and data.length <= SMALL


def small_bytes(span: Span) -> bytes:
    """The bytes of a small span; where it is a whole record, its sum is checked on the way."""
    record = span.record
    data = record.read(span.offset, span.length)
    if span.length == record.size:
        hold(record, zlib_ng.crc32(data))
    return data


def check_sources(plan: Plan) -> None:
    for record in plan.sources:
        if isinstance(record.source, File):
            record.source.check_unchanged()


def write_tensor(data: Data, target: int, offset: int, advance: Advance) -> None:
    if isinstance(data, Span):
        copy_span(data, target, offset, advance)
        return
    for at, piece in pieces(data):
        write_at(target, piece, offset + at)
        advance(len(piece))


def record_of(data: Data) -> Record | None:
    """The record that data come from, None for computed bytes."""
    inner = data
    while isinstance(inner, Mapped | Cast):
        inner = inner.data
    return None if isinstance(inner, Inline) else inner.record


def summed_records(tensors: Iterable[Tensor]) -> list[Record]:
    """The records that the tensors use and whose container states a sum, each once, in order.

    Small ones that a tensor fills are left out: they are summed as they are written.
    """
    records: dict[int, Record] = {}
    for tensor in tensors:
        record = record_of(tensor.data)
        if (
            record is not None
            and record.crc is not None
            and not (is_small(tensor.data) and tensor.data.length == record.size)
        ):
            records[id(record)] = record
    return list(records.values())


def unpacked(tensors: tuple[Tensor, ...], folder: Path, stack: ExitStack) -> list[Tensor]:
    """Tensors of deflated records moved onto inflated ones, each record inflated once."""
    done: dict[tuple[int, int], Record] = {}
    result: list[Tensor] = []
    for tensor in tensors:
        record = record_of(tensor.data)
        if record is None or record.packed is None:
            result.append(tensor)
            continue
        key = (id(record.source), record.offset)
        if key not in done:
            done[key] = Record.whole(stack.enter_context(unpack(record, folder)))
        result.append(replace(tensor, data=moved(tensor.data, done[key])))
    return result


def moved(data: Data, record: Record) -> Data:
    """The same data in another record."""
    if isinstance(data, Mapped | Cast):
        return replace(data, data=moved(data.data, record))
    return data if isinstance(data, Inline) else replace(data, record=record)
