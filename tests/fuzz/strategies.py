"""Hypothesis strategies for what torch.save writes: nested state dicts of tensors of every dtype and shape."""

import io
from collections import OrderedDict
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from hypothesis import strategies as st

DTYPES: dict[torch.dtype, str] = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32",
    torch.int64: "I64", torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64", torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.float8_e8m0fnu: "F8_E8M0",
}  # fmt: skip
FLIPPABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)
COUNT = 32
"""Elements of a storage."""
RESERVED = {"ema", "net", "opt", "model", "params", "module", "scaler", "loops"}
"""Names of state dicts and training state, which are not names of tensors in these trees."""
WORDS = st.text("abcxyz_0123456789é模", min_size=1, max_size=6).filter(lambda text: text not in RESERVED)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
WEIGHTS_ONLY_PROTOCOL = 2


@dataclass(frozen=True)
class Saved:
    """A file as torch.save wrote it."""

    data: bytes
    protocol: int
    zipped: bool


@st.composite
def storages(draw: st.DrawFn) -> torch.Tensor:
    """A flat tensor of random bytes."""
    dtype = draw(st.sampled_from(list(DTYPES)))
    raw = bytearray(draw(st.binary(min_size=COUNT * dtype.itemsize, max_size=COUNT * dtype.itemsize)))
    if dtype is torch.bool:
        raw = bytearray(byte & 1 for byte in raw)
    return torch.frombuffer(raw, dtype=torch.uint8).clone().view(dtype)


@st.composite
def views(draw: st.DrawFn, base: torch.Tensor) -> torch.Tensor:
    """Any view of a storage: offsets, strides (0 too), 0-D, empty, conjugate, negated, a Parameter."""
    offset = draw(st.integers(0, COUNT - 1))
    room = COUNT - 1 - offset
    shape: list[int] = []
    strides: list[int] = []
    for _ in range(draw(st.integers(0, 4))):
        stride = draw(st.integers(0, 8))
        size = draw(st.integers(0, min(5, room // stride + 1 if stride else 5)))
        room -= max(size - 1, 0) * stride
        shape.append(size)
        strides.append(stride)
    view = base.as_strided(shape, strides, offset) if draw(st.booleans()) else base[offset:]
    if draw(st.booleans()) and base.dtype is torch.complex64:
        view = view.conj()
    if base.dtype in FLIPPABLE and draw(st.sampled_from([False, False, True])):
        view = torch._neg_view(view)
    if base.is_floating_point() and not view.is_neg() and draw(st.sampled_from([False, False, True])):
        return torch.nn.Parameter(view, requires_grad=draw(st.booleans()))
    return view


@st.composite
def trees(draw: st.DrawFn) -> dict[Any, Any]:
    """A dict with at least one tensor, of containers that share storages and tensors."""
    bases = draw(st.lists(storages(), min_size=1, max_size=3))
    tensors = [draw(views(draw(st.sampled_from(bases)))) for _ in range(draw(st.integers(1, 5)))]
    leaf = st.sampled_from(tensors) | PLAIN
    keys = WORDS | st.integers(0, 99)
    parts = st.recursive(
        leaf,
        lambda inner: (
            st.dictionaries(keys, inner, max_size=4)
            | st.dictionaries(keys, inner, max_size=4).map(OrderedDict)
            | st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
        ),
        max_leaves=12,
    )
    tree = draw(st.dictionaries(WORDS, parts, max_size=5))
    tree[draw(WORDS)] = tensors[0]
    return {"state_dict": tree, "epoch": 7} if draw(st.booleans()) else tree


@st.composite
def saved(draw: st.DrawFn, tree: Any) -> Saved:
    """A tree as a file of either format."""
    zipped = draw(st.booleans())
    protocol = draw(st.sampled_from([2, 2, 3, 4, 5]))
    file = io.BytesIO()
    torch.save(tree, file, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return Saved(file.getvalue(), protocol, zipped)


def load(file: Saved) -> Any:
    """What torch makes of it, by its restricted loader where that knows the protocol."""
    return torch.load(io.BytesIO(file.data), weights_only=file.protocol == WEIGHTS_ONLY_PROTOCOL)


def is_loadable(file: Saved) -> bool:
    """Torch can't read what it writes in its old format for dtypes that have no storage class of their own."""
    return file.zipped or b"UntypedStorage" not in file.data


Expected = dict[str, tuple[str, tuple[int, ...], bytes]]


class Clash(Exception):
    """Two tensors of a tree have the same flat name, or a tensor has none."""


def expected(value: Any) -> Expected:
    """Name → (dtype, shape, bytes) of every tensor in a tree."""
    found: Expected = {}
    collect(found, "", value["state_dict"] if isinstance(value, dict) and "state_dict" in value else value)
    return found


def collect(found: Expected, name: str, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        if name in found:
            raise Clash(name)
        found[name] = (DTYPES[value.dtype], tuple(value.shape), contents(value))
    elif isinstance(value, dict):
        for key, part in value.items():
            collect(found, f"{name}.{key}" if name else str(key), part)
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            collect(found, f"{name}.{index}" if name else str(index), part)


def contents(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor in row-major order; signs flipped as bits, so that a NaN keeps its payload."""
    if tensor.numel() == 0:
        return b""
    plain = tensor.detach()
    neg, conj = plain.is_neg(), plain.is_conj()
    plain = torch._neg_view(plain) if neg else plain
    plain = plain.conj() if conj else plain
    dense = torch.empty(prod(plain.shape), dtype=plain.dtype)  # .contiguous() keeps odd strides of one element
    dense.view(plain.shape).copy_(plain)
    raw = dense.view(torch.uint8)
    part = 4 if tensor.dtype is torch.complex64 else tensor.dtype.itemsize
    numbers = raw.view(-1, part)
    if neg:
        numbers[:, part - 1] ^= 0x80
    if conj:
        numbers[1::2, part - 1] ^= 0x80
    return bytes(raw.numpy().tobytes())
