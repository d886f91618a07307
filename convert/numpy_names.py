"""What the closed set of numpy's names means: arrays, dtypes and scalars, as numpy's own pickles write them.

Source: numpy/_core/src/multiarray/methods.c (`array_reduce`, `array_setstate`), numpy/_core/numeric.py (`_frombuffer`).
"""

from collections.abc import Callable
from math import prod
from struct import unpack

from ckptool.convert.torch_names import check_view, damaged, row_major
from ckptool.convert.values import INERT, Blob, Rebuilt, Ref, Storage, Unusable, Value
from ckptool.errors import Malformed
from ckptool.source import Memory, Record
from ckptool.tensor import BITS

CODES: dict[str, str] = {
    "b1": "BOOL", "i1": "I8", "u1": "U8", "i2": "I16", "u2": "U16", "f2": "F16", "i4": "I32", "u4": "U32", "f4": "F32",
    "i8": "I64", "u8": "U64", "f8": "F64", "c8": "C64",
}  # fmt: skip
SCALARS: dict[str, str] = {
    "b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "f2": "e", "i4": "i", "u4": "I", "f4": "f",
    "i8": "q", "u8": "Q", "f8": "d",
}  # fmt: skip


class ArrayType:
    """A numpy dtype: made from a code such as `f4`, its byte order given by one BUILD, before it is used."""

    __slots__ = ("big", "code", "settled")

    def __init__(self, code: str) -> None:
        self.code = code.lstrip("<>|=")
        self.big = code.startswith(">")
        self.settled = False

    def build(self, state: Value) -> None:
        """State is (version, byte order, …). Raises Malformed when arrays were made with it: they would change too."""
        if self.settled:
            raise Malformed("a numpy dtype is given a state when it has one", "do not trust the file")
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            self.code = "unknown"
        else:
            self.big = state[1] == ">"
        self.settled = True


class Array:
    """A numpy array: empty until a BUILD gives it (version, shape, dtype, fortran order, data)."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Value = damaged("a numpy array without data")

    def build(self, state: Value) -> None:
        if type(state) is tuple and len(state) == 5:
            state = state[1:]
        if type(state) is not tuple or len(state) != 4 or type(state[2]) is not bool:
            self.value = damaged("a numpy array with a state that is not known")
            return
        shape, dtype, fortran, data = state
        self.value = array(data, dtype, shape, fortran)


def array(data: Value, dtype: Value, shape: Value, fortran: bool) -> Value:
    """The array as a tensor on its own bytes, or why it cannot be one."""
    if type(dtype) is not ArrayType:
        return damaged("a numpy array of a dtype that is not known")
    dtype.settled = True
    code = CODES.get(dtype.code)
    if code is None:
        return Unusable(f"a numpy array of dtype {dtype.code!r:.40}", "only arrays of plain numbers can be converted")
    record = bytes_of(data)
    if record is None:
        return damaged("a numpy array whose data are no bytes")
    width = BITS[code] // 8
    if type(shape) is not tuple or check_view(0, shape, (0,) * len(shape), 1):
        return damaged("a numpy array with a bad shape")
    if prod(shape) * width != record.size:
        return damaged(f"a numpy array of {prod(shape):,} × {width} bytes holds {record.size:,}")
    strides = tuple(reversed(row_major(tuple(reversed(shape))))) if fortran else row_major(shape)
    storage = Storage("", None, record.size, record)
    return Rebuilt(code, shape, strides, 0, storage, swap=dtype.big and width > 1)


def bytes_of(data: Value) -> Record | None:
    """Bytes, in the file or in memory. Text is refused: which bytes it means depends on who wrote it."""
    if type(data) is Blob:
        return None if data.text else data.record
    if type(data) is str and data.isascii():
        data = data.encode()
    return Record.whole(Memory(data, "numpy data")) if type(data) is bytes else None


def encode(text: Value = None, encoding: Value = "utf-8", *_: Value) -> Value:
    """`_codecs.encode(text, "latin1")`: how protocol 2 carries bytes."""
    if type(encoding) is not str or encoding not in ("latin1", "latin-1"):
        return INERT
    if type(text) is Blob and text.text:
        text = str(text.record.read(0, text.record.size), "utf-8", "surrogatepass")
    if type(text) is not str:
        return INERT
    try:
        return text.encode("latin1")
    except UnicodeEncodeError:
        return INERT


def make_bytes(*args: Value) -> Value:
    """`bytes()`."""
    if not args:
        return b""
    return args[0] if type(args[0]) in (bytes, Blob) else encode(*args)


def make_bytearray(*args: Value) -> Value:
    """`bytearray(bytes)`: bytes with an identity, since a call that is given them could write to them."""
    data = make_bytes(*args)
    return Blob(Record.whole(Memory(data, "a bytearray")), text=False) if type(data) is bytes else data


def reconstruct(kind: Value = None, *_: Value) -> Value:
    """`_reconstruct(ndarray, (0,), b"b")`."""
    if type(kind) is Ref and (kind.module, kind.name) == ("numpy", "ndarray"):
        return Array()
    return INERT


def frombuffer(
    data: Value = None, dtype: Value = None, shape: Value = None, order: Value = None, axes: Value = None
) -> Value:
    """`_frombuffer(buf, dtype, shape, order)`: protocol 5 with its buffers in line."""
    if order not in ("C", "F") or axes is not None:
        return damaged("a numpy array in an order that is not known")
    return array(data, dtype, shape, order == "F")


def scalar(dtype: Value = None, data: Value = None, *_: Value) -> Value:
    """A numpy scalar as the Python number it stands for."""
    if type(dtype) is not ArrayType:
        return INERT
    dtype.settled = True
    code = SCALARS.get(dtype.code)
    if type(data) is str and data.isascii():
        data = data.encode()
    if code is None or type(data) is not bytes or len(data) != int(dtype.code[1:]):
        return INERT
    return unpack((">" if dtype.big else "<") + code, data)[0]


def make_dtype(code: Value = None, *_: Value) -> Value:
    return ArrayType(code if type(code) is str and len(code) <= 16 else "unknown")


MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")

FUNCTIONS: dict[tuple[str, str], Callable[..., Value]] = {
    **{(module, "_reconstruct"): reconstruct for module in MULTIARRAY},
    **{(module, "scalar"): scalar for module in MULTIARRAY},
    **{(module, "_frombuffer"): frombuffer for module in NUMERIC},
    ("_codecs", "encode"): encode,
}
CLASSES: dict[tuple[str, str], Callable[..., Value]] = {
    ("numpy", "dtype"): make_dtype,
    ("numpy", "ndarray"): lambda *_: damaged("a numpy array without data"),
    **{(module, "bytes"): make_bytes for module in ("builtins", "__builtin__")},
    **{(module, "bytearray"): make_bytearray for module in ("builtins", "__builtin__")},
}
