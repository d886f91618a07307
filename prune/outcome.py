"""What a prune did beside leaving tensors out: for its report."""

from dataclasses import dataclass, field, replace
from typing import Any

from ckptool.errors import Refused
from ckptool.tensor import Dropped, Plan, Structure, Tensor
from ckptool.text import escape


@dataclass(slots=True, eq=False)
class Outcome:
    """Filled step by step; the names are those of the source."""

    renamed: list[tuple[str, str]] = field(default_factory=list)
    """Old and new names."""
    exchanged: list[tuple[str, str]] = field(default_factory=list)
    """The same of averages that took the place of weights: their old names mean nothing any more."""
    groups: dict[str, tuple[int, int]] = field(default_factory=dict)
    """What was left out, by reason: tensors and bytes."""
    restored: bool = False
    """Averages got the names of weights that the file lacks: what it was could not be told before."""

    def count(self, reason: str, tensors: int, nbytes: int) -> None:
        before = self.groups.get(reason, (0, 0))
        self.groups[reason] = (before[0] + tensors, before[1] + nbytes)


def leave_out(plan: Plan, reasons: dict[str, str], group: str, outcome: Outcome) -> Plan:
    """The plan without the tensors that have a reason; `group` names them together for people."""
    gone = [tensor for tensor in plan.tensors if tensor.name in reasons]
    if not gone:
        return plan
    outcome.count(group, len(gone), sum(tensor.nbytes for tensor in gone))
    dropped = tuple(Dropped(tensor.name, reasons[tensor.name]) for tensor in gone)
    kept = tuple(tensor for tensor in plan.tensors if tensor.name not in reasons)
    return replace(plan, tensors=kept, dropped=(*plan.dropped, *dropped))


def renamed(plan: Plan, names: dict[str, str], outcome: Outcome) -> Plan:
    """The plan with tensors under new names. Raises Refused when two would have the same."""
    tensors: dict[str, Tensor] = {}
    for tensor in plan.tensors:
        name = names.get(tensor.name, tensor.name)
        if name in tensors:
            raise Refused(f"two tensors would be named {escape(name)}", "convert it as it is: ckptool convert")
        tensors[name] = tensor if name == tensor.name else replace(tensor, name=name)
    pairs = zip(plan.tensors, tensors, strict=True)
    outcome.renamed += [(tensor.name, name) for tensor, name in pairs if tensor.name != name]
    return replace(plan, tensors=tuple(tensors.values()))


def fitted(before: Plan, after: Plan) -> Plan:
    """The plan with a structure (that of a hypernetwork) that holds the tensors of the plan and no others."""
    if after.structure is None:
        return after
    new = after.dropped[len(before.dropped) :]
    kept = {tensor.name for tensor in after.tensors}
    value = only(after.structure.value, kept)
    return replace(after, structure=Structure(value, (*after.structure.dropped, *new)))


def only(value: Any, kept: set[str]) -> Any:
    """Plain values without the tensors that are left out. Its depth was bounded when it was read."""
    if isinstance(value, dict):
        return {key: only(part, kept) for key, part in value.items() if not is_gone(part, kept)}
    if isinstance(value, list | tuple):
        return type(value)(only(part, kept) for part in value if not is_gone(part, kept))
    return value


def is_gone(value: Any, kept: set[str]) -> bool:
    return isinstance(value, Tensor) and value.name not in kept
