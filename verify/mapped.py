"""Weights as torch sees them: mapped from the file where that is possible, made for the moment where it is not."""

import mmap
import warnings
from math import prod
from typing import TYPE_CHECKING, Any

from ckptool.convert.gather import pieces
from ckptool.convert.numbers import in_memory
from ckptool.errors import Malformed, OverBudget
from ckptool.source import File
from ckptool.tensor import BITS, Span, Tensor
from ckptool.verify.ldm_extra import Weight

if TYPE_CHECKING:
    import torch

LARGEST = 1 << 31
"""Bytes that are made at once: no layer of these networks has a tenth of it."""

ALIGNED = 64
"""Bytes. From another place on a matrix is multiplied in another order: two copies of a file would differ in the
last bits by the length of their headers (measured: MKL, vectors times matrices)."""

TYPES: dict[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""Dtypes that can be computed with, as torch names them."""


class Maps:
    """Files mapped read-only, each once, for as long as a tensor looks at them."""

    def __init__(self) -> None:
        self._maps: dict[int, tuple[File, mmap.mmap]] = {}

    def view(self, tensor: Tensor) -> "torch.Tensor | None":
        """The values in the file's own dtype, flat, without a copy; None where their bytes do not lie so."""
        import torch

        data = tensor.data
        if not isinstance(data, Span) or data.record.packed is not None or not isinstance(data.record.source, File):
            return None
        start, width = data.record.offset + data.offset, BITS[tensor.dtype] // 8
        count = prod(tensor.shape)
        if tensor.dtype not in TYPES or start % width or not count:
            return None
        whole = self._map(data.record.source)
        if start + count * width > len(whole):
            raise Malformed(f"tensor {tensor.name!r:.80} ends beyond its file", "download or copy the file again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that it could write there; nothing here does
            return torch.frombuffer(whole, dtype=getattr(torch, TYPES[tensor.dtype]), count=count, offset=start)

    def _map(self, source: File) -> mmap.mmap:
        known = self._maps.get(id(source))
        if known is None:
            source.check_unchanged()
            known = self._maps[id(source)] = source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
        return known[1]

    def check_unchanged(self) -> None:
        """Raise when a file was written to while it was looked at."""
        for source, _ in self._maps.values():
            source.check_unchanged()

    def values(self, tensor: Tensor) -> "torch.Tensor":
        """The values in the tensor's own dtype, flat: a view of the file, or made."""
        view = self.view(tensor)
        return made(tensor) if view is None else view


def made(tensor: Tensor) -> "torch.Tensor":
    """The values of a tensor whose bytes have to be gathered, changed or unpacked first, flat."""
    import torch

    if tensor.dtype not in TYPES:
        raise Malformed(f"tensor {tensor.name!r:.80}: {tensor.dtype} cannot be computed with", "convert it first")
    if tensor.nbytes > LARGEST:
        raise OverBudget(f"tensor {tensor.name!r:.80}: {tensor.nbytes:,} bytes are too many to hold", "do not trust it")
    flat: torch.Tensor = torch.empty(prod(tensor.shape), dtype=getattr(torch, TYPES[tensor.dtype]))
    target: Any = flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
    for offset, piece in pieces(in_memory(tensor.data)):
        target[offset : offset + len(piece)] = piece
    return flat


def shaped(weight: Weight, flat: "torch.Tensor", shape: tuple[int, ...]) -> "torch.Tensor":
    """The part that a layer wants, in the shape that it wants. Always a view."""
    number, count = weight.part
    length = flat.numel() // count
    part = flat[number * length : (number + 1) * length]
    if weight.transposed:
        rows, columns = weight.shape
        return part.view(rows, columns).T
    return part.view(shape)


def resident(weight: Weight, maps: Maps, shape: tuple[int, ...]) -> "torch.Tensor | None":
    """The parameter as it lies in the file, where it can be used there; None where it has to be made."""
    if weight.tensor.dtype != "F32" or weight.change is not None or weight.transposed:
        return None
    view = maps.view(weight.tensor)
    if view is None:
        return None
    part = shaped(weight, view, shape)
    # Kernels too: over a picture of a few pixels a convolution is a product of matrices, where they lie. What is added
    # or multiplied number by number has no order.
    is_matrix = len(shape) > 1
    return None if is_matrix and part.data_ptr() % ALIGNED else part


def fill(weight: Weight, maps: Maps, out: "torch.Tensor") -> None:
    """Write the parameter into `out`, which is F32 and has its shape."""
    out.copy_(shaped(weight, maps.values(weight.tensor), tuple(out.shape)))
    if weight.scale is not None and prod(weight.scale.shape) in (1, out.shape[0]):
        factor = maps.values(weight.scale).to(out.dtype)
        out.mul_(factor.view(-1, *[1] * (out.dim() - 1)))
    if weight.change is not None:
        weight.change(out)
