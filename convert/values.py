"""The inert values that the pickle machine works on: they describe, and do nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ckptool.source import Record

Value = Any
"""None, bool, int, float, str, bytes, tuple, list, or one of the classes of this package's pickle reader."""


INERT = object()
"""What a meaning answers when a call has none with these arguments: it stays a description."""


@dataclass(slots=True, eq=False)
class Ref:
    """A name that the pickle refers to. It is never looked up."""

    module: str
    name: str
    offset: int
    opcode: str = "GLOBAL"
    used: bool = False
    """Something was called with it, so the call is reported rather than the name."""
    meaning: Callable[..., Value] | None = None
    """What calling it means, for the closed set of names that have a meaning."""
    maker: Callable[..., Value] | None = None
    """What making an object of it means: functions make none."""


@dataclass(slots=True, eq=False)
class Call:
    """What would have been called, with what. `states` and `items` are what was done to its result."""

    function: Value
    args: Value
    kwargs: Value
    opcode: str
    offset: int
    states: list[Value] = field(default_factory=list)
    items: list[Value] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Dict:
    """A mapping as the list of its entries: keys that the file chose are never hashed here."""

    pairs: list[tuple[Value, Value]] = field(default_factory=list)

    def build(self, state: Value) -> None:
        """Attributes of a dict (a state dict's `_metadata`) say nothing about its entries."""


@dataclass(slots=True, eq=False)
class Set:
    """A set or frozenset as the list of its members."""

    items: list[Value]


@dataclass(slots=True, eq=False)
class Module:
    """An object of a known container class: its state holds tensors under `_parameters` and the like."""

    kind: str
    state: Value = None

    def build(self, state: Value) -> None:
        """One state. Torch would join a second one to it; no writer gives two."""
        twice = Unusable("it is given two states", "the file is damaged or forged: get another copy", True)
        self.state = state if self.state is None else twice


@dataclass(frozen=True, slots=True, eq=False)
class Blob:
    """Long bytes or text that were left in the file: `record` is where they lie."""

    record: Record
    text: bool


@dataclass(frozen=True, slots=True, eq=False)
class Unusable:
    """A tensor that cannot be written. It is refused where it is needed, and only there."""

    reason: str
    hint: str
    damaged: bool = False
    """What the file says cannot be right; otherwise it is merely nothing that safetensors can hold."""


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """A torch dtype by its safetensors name, None where the format has none. `name` is torch's or numpy's."""

    code: str | None
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class StorageType:
    """A torch storage class: the dtype of its elements, None for an untyped storage, which counts bytes."""

    dtype: DType | None


@dataclass(slots=True, eq=False)
class Storage:
    """The bytes behind tensors: a key of the container, or a record that is already known."""

    key: str
    dtype: DType | None
    nbytes: int
    record: Record | None = None
    start: int = 0
    """First byte inside the storage `key`, for legacy files' views of storages."""


@dataclass(slots=True, eq=False)
class Rebuilt:
    """A tensor as the file describes it: checked against the extent of its storage."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    """First element, counted in elements."""
    storage: Storage
    swap: bool = False
    """Its bytes are big-endian."""
    conj: bool = False
    neg: bool = False
