"""Give the tensors of a state dict their bytes: which run of which record, and what must be done to it."""

from collections.abc import Callable
from math import prod

from ckptool.convert import elements
from ckptool.convert.torch_names import row_major
from ckptool.convert.values import Rebuilt, Storage
from ckptool.errors import OverBudget
from ckptool.source import Record
from ckptool.tensor import BITS, Data, Inline, Mapped, Span, Strided, Tensor
from ckptool.text import size

FLOOR = 1 << 28
FACTOR = 16
"""Output and inflated bytes stay below FLOOR + FACTOR × input: views and deflate can promise terabytes."""
BOMB = "no checkpoint grows like this: do not trust the file"


def place_all(
    tensors: dict[str, Rebuilt], locate: Callable[[Storage], Record], big_endian: bool, input_size: int
) -> tuple[Tensor, ...]:
    """Tensors with their data. Raises OverBudget before a byte is read."""
    placed: list[Tensor] = []
    packed: dict[int, int] = {}
    total = 0
    limit = FLOOR + FACTOR * input_size
    for name, rebuilt in tensors.items():
        total += prod(rebuilt.shape) * BITS[rebuilt.dtype] // 8
        if total > limit:
            raise OverBudget(
                f"its tensors would take more than {size(limit)} out of a file of {size(input_size)} (at {name!r:.80})",
                BOMB,
            )
        record = rebuilt.storage.record or locate(rebuilt.storage)
        if record.packed is not None:
            packed[record.offset] = record.size
        placed.append(place(name, rebuilt, record, big_endian))
    if sum(packed.values()) > limit:
        raise OverBudget(
            f"its records would inflate to more than {size(limit)} out of a file of {size(input_size)}", BOMB
        )
    return tuple(placed)


def place(name: str, rebuilt: Rebuilt, record: Record, big_endian: bool) -> Tensor:
    """One tensor. `record` is its whole storage."""
    packs = 2 if rebuilt.dtype == "F4" else 1  # two values share the byte that torch counts
    width = BITS[rebuilt.dtype] * packs // 8
    shape = rebuilt.shape
    data: Data
    if 0 in shape:
        data = Inline(b"")
    elif is_row_major(shape, rebuilt.strides):
        data = Span(record, rebuilt.offset * width, prod(shape) * width)
    else:
        data = Strided(record, width, rebuilt.offset, shape, rebuilt.strides)
    if packs > 1:
        shape = (*shape[:-1], shape[-1] * packs)
    own_bytes = rebuilt.storage.record is not None
    change = elements.change(rebuilt.dtype, rebuilt.swap or (big_endian and not own_bytes), rebuilt.conj, rebuilt.neg)
    if change is not None and not isinstance(data, Inline | Mapped):
        data = Mapped(data, width, change)
    return Tensor(name, rebuilt.dtype, shape, data)


def is_row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """The elements lie one after the other; a dimension of one element may have any stride."""
    if strides == row_major(shape):
        return True
    kept = [(n, stride) for n, stride in zip(shape, strides, strict=True) if n != 1]
    return tuple(stride for _, stride in kept) == row_major(tuple(n for n, _ in kept))
