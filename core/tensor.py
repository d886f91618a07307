"""A checkpoint is a plan: a tuple of tensors whose bytes have not been read yet.

read:  source -> Plan            convert/
step:  Plan   -> Plan            prune/, quantize/
write: Plan   -> file            convert/
"""

from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

from ckptool.source import Record

# Every dtype of safetensors with its width in bits, in the order of the format's own enum: a conventional
# writer sorts tensors by it, widest first, so a file with this order hashes like theirs.
BITS: dict[str, int] = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """A byte range of a record, copied untouched."""

    record: Record
    offset: int
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class Strided:
    """A view with strides: gathered into row-major order. Strides and offset count elements."""

    record: Record
    width: int
    """Bytes of an element."""
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Inline:
    """Small computed bytes."""

    data: bytes


class Change(Protocol):
    """Changes whole elements in place. Called from several threads, each with a buffer of its own."""

    def __call__(self, elements: memoryview, /) -> None: ...


class Convert(Protocol):
    """Turns whole elements in `source` into as many in `target`. Called from several threads at once."""

    def __call__(self, source: memoryview, target: memoryview, /) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Mapped:
    """An elementwise change of another data, in place, one buffer of whole elements at a time."""

    data: "Data"
    width: int
    """Bytes of an element, before and after."""
    change: Change


@dataclass(frozen=True, slots=True, eq=False)
class Cast:
    """Another data with its elements in another dtype, one buffer of whole elements at a time."""

    data: "Data"
    dtype: str
    """The dtype before, a key of BITS of at least 8 bits, as is `to`."""
    to: str
    convert: Convert


Data = Span | Strided | Inline | Mapped | Cast


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A description of a tensor and where its bytes come from."""

    name: str
    dtype: str
    """A key of BITS."""
    shape: tuple[int, ...]
    data: Data

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * BITS[self.dtype] // 8


@dataclass(frozen=True, slots=True)
class Dropped:
    """What is left out is a value with a reason, not a log line."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a file refers to or does, and what became of it."""

    rule: str
    severity: str
    """note, warning or error: in the words of the verdict harmless, unknown and dangerous."""
    message: str
    entry: str = ""
    pickle: int = 0
    """Which pickle of the entry, counted from 0 (legacy files hold five)."""
    offset: int = 0
    """Byte offset of the opcode inside the entry."""
    opcode: str = ""
    reference: str = ""
    call: str = ""
    action: str = "reported"
    """reported, disarmed, dropped or refused."""


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """Plain values with tensors in them, for a kind of file whose shape is part of what it says."""

    value: Any
    dropped: tuple[Dropped, ...]
    """What has no plain form."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything that is known of a checkpoint before a byte of its tensors is read."""

    format: str
    tensors: tuple[Tensor, ...]
    dropped: tuple[Dropped, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    sources: tuple[Record, ...] = ()
    """Every file that was opened: held against change, and against the destination."""
    structure: Structure | None = None
    """What a hypernetwork looks like, since UIs load it as a pickle only."""

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)
