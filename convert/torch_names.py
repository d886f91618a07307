"""What the closed set of torch's names means: storages, dtypes and the functions that rebuild tensors.

Source: torch/_utils.py, torch/serialization.py, torch/_tensor.py and torch/csrc/jit/serialization/pickler.cpp.
"""

from collections.abc import Callable
from functools import lru_cache

from ckptool.convert import torch_modules
from ckptool.convert.values import (
    INERT,
    Dict,
    DType,
    Module,
    Rebuilt,
    Ref,
    Set,
    Storage,
    StorageType,
    Unusable,
    Value,
)
from ckptool.tensor import BITS

WRITING = frozenset({"data", "real", "imag", "__class__", "__dict__"})
"""Attributes of a tensor that change what it holds or is."""
MAX_RANK = 64
MAX_DIM = (1 << 63) - 1

# torch's dtype name -> safetensors' code; None where safetensors has no such type.
DTYPES: dict[str, str | None] = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL", "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ", "float4_e2m1fn_x2": "F4",
    "complex128": None, "complex32": None, "qint8": None, "quint8": None, "qint32": None,
    "quint4x2": None, "quint2x4": None, "bits8": None, "bits16": None, "bits1x8": None, "bits2x4": None,
    "bits4x2": None,
}  # fmt: skip
# Widths, in bytes, of the dtypes above that safetensors does not have: their storages are still measured.
FOREIGN_WIDTHS: dict[str, int] = {"complex128": 16, "complex32": 4, "qint32": 4, "bits16": 2}

WIDTHS: dict[str, int] = {
    name: max(1, BITS[code] // 8) if code else FOREIGN_WIDTHS.get(name, 1) for name, code in DTYPES.items()
}

STORAGES: dict[str, str] = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool", "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32", "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}  # fmt: skip

# Functions that rebuild what safetensors cannot hold: refused by name where a tensor is needed.
UNSUPPORTED: dict[str, str] = {
    "_rebuild_qtensor": "a quantized tensor",
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a meta tensor, which has no data",
    "_rebuild_wrapper_subclass": "a tensor subclass without data of its own",
    "_rebuild_device_tensor_from_numpy": "a tensor of a device that torch rebuilds through numpy",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor that torch rebuilds on a device",
}


def width_of(dtype: DType) -> int:
    """Bytes of one element of a storage (two F4 values share a byte, and torch counts the byte)."""
    return WIDTHS[dtype.name]


def is_count(value: Value) -> bool:
    """An int and nothing that merely behaves like one, in the range of a signed 64-bit size."""
    return type(value) is int and 0 <= value <= MAX_DIM


META = Unusable("it is a meta tensor, which has no data", "save it again with its data")


@lru_cache(1024)  # a file may make the same mistake a million times
def damaged(what: str) -> Unusable:
    return Unusable(what, "the file is damaged or forged: get another copy", damaged=True)


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous tensor."""
    strides: list[int] = []
    step = 1
    for number in reversed(shape):
        strides.append(step)
        step *= number
    return tuple(reversed(strides))


def check_view(offset: Value, shape: Value, strides: Value, available: int) -> str | None:
    """What is wrong with a view of `available` elements, or None. All in Python integers, before anything is read."""
    if not is_count(offset):
        return "its storage offset is not a size"
    for name, sizes in (("shape", shape), ("strides", strides)):
        if type(sizes) is not tuple or len(sizes) > MAX_RANK:
            return f"its {name} is not a tuple of at most {MAX_RANK} sizes"
        for number in sizes:
            if type(number) is not int or not 0 <= number <= MAX_DIM:
                return f"its {name} is not a tuple of at most {MAX_RANK} sizes"
    if len(shape) != len(strides):
        return "it has not as many strides as dimensions"
    if 0 in shape:
        return None
    last: int = offset
    for number, stride in zip(shape, strides, strict=True):
        last += (number - 1) * stride
    if last >= available:
        return f"it reaches to element {last:,} of a storage that has {available:,}"
    return None


def rebuild(storage: Value, offset: Value, shape: Value, strides: Value, dtype: DType, metadata: Value = None) -> Value:
    """A tensor on a storage, or why there can be none."""
    if type(storage) is not Storage:
        return storage if type(storage) is Unusable else damaged("its storage is not a storage")
    wrong = check_view(offset, shape, strides, storage.nbytes // width_of(dtype))
    if wrong:
        return damaged(wrong)
    if dtype.code is None:
        return Unusable(
            f"its dtype {dtype.name} does not exist in safetensors", "cast it with torch first, or leave it out"
        )
    if metadata is None and dtype.code != "F4":
        return Rebuilt(dtype.code, shape, strides, offset, storage)
    conj, neg = flag(metadata, "conj"), flag(metadata, "neg")
    if conj is None or neg is None:
        return damaged("it is marked in a way that no writer uses")
    if (conj and dtype.code != "C64") or (neg and dtype.code not in ("C64", "F64", "F32", "F16", "BF16")):
        return damaged(f"a {dtype.name} tensor is marked as conjugate or negated")
    if dtype.code == "F4" and (not shape or strides != row_major(shape)):
        return Unusable("packed 4-bit floats are not contiguous", "make the tensor contiguous with torch first")
    return Rebuilt(dtype.code, shape, strides, offset, storage, conj=conj, neg=neg)


def flag(metadata: Value, name: str) -> bool | None:
    """Whether a mark is set; None where it is there with another value, for torch looks at the key alone."""
    if type(metadata) is not Dict:
        return False
    values = [value for key, value in metadata.pairs if type(key) is str and key == name]
    return None if any(value is not True for value in values) else bool(values)


def rebuild_tensor(
    storage: Value = None, offset: Value = None, shape: Value = None, strides: Value = None, *_: Value
) -> Value:
    """`_rebuild_tensor(storage, storage_offset, size, stride)`: the dtype is the storage's."""
    return rebuild_typed(storage, offset, shape, strides)


def rebuild_tensor_v2(*args: Value) -> Value:
    """`_rebuild_tensor_v2(storage, storage_offset, size, stride, requires_grad, backward_hooks, metadata=None)`."""
    if not 6 <= len(args) <= 7:
        return damaged(f"_rebuild_tensor_v2 has {len(args)} arguments")
    return rebuild_typed(args[0], args[1], args[2], args[3], args[6] if len(args) == 7 else None)


def rebuild_typed(storage: Value, offset: Value, shape: Value, strides: Value, metadata: Value = None) -> Value:
    """A tensor of the dtype of its storage."""
    if type(storage) is not Storage or storage.dtype is None:
        return storage if type(storage) is Unusable else damaged("its storage is not a typed storage")
    return rebuild(storage, offset, shape, strides, storage.dtype, metadata)


def rebuild_tensor_v3(*args: Value) -> Value:
    """As v2, with a dtype before the metadata; the storage counts bytes."""
    if not 7 <= len(args) <= 8 or type(args[6]) is not DType:
        return damaged("_rebuild_tensor_v3 has no dtype")
    return rebuild(args[0], args[1], args[2], args[3], args[6], args[7] if len(args) == 8 else None)


def rebuild_parameter(
    data: Value = None, requires_grad: Value = None, hooks: Value = None, state: Value = None
) -> Value:
    """A Parameter is its data, unless its state sets another."""
    if sets_tensor(state):
        return damaged("its state holds tensors, and could replace its data")
    if type(data) in (Rebuilt, Unusable):
        return data
    return Unusable("a Parameter's data is no tensor that is known", "only a tensor of torch's own can be converted")


def sets_tensor(state: Value) -> bool:
    """Torch sets each entry of a state as an attribute, and some attributes write to the tensor."""
    parts = state if type(state) is tuple else (state,)
    if any(part is not None and type(part) is not Dict for part in parts):
        return True  # its entries are not known
    pairs = [pair for part in parts if part is not None for pair in part.pairs]
    return any(
        type(key) is not str or key in WRITING or type(value) in (Rebuilt, Unusable, Storage) for key, value in pairs
    )


def rebuild_from_type(function: Value = None, kind: Value = None, args: Value = None, state: Value = None) -> Value:
    """`_rebuild_from_type_v2(func, type, args, state)`: a subclass, read as the tensor that a listed function makes."""
    if type(function) is Ref and type(args) is tuple:
        meaning = REBUILDERS.get((function.module, function.name))
        if meaning is not None and type(kind) is Ref:
            return damaged("its state holds tensors") if sets_tensor(state) else meaning(*args)
    return INERT


def unsupported(what: str) -> Callable[..., Value]:
    return lambda *_: Unusable(f"it is {what}", "make it a plain dense tensor with the program that wrote it")


REBUILDERS: dict[tuple[str, str], Callable[..., Value]] = {
    ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): rebuild_parameter,
    **{("torch._utils", name): unsupported(what) for name, what in UNSUPPORTED.items()},
}


def make_dict(*args: Value) -> Value:
    """A dict subclass, empty or from a list of pairs as Python 2 wrote it."""
    if len(args) == 1 and type(args[0]) is list and all(type(p) in (list, tuple) and len(p) == 2 for p in args[0]):
        return Dict([(pair[0], pair[1]) for pair in args[0]])
    if len(args) == 1 and type(args[0]) is Dict:
        return Dict(list(args[0].pairs))
    return INERT if args else Dict()


def make_default_dict(factory: Value = None, *args: Value) -> Value:
    """`defaultdict(factory)`: the factory is only ever a name here."""
    return make_dict(*args) if factory is None or type(factory) is Ref else INERT


def make_set(*args: Value) -> Value:
    if not args:
        return Set([])
    return Set(list(args[0])) if len(args) == 1 and type(args[0]) in (list, tuple) else INERT


def make_size(*args: Value) -> Value:
    return args[0] if len(args) == 1 and type(args[0]) is tuple else INERT


def make_device(*args: Value) -> Value:
    """A device as text: where a tensor once lay means nothing here."""
    return ":".join(map(str, args)) if all(type(arg) in (str, int) for arg in args) else INERT


def container(kind: str) -> Callable[..., Value]:
    return lambda *_: Module(kind)


FUNCTIONS: dict[tuple[str, str], Callable[..., Value]] = {
    **REBUILDERS,
    ("torch._tensor", "_rebuild_from_type_v2"): rebuild_from_type,
    ("torch._tensor", "_rebuild_from_type"): rebuild_from_type,
    ("torch.tensor", "_rebuild_from_type"): rebuild_from_type,  # torch 1.7 and 1.8
    # TorchScript's typed lists: the value is the list itself.
    ("torch.jit._pickle", "restore_type_tag"): lambda value=None, *_: value,
    **{
        ("torch.jit._pickle", name): lambda value=None, *_: value
        for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist")
    },
}

CLASSES: dict[tuple[str, str], Callable[..., Value]] = {
    ("collections", "OrderedDict"): make_dict,
    ("collections", "defaultdict"): make_default_dict,
    ("torch", "Size"): make_size,
    ("torch", "device"): make_device,
    **{(module, name): make_set for module in ("builtins", "__builtin__") for name in ("set", "frozenset")},
    **{(module, "dict"): make_dict for module in ("builtins", "__builtin__")},
    **{pair: container(name) for pair, name in torch_modules.NAMES.items()},
}

CONSTANTS: dict[tuple[str, str], Value] = {
    **{("torch", name): DType(code, name) for name, code in DTYPES.items()},
    **{
        (module, name): StorageType(DType(DTYPES[dtype], dtype))
        for name, dtype in STORAGES.items()
        for module in ("torch", "torch.cuda", "torch.storage")
    },
    ("torch.storage", "UntypedStorage"): StorageType(None),
    ("torch", "UntypedStorage"): StorageType(None),
    ("torch.storage", "_UntypedStorage"): StorageType(None),
}
