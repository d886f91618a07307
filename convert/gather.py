"""The bytes of tensors, piece by piece: spans in order, strided views in boxes that fit into a window."""

from collections.abc import Iterable, Iterator
from math import prod

from ckptool.source import Bytes, Record, expect, fetch
from ckptool.tensor import BITS, Cast, Data, Inline, Mapped, Span, Strided, Tensor

CHUNK = 1 << 20
WINDOW = 1 << 22
"""Bytes of a box, in the source and in the output."""

Box = tuple[tuple[int, int], ...]
"""First index and length along each dimension."""


def pieces(data: Data) -> Iterator[tuple[int, memoryview]]:
    """(byte offset inside the tensor, bytes), together all of the tensor; buffers are used again."""
    match data:
        case Span():
            yield from span_pieces(data)
        case Strided():
            yield from strided_pieces(data)
        case Inline():
            yield 0, memoryview(data.data)
        case Mapped():
            for offset, piece in pieces(data.data):
                data.change(piece)
                yield offset, piece
        case Cast():
            width, to_width = BITS[data.dtype] // 8, BITS[data.to] // 8
            for offset, piece in pieces(data.data):
                target = memoryview(bytearray(len(piece) // width * to_width))
                data.convert(piece, target)
                yield offset // width * to_width, target


def span_pieces(span: Span) -> Iterator[tuple[int, memoryview]]:
    buffer = memoryview(bytearray(min(CHUNK, span.length)))
    expect(span.record.source, span.record.offset + span.offset, span.length)
    for done in range(0, span.length, CHUNK):
        piece = buffer[: min(CHUNK, span.length - done)]
        read(span.record, span.offset + done, piece)
        yield done, piece


def look_ahead(tensors: Iterable[Tensor], length: int) -> None:
    """The first `length` bytes of each tensor are about to be read: on another machine, asked for together."""
    wanted: dict[Bytes, list[tuple[int, int]]] = {}
    for tensor in tensors:
        data = tensor.data
        if isinstance(data, Span) and data.record.packed is None:
            at = data.record.offset + data.offset
            wanted.setdefault(data.record.source, []).append((at, min(length, data.length)))
    for source, ranges in wanted.items():
        fetch(source, ranges)


def read(record: Record, offset: int, buffer: memoryview) -> None:
    record.source.read_into(buffer, record.offset + offset)


def strided_pieces(view: Strided) -> Iterator[tuple[int, memoryview]]:
    """Gather a view box by box. Each box is cut so that what it reads and what it writes fit into WINDOW."""
    whole: Box = tuple((0, n) for n in view.shape)
    todo = [whole]
    while todo:
        box = todo.pop()
        spread = [(n - 1) * stride for (_, n), stride in zip(box, view.strides, strict=True)]
        count = prod(n for _, n in box)
        if (sum(spread) + 1) * view.width > WINDOW:
            todo.extend(reversed(halves(box, spread.index(max(spread)))))
        elif count * view.width > WINDOW:
            todo.extend(reversed(halves(box, next(i for i, (_, n) in enumerate(box) if n > 1))))
        else:
            yield from box_pieces(view, box, sum(spread) + 1)


def halves(box: Box, axis: int) -> list[Box]:
    first, n = box[axis]
    half = n // 2
    return [(*box[:axis], part, *box[axis + 1 :]) for part in ((first, half), (first + half, n - half))]


def box_pieces(view: Strided, box: Box, extent: int) -> Iterator[tuple[int, memoryview]]:
    """Read the extent of a box at once, bring it into row-major order, and yield its runs in the output."""
    import numpy  # only strided views pay for the import
    from numpy.lib.stride_tricks import as_strided

    start = view.offset + sum(first * stride for (first, _), stride in zip(box, view.strides, strict=True))
    raw = bytearray(extent * view.width)
    read(view.record, start * view.width, memoryview(raw))
    items = numpy.frombuffer(raw, dtype=f"V{view.width}")
    shape = [n for _, n in box]
    gathered = numpy.ascontiguousarray(as_strided(items, shape, [stride * view.width for stride in view.strides]))
    data = gathered.view(numpy.uint8).reshape(-1).data
    for at, offset, length in runs(view.shape, box):
        yield offset * view.width, data[at * view.width : (at + length) * view.width]


def runs(shape: tuple[int, ...], box: Box) -> Iterator[tuple[int, int, int]]:
    """(element inside the box, element inside the tensor, length) of each run that is contiguous in the output."""
    inner = len(shape)
    while inner > 0 and box[inner - 1] == (0, shape[inner - 1]):
        inner -= 1
    inner = max(inner - 1, 0)  # the innermost dimension that is cut still forms runs
    length = prod(n for _, n in box[inner:])
    steps = [prod(shape[i + 1 :]) for i in range(len(shape))]
    base = sum(first * steps[i] for i, (first, _) in enumerate(box))
    for number in range(prod(n for _, n in box[:inner])):
        offset, rest = base, number
        for axis in range(inner - 1, -1, -1):
            rest, index = divmod(rest, box[axis][1])
            offset += index * steps[axis]
        yield number * length, offset, length
