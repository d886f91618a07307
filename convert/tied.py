"""Tensors that are the same bytes under several names: written once when asked, the others named in the metadata."""

from dataclasses import replace

from ckptool.tensor import Cast, Data, Dropped, Inline, Mapped, Plan, Tensor


def alias(plan: Plan) -> Plan:
    """Keep one tensor of each group of identical views and name the others in the metadata as `other: kept`.

    The kept name is the first in order, as safetensors' own torch helper chooses it. Views that merely overlap stay.
    """
    kept: dict[object, str] = {}
    for tensor in sorted(plan.tensors, key=lambda t: t.name):
        kept.setdefault(identity(tensor), tensor.name)
    tensors: list[Tensor] = []
    dropped: list[Dropped] = []
    metadata = dict(plan.metadata)
    for tensor in plan.tensors:
        name = kept[identity(tensor)]
        if name == tensor.name:
            tensors.append(tensor)
        else:
            metadata.setdefault(tensor.name, name)
            dropped.append(Dropped(tensor.name, f"tied to {name}, which is written"))
    return replace(plan, tensors=tuple(tensors), dropped=(*plan.dropped, *dropped), metadata=metadata)


def identity(tensor: Tensor) -> object:
    """Equal for tensors that are the same view of the same bytes."""
    return (tensor.dtype, tensor.shape, place(tensor.data) or tensor.name)


def place(data: Data) -> object:
    match data:
        case Mapped():
            return None if place(data.data) is None else ("mapped", place(data.data), data.change)
        case Cast():
            return None if place(data.data) is None else ("cast", place(data.data), data.convert)
        case Inline():
            return None
        case _:
            record = data.record
            return (id(record.source), record.offset, record.packed, data.offset, getattr(data, "strides", None))
