"""Lower the rank of a LoRA by the exact singular values of each module, and turn other algorithms into plain LoRA.

step = RankStep(rank=8)                 # or "auto", or energy=0.99; to_lora=True; folder for the temporary file
plan = step(plan)                       # Refused for a file without modules, UsageError for a rank of 0
report = plan_data(…) | step.data(plan)
lines = rank_lines(report, verbose)
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ckptool.errors import Refused
from ckptool.identify.adapters import AdapterModule, modules
from ckptool.prune.effort import Effort
from ckptool.prune.rank_choice import Choice
from ckptool.prune.rank_metadata import Now, brought_in_line
from ckptool.prune.rank_module import Change, Outcome, Reducer
from ckptool.prune.rank_names import is_sd1
from ckptool.prune.rank_peft import read_settings
from ckptool.prune.rank_report import rank_data, rank_lines
from ckptool.prune.rank_spool import Spool
from ckptool.prune.rank_update import LINEAR, PLAIN, Reader
from ckptool.prune.svd import Unfit
from ckptool.report import Report
from ckptool.tensor import Dropped, Plan, Tensor

__all__ = ["RankStep", "Reduced", "rank_lines", "reduce"]


@dataclass(slots=True, eq=False)
class Reduced:
    """The new plan, and what became of each module."""

    plan: Plan
    nbytes_before: int
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    untouched: dict[str, str] = field(default_factory=dict)
    """Modules that cannot be lowered or turned, each with the reason."""
    rescaled: int = 0
    """Changed modules with a dora_scale, which stays as it is."""


class RankStep:
    """The step of one run, which remembers what it did for the report."""

    def __init__(
        self,
        rank: int | Literal["auto"] | None = None,
        energy: float | None = None,
        to_lora: bool = False,
        folder: Path | None = None,
    ) -> None:
        self.choice = Choice(rank, energy)
        self.to_lora = to_lora
        self.folder = folder
        self.reduced: Reduced | None = None

    def __call__(self, plan: Plan) -> Plan:
        self.reduced = reduce(plan, self.choice, self.to_lora, self.folder)
        return self.reduced.plan

    def data(self, _: Plan) -> Report:
        """The keys `rank` and `ranks` of the report; nothing before the step was made."""
        return rank_data(self.reduced) if self.reduced is not None else {}


def reduce(plan: Plan, choice: Choice, to_lora: bool = False, folder: Path | None = None) -> Reduced:
    """Lower the rank of every module that has a higher one; those that stay keep every bit.

    Memory is that of one module. Raises Refused for a file without modules, Unwritable when `folder` (the one for
    temporary files by default) has no room for the new factors.
    """
    every = modules(plan)
    if not every:
        raise Refused("it holds no modules of a LoRA", "a rank can be lowered in LoRA and LyCORIS files only")
    names = frozenset(tensor.name for tensor in plan.tensors)
    settings = read_settings(plan.metadata, every.values())
    effort = Effort.of(plan.nbytes)
    reducer = Reducer(choice, Spool(folder), Reader(), settings, is_sd1(every.values()), names, effort)
    reduced = Reduced(plan, plan.nbytes)
    changes: dict[str, Change] = {}
    for name, module in every.items():
        try:
            became = reduced_module(module, reducer, to_lora)
        except Unfit as reason:
            reduced.untouched[name] = str(reason)
            continue
        reduced.outcomes[name] = became.outcome if isinstance(became, Change) else became
        if isinstance(became, Change):
            changes[name] = became
            reduced.rescaled += "dora_scale" in module.parts
    if changes:
        plain = to_lora and all(name in changes or module.algorithm in PLAIN for name, module in every.items())
        now = [changes[name].now if name in changes else as_it_is(module) for name, module in every.items()]
        metadata = brought_in_line(plan.metadata, settings, [item for item in now if item is not None], plain)
        reduced.plan = with_changes(replace(plan, metadata=metadata), changes.values())
    return reduced


def reduced_module(module: AdapterModule, reducer: Reducer, to_lora: bool) -> Change | Outcome:
    if module.algorithm in PLAIN:
        return reducer.lower(module)
    if module.algorithm == "unknown":
        raise Unfit("its parts make up no known algorithm")
    if module.algorithm not in LINEAR:
        raise Unfit(f"{module.algorithm} has no rank that can be lowered")
    if not to_lora:
        raise Unfit(f"{module.algorithm} is lowered only when it is turned into plain LoRA (--to-lora)")
    return reducer.turn(module)


def as_it_is(module: AdapterModule) -> Now | None:
    """What the metadata say of a module that stays; None of one that they do not count."""
    shape, rank = module.shape, module.rank
    alpha = module.alpha
    if module.algorithm not in PLAIN or shape is None or rank is None or ("alpha" in module.parts and alpha is None):
        return None
    return Now(module.layer, rank, alpha, any(length > 1 for length in shape[2:]))


def with_changes(plan: Plan, changes: Iterable[Change]) -> Plan:
    """New tensors in the place of those of the same name, the others at the end; what is dropped with its reason."""
    new: dict[str, Tensor] = {}
    dropped: list[Dropped] = []
    for change in changes:
        new |= {tensor.name: tensor for tensor in change.tensors}
        dropped.extend(change.dropped)
    gone = {item.name for item in dropped}
    tensors = [new.pop(tensor.name, tensor) for tensor in plan.tensors if tensor.name not in gone]
    return replace(plan, tensors=(*tensors, *new.values()), dropped=(*plan.dropped, *dropped))
