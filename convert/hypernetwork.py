"""Write a hypernetwork as a clean `.pt`: torch's zip format with plain values and tensors, and nothing else.

UIs load hypernetworks from `.pt` alone, so a safetensors file of one would load nowhere.
Source: AUTOMATIC1111/stable-diffusion-webui, modules/hypernetworks/hypernetwork.py (`Hypernetwork.save`).
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from struct import pack
from typing import Any

from zlib_ng import zlib_ng

from ckptool.convert.crew import Advance
from ckptool.convert.gather import pieces
from ckptool.convert.inflate import check_crc
from ckptool.convert.render import expression
from ckptool.convert.sums import stated
from ckptool.convert.torch_names import DTYPES, STORAGES, row_major
from ckptool.convert.values import Dict, Rebuilt, Value
from ckptool.convert.writer import check_sources, no_check, unpacked
from ckptool.errors import OverBudget, Refused
from ckptool.output import Output, write_at
from ckptool.tensor import BITS, Dropped, Inline, Plan, Structure, Tensor
from ckptool.text import escape

ALIGNMENT = 64
MAX_SIZE = (1 << 32) - 1
MAX_VALUES = 100_000
MAX_DEPTH = 16
MAX_BITS = 2000
"""Torch's own safe unpickler knows no opcode for wider integers."""
STORAGE_OF = {DTYPES[dtype]: storage for storage, dtype in STORAGES.items() if DTYPES[dtype]}


# --- from what the pickle holds to plain values ------------------------------------------------------------


def structure_of(root: Value, tensors: dict[int, Tensor]) -> Structure | None:
    """The plain form of a hypernetwork, None when `root` is none. `tensors`: by the identity of their description."""
    if type(root) is not Dict:
        return None
    layers = [value for key, value in root.pairs if type(key) is int]
    if not layers or not all(
        type(v) in (tuple, list) and len(v) == 2 and all(type(part) is Dict for part in v) for v in layers
    ):
        return None
    dropped: list[Dropped] = []
    entries: dict[Any, Any] = {}
    for key, value in root.pairs:
        found = plain(value, tensors, [MAX_VALUES], 0)
        if type(key) in (int, str) and found is not NOT_PLAIN:
            entries[key] = found
        else:
            dropped.append(
                Dropped(
                    escape(key, 120) if type(key) is str else expression(key), f"not a plain value: {expression(value)}"
                )
            )
    return Structure(entries, tuple(dropped))


NOT_PLAIN = object()


def plain(value: Value, tensors: dict[int, Tensor], room: list[int], depth: int) -> Any:
    """A value made of nothing but plain ones, or NOT_PLAIN."""
    room[0] -= 1
    if room[0] < 0 or depth > MAX_DEPTH:
        raise OverBudget("it holds more plain values than a hypernetwork has", "do not trust the file")
    kind = type(value)
    if kind is int and value.bit_length() > MAX_BITS:
        return NOT_PLAIN
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is Rebuilt:
        return tensors.get(id(value), NOT_PLAIN)
    if kind in (list, tuple):
        parts = [plain(part, tensors, room, depth + 1) for part in value]
        return NOT_PLAIN if any(part is NOT_PLAIN for part in parts) else kind(parts)
    if kind is Dict and all(type(key) in (str, int) for key, _ in value.pairs):
        entries = {key: plain(part, tensors, room, depth + 1) for key, part in value.pairs}
        return NOT_PLAIN if any(part is NOT_PLAIN for part in entries.values()) else entries
    return NOT_PLAIN


# --- from plain values to a file ---------------------------------------------------------------------------


def write_pt(plan: Plan, target: Path, force: bool, advance: Advance, check: Callable[[], None] = no_check) -> int:
    """Write the plan's structure to `target` and return its size; `check` as for the writer of safetensors."""
    assert plan.structure is not None  # the destination was checked against it
    with ExitStack() as stack:
        output = stack.enter_context(Output(target, plan.nbytes + (1 << 20), force))
        held = {tensor.name: (key, tensor) for key, tensor in enumerate(plan.tensors)}
        tensors = unpacked(plan.tensors, target.parent, stack)
        for record in stated(tensors):
            check_crc(record)
        size = write_archive(output.fd, target.stem, pickle_of(plan.structure.value, held), tensors, advance)
        check_sources(plan)
        check()
    return size


Held = dict[str, tuple[int, Tensor]]
"""By its name in the structure, each tensor as the plan has it now (a step may have cast it) and its storage's key."""


def pickle_of(value: Any, held: Held) -> bytes:
    """A protocol 2 pickle of plain values and tensors, as torch.save writes it but without a memo."""
    return b"\x80\x02" + dump(value, held) + b"."


def dump(value: Any, held: Held) -> bytes:
    match value:
        case None | bool():
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"J" + pack("<i", value) if -(1 << 31) <= value < 1 << 31 else b"\x8a" + pack("<B", len(data)) + data
        case float():
            return b"G" + pack(">d", value)
        case str():
            data = value.encode("utf-8", "surrogatepass")
            return b"X" + pack("<I", len(data)) + data
        case list():
            return b"](" + b"".join(dump(part, held) for part in value) + b"e"
        case tuple():
            return b"(" + b"".join(dump(part, held) for part in value) + b"t"
        case dict():
            return b"}(" + b"".join(dump(key, held) + dump(part, held) for key, part in value.items()) + b"u"
        case Tensor():
            return dump_tensor(value.name, held)
    raise TypeError(f"not a plain value: {type(value)}")


def dump_tensor(name: str, held: Held) -> bytes:
    """`_rebuild_tensor_v2` on a storage of its own, row-major."""
    if name not in held:
        raise Refused(
            f"tensor {escape(name)}: a hypernetwork cannot be written without it",
            "keep all tensors, or write safetensors",
        )
    key, tensor = held[name]
    storage = STORAGE_OF.get(tensor.dtype)
    if storage is None:
        raise Refused(
            f"tensor {escape(tensor.name)}: {tensor.dtype} has no place in a hypernetwork", "convert it to safetensors"
        )
    count = tensor.nbytes * 8 // BITS[tensor.dtype]
    pid = (
        b"("
        + dump("storage", {})
        + f"ctorch\n{storage}\n".encode()
        + dump(str(key), {})
        + dump("cpu", {})
        + dump(count, {})
        + b"tQ"
    )
    view = dump(0, {}) + dump(tensor.shape, {}) + dump(row_major(tensor.shape), {})
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + view + b"\x89ccollections\nOrderedDict\n)RtR"


def inline(name: str, data: bytes) -> Tensor:
    return Tensor(name, "U8", (len(data),), Inline(data))


def write_archive(fd: int, root: str, pickle: bytes, tensors: list[Tensor], advance: Advance) -> int:
    """A stored zip with the records of torch's format, each aligned to 64 bytes. Returns its size."""
    records = [inline("data.pkl", pickle), inline("byteorder", b"little")]
    records += [Tensor(f"data/{i}", t.dtype, t.shape, t.data) for i, t in enumerate(tensors)]
    records.append(inline("version", b"3\n"))
    directory, position = b"", 0
    for record in records:
        name = f"{root}/{record.name}".encode("utf-8", "replace")
        if position + record.nbytes + 65536 > MAX_SIZE:
            raise Refused("a hypernetwork of more than 4 GB", "convert it to safetensors")
        padding = -(position + 30 + len(name) + 4) % ALIGNMENT
        begin = position + 30 + len(name) + 4 + padding
        crc = 0
        for at, piece in pieces(record.data):  # before its header, which states the sum
            crc = zlib_ng.crc32(piece, crc)
            write_at(fd, piece, begin + at)
            advance(len(piece))
        fields = pack("<4HIII", 0x0800, 0, 0, 0x0021, crc, record.nbytes, record.nbytes)
        extra = b"FB" + pack("<H", padding) + b"Z" * padding
        write_at(fd, b"PK\x03\x04\x14\x00" + fields + pack("<HH", len(name), len(extra)) + name + extra, position)
        directory += b"PK\x01\x02\x14\x00\x14\x00" + fields + pack("<5H2I", len(name), 0, 0, 0, 0, 0, position) + name
        position = begin + record.nbytes
    end = pack("<4s4H2IH", b"PK\x05\x06", 0, 0, len(records), len(records), len(directory), position, 0)
    write_at(fd, directory + end, position)
    return position + len(directory) + len(end)
