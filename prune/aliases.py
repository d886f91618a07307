"""Tensors that a safetensors file names in its metadata only, as `other: kept`: the bytes of `kept`, by two names."""

from collections.abc import Container
from dataclasses import dataclass, replace

from ckptool.convert.tied import identity
from ckptool.prune.outcome import Outcome
from ckptool.tensor import Plan, Tensor

RESERVED = frozenset({"format"})
"""Keys that are never the name of a tensor."""


@dataclass(frozen=True, slots=True)
class Aliases:
    """Other name -> the tensor that is written for it."""

    kept: dict[str, str]


def opened(plan: Plan, wanted: Container[str] | None = None) -> tuple[Plan, Aliases]:
    """The plan with a tensor for each alias, so that what becomes of either name is decided by itself.

    `wanted`: the names that are to be tensors, where not all are.
    """
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    kept = {
        other: name
        for other, name in plan.metadata.items()
        if name in tensors and other not in tensors and other not in RESERVED and (wanted is None or other in wanted)
    }
    if not kept:
        return plan, Aliases({})
    made: list[Tensor] = []
    others: dict[str, list[str]] = {}
    for other, name in kept.items():
        others.setdefault(name, []).append(other)
    for tensor in plan.tensors:
        made += [tensor, *(replace(tensor, name=other) for other in others.get(tensor.name, ()))]
    metadata = {key: value for key, value in plan.metadata.items() if key not in kept}
    return replace(plan, tensors=tuple(made), metadata=metadata), Aliases(kept)


def closed(plan: Plan, aliases: Aliases, outcome: Outcome) -> Plan:
    """The plan with aliases again where both names are left and still mean the same bytes.

    Where the tensor that was written is gone, its bytes are written under the other name.
    """
    if not aliases.kept:
        return plan
    names = dict((*outcome.exchanged, *outcome.renamed))
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    metadata = dict(plan.metadata)
    gone: set[str] = set()
    for other, kept in aliases.kept.items():
        alias, target = tensors.get(names.get(other, other)), tensors.get(names.get(kept, kept))
        if alias is None or target is None or target.name in gone or alias.name in metadata:
            continue
        if identity(alias) == identity(target):
            metadata[alias.name] = target.name
            gone.add(alias.name)
    return replace(
        plan,
        tensors=tuple(tensor for tensor in plan.tensors if tensor.name not in gone),
        metadata=metadata,
    )
