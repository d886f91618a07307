"""Position ids that merging made float and inexact become integers from 0 again, when that is asked for."""

from dataclasses import dataclass, replace
from math import prod
from struct import pack
from typing import Any

from ckptool.convert.numbers import values
from ckptool.tensor import Inline, Plan, Tensor

NAME = "position_ids"
MOST = 1 << 16
"""Positions; CLIP has 77."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was wrong with the position ids of one encoder."""

    name: str
    dtype: str
    off: tuple[int, ...]
    """Positions whose id was not their own, as an integer reading of it sees."""


def repair(plan: Plan) -> tuple[Plan, tuple[Repaired, ...]]:
    """The plan with I64 position ids 0, 1, 2 …; those that are so already stay untouched."""
    found: list[Repaired] = []
    tensors: list[Tensor] = []
    for tensor in plan.tensors:
        wrong = wrong_with(tensor)
        if wrong is not None:
            found.append(wrong)
            count = tensor.shape[-1]
            tensor = replace(tensor, dtype="I64", data=Inline(pack(f"<{count}q", *range(count))))
        tensors.append(tensor)
    return replace(plan, tensors=tuple(tensors)), tuple(found)


def wrong_with(tensor: Tensor) -> Repaired | None:
    """What is wrong with position ids; None for what is right, or is none."""
    if tensor.name.rpartition(".")[2] != NAME or not tensor.shape or not 0 < tensor.shape[-1] <= MOST:
        return None
    count = tensor.shape[-1]
    if prod(tensor.shape) != count or tensor.dtype in ("BOOL", "C64"):
        return None
    try:
        held = values(tensor).reshape(-1)
    except KeyError:
        return None  # a dtype without numbers of whole bytes
    off = tuple(position for position in range(count) if as_read(held[position]) != position)
    return Repaired(tensor.name, tensor.dtype, off) if off or tensor.dtype != "I64" else None


def as_read(value: Any) -> int | None:
    """An id as a loader reads it: cut to an integer."""
    try:
        return int(value)
    except (ValueError, OverflowError):
        return None


def repaired_data(found: tuple[Repaired, ...]) -> list[dict[str, Any]]:
    return [{"name": item.name, "from": item.dtype, "to": "I64", "off": list(item.off)} for item in found]
