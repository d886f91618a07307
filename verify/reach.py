"""Tensors whose bytes can be read from anywhere in them, which is what comparing piece by piece needs."""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from ckptool.convert.gather import pieces
from ckptool.convert.inflate import inflated
from ckptool.convert.jobs import Steps, steps_of
from ckptool.convert.sums import base_of
from ckptool.convert.writer import moved
from ckptool.output import check_space, unwritable, write_at
from ckptool.source import File, Memory, Record
from ckptool.tensor import BITS, Cast, Inline, Span, Strided, Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Reach:
    """A run of bytes, and changes of its elements in place (byte order)."""

    tensor: Tensor
    span: Span
    steps: Steps = ()

    @property
    def width(self) -> int:
        """Bytes of an element; of formats that pack several into a byte, 1."""
        return max(BITS[self.tensor.dtype] // 8, 1)

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer with stored bytes from an offset on."""
        record = self.span.record
        record.source.read_into(buffer, record.offset + self.span.offset + offset)

    def change(self, buffer: memoryview) -> None:
        """Turn whole stored elements into those that they mean."""
        for step in self.steps:
            assert not isinstance(step, Cast)
            step.change(buffer)


class Spool:
    """A temporary file without a name, for bytes that have to be brought in order first; made when it is needed.

    Deflated records are inflated into it and strided views are gathered there, each once.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._file: File | None = None
        self._filled = 0
        self._inflated: dict[tuple[int, int], Record] = {}
        self._reaches: dict[int, tuple[Tensor, Reach]] = {}

    def reach(self, tensor: Tensor) -> Reach:
        """A tensor whose bytes can be read anywhere. Raises Unwritable when the temporary folder has no room."""
        if id(tensor) not in self._reaches:
            # The tensor itself is kept too, so that no other one gets its id.
            self._reaches[id(tensor)] = (tensor, self.made(tensor))
        return self._reaches[id(tensor)][1]

    def made(self, tensor: Tensor) -> Reach:
        base = base_of(tensor.data)
        if not isinstance(base, Inline) and base.record.packed is not None:
            tensor = replace(tensor, data=moved(tensor.data, self.inflate(base.record)))
            base = base_of(tensor.data)
        steps = steps_of(tensor.data)
        match base:
            case Inline():
                return Reach(tensor, Span(Record.whole(Memory(base.data, tensor.name)), 0, len(base.data)), steps)
            case Strided():
                return Reach(tensor, self.gather(tensor))
        if any(isinstance(step, Cast) for step in steps):
            return Reach(tensor, self.gather(tensor))
        return Reach(tensor, base, steps)

    def inflate(self, record: Record) -> Record:
        key = (id(record.source), record.offset)
        if key not in self._inflated:
            start, total = self._filled, 0
            for piece in inflated(record):
                self.append(piece)
                total += len(piece)
            self._inflated[key] = Record(self.file(), start, total, record.name)
        return self._inflated[key]

    def gather(self, tensor: Tensor) -> Span:
        check_space(Path(tempfile.gettempdir(), "spool"), tensor.nbytes)  # strides of 0 make much out of nothing
        start = self._filled
        for offset, piece in pieces(tensor.data):
            self.write(piece, start + offset)
        self._filled = start + tensor.nbytes
        return Span(Record(self.file(), start, tensor.nbytes, tensor.name), 0, tensor.nbytes)

    def append(self, piece: bytes) -> None:
        self.write(piece, self._filled)
        self._filled += len(piece)

    def write(self, piece: memoryview | bytes, offset: int) -> None:
        try:
            write_at(self.file().fileno(), piece, offset)
        except OSError as error:
            raise unwritable(Path(tempfile.gettempdir()), error) from error

    def file(self) -> File:
        if self._file is None:
            with tempfile.TemporaryFile() as spool:
                self._file = self._stack.enter_context(File.adopt(spool.fileno(), "temporary file"))
        return self._file
