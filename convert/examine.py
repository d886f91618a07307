"""Run the pickles of a file and keep, for each, its value and all that it referred to."""

from dataclasses import dataclass, field

from ckptool.convert import numpy_names, torch_names
from ckptool.convert.machine import Budget, Limits, Machine, Meaning, Names
from ckptool.convert.opcodes import HANDLERS
from ckptool.convert.stream import Stream
from ckptool.convert.values import INERT, Call, Ref, Storage, StorageType, Unusable, Value
from ckptool.errors import CkptoolError
from ckptool.source import Record

MAX_DEPTH = 2
"""A plain pickle of a tensor holds a torch file in its bytes; nothing holds another in that."""


@dataclass(slots=True, eq=False)
class Pickle:
    """One pickle that was interpreted, as far as it went."""

    entry: str
    index: int
    value: Value
    calls: list[Call]
    refs: list[Ref]
    end: int
    """Offset after STOP."""
    unusable: list[tuple[int, Unusable]] = field(default_factory=list)
    """Byte offset and reason of tensors that cannot be."""
    error: CkptoolError | None = None

    def result(self) -> Value:
        """The value. Raises what stopped the machine."""
        if self.error is not None:
            raise self.error
        return self.value


class Reader:
    """Interprets the pickles of one container; storages that they name are checked against each other."""

    def __init__(self, prefix: str = "", depth: int = 0, script: bool = False, budget: Budget | None = None) -> None:
        self.budget = budget or Budget()
        self.nested: dict[int, tuple[Value, Value]] = {}
        self.prefix = prefix
        self.storages: dict[str, Storage] = {}
        self.views: dict[str, tuple[Value, ...]] = {}
        """Views of storages in legacy files by their names, which stand beside those of storages."""
        self.pickles: list[Pickle] = []
        self.depth = depth
        self.script = script

    def names(self) -> Names:
        """Made for each run, not kept: a reader that referred to itself would stay in memory for a while."""
        return Names(
            {
                **torch_names.FUNCTIONS,
                **numpy_names.FUNCTIONS,
                ("torch.storage", "_load_from_bytes"): self.load_from_bytes,
            },
            {**torch_names.CLASSES, **numpy_names.CLASSES},
            torch_names.CONSTANTS,
            self.persistent,
            script_objects if self.script else lambda _: None,
        )

    def run(
        self, record: Record, start: int = 0, entry: str = "", index: int = 0, limits: Limits | None = None
    ) -> Pickle:
        """Interpret one pickle; an error is kept with what was met before it."""
        machine = Machine(Stream(record, start), self.names(), limits or Limits(), self.budget)
        value, error = None, None
        try:
            value = machine.run(HANDLERS)
        except CkptoolError as caught:
            error = caught
        refs = [ref for ref in machine.refs.values() if ref.meaning is None]
        done = Pickle(entry, index, value, machine.calls, refs, machine.stream.tell(), machine.unusable, error)
        self.pickles.append(done)
        return done

    def persistent(self, pid: Value) -> Value:
        """`("storage", class, key, location, count[, view])` as torch writes it. Of locations only `meta` counts."""
        if type(pid) is tuple and len(pid) == 4 and pid[0] == "module":
            return pid[1]
        if type(pid) is not tuple or not 5 <= len(pid) <= 6 or pid[0] not in ("storage", b"storage"):
            return torch_names.damaged("its persistent id is not a storage")
        _, kind, key, location, count = pid[:5]
        if location in ("meta", b"meta"):
            return torch_names.META
        if type(kind) is not StorageType or type(key) is not str or not torch_names.is_count(count):
            return torch_names.damaged("its storage has no proper class, key or count")
        width = torch_names.width_of(kind.dtype) if kind.dtype else 1
        storage = self.same(Storage(self.prefix + key, kind.dtype, count * width))
        view = pid[5] if len(pid) == 6 else None
        if isinstance(storage, Unusable) or (view is None and key not in self.views):
            return storage
        return self.part(storage, key, view, width)

    def same(self, storage: Storage) -> Storage | Unusable:
        """One dtype and one length per key: two readings of the same bytes are not both right."""
        first = self.storages.setdefault(storage.key, storage)
        if first is storage:
            return first
        names = [s.dtype.name if s.dtype else "bytes" for s in (first, storage)]
        if names[0] != names[1] or first.nbytes != storage.nbytes:
            return torch_names.damaged(
                f"storage {storage.key!r:.60} is {first.nbytes:,} B of {names[0]} and {storage.nbytes:,} of {names[1]}"
            )
        return first

    def part(self, storage: Storage, key: str, view: Value, width: int) -> Storage | Unusable:
        """A legacy view of a storage: `(name, offset, count)` in elements of the whole.

        Torch looks a name up among views and storages alike, and takes the first that has it.
        """
        if self.prefix or type(view) is not tuple or len(view) != 3 or type(view[0]) is not str:
            return torch_names.damaged("its storage is a view that makes no sense")
        if not all(torch_names.is_count(number) for number in view[1:]):
            return torch_names.damaged("its storage is a view that makes no sense")
        first = self.views.setdefault(view[0], (key, *view[1:]))
        if first != (key, *view[1:]) or view[0] in self.storages or key in self.views:
            return torch_names.damaged("its storage is a view whose name stands for something else as well")
        start, size = view[1] * width, view[2] * width
        if start + size > storage.nbytes:
            return torch_names.damaged("its storage is a view that reaches outside the whole")
        return Storage(storage.key, storage.dtype, size, storage.record, start)

    def load_from_bytes(self, data: Value = None, *_: Value) -> Value:
        """`torch.storage._load_from_bytes`: a storage as a legacy torch file inside the pickle."""
        from ckptool.convert.torch_legacy import read_nested

        record = numpy_names.bytes_of(data)
        if record is None or self.depth + 1 >= MAX_DEPTH:
            return INERT
        if id(data) in self.nested:
            return self.nested[id(data)][1]
        nested = Reader(depth=self.depth + 1, budget=self.budget)
        try:
            value: Value = read_nested(nested, record)
        except CkptoolError:
            value = INERT  # the nested pickles keep what was wrong with them
        self.pickles.extend(nested.pickles)
        self.nested[id(data)] = (data, value)  # the data too, so that its identity stays its own
        return value


def script_objects(module: str) -> Meaning | None:
    """Classes that a TorchScript archive defines live under `__torch__`; their objects are bags of attributes."""
    return torch_names.container("script") if module == "__torch__" or module.startswith("__torch__.") else None
